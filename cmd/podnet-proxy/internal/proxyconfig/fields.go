package proxyconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/kube-proxy/config/v1alpha1"
)

// flagOf names the flag that says the same as a field of the file, for errors. Fields without a flag are not in it.
var flagOf = map[string]string{
	"bindAddress": "bind-address", "healthzBindAddress": "healthz-bind-address", "metricsBindAddress": "metrics-bind-address", "mode": "proxy-mode",
	"oomScoreAdj": "oom-score-adj", "configSyncPeriod": "config-sync-period", "clusterCIDR": "cluster-cidr", "nodePortAddresses": "nodeport-addresses",
	"clientConnection.burst": "kube-api-burst", "clientConnection.qps": "kube-api-qps", "clientConnection.contentType": "kube-api-content-type",
	"hostnameOverride": "hostname-override", "detectLocalMode": "detect-local-mode", "detectLocal.bridgeInterface": "pod-bridge-interface",
	"detectLocal.interfaceNamePrefix": "pod-interface-name-prefix", "iptables.masqueradeBit": "iptables-masquerade-bit", "iptables.localhostNodePorts": "iptables-localhost-nodeports", "nftables.masqueradeBit": "iptables-masquerade-bit",
	"iptables.syncPeriod": "iptables-sync-period", "nftables.syncPeriod": "iptables-sync-period", "ipvs.syncPeriod": "ipvs-sync-period",
	"iptables.minSyncPeriod": "iptables-min-sync-period", "nftables.minSyncPeriod": "iptables-min-sync-period", "ipvs.minSyncPeriod": "ipvs-min-sync-period",
	"ipvs.scheduler": "ipvs-scheduler", "ipvs.excludeCIDRs": "ipvs-exclude-cidrs", "ipvs.tcpTimeout": "ipvs-tcp-timeout", "ipvs.tcpFinTimeout": "ipvs-tcpfin-timeout",
	"ipvs.udpTimeout": "ipvs-udp-timeout", "conntrack.maxPerCore": "conntrack-max-per-core", "conntrack.min": "conntrack-min",
	"conntrack.tcpEstablishedTimeout": "conntrack-tcp-timeout-established", "conntrack.tcpCloseWaitTimeout": "conntrack-tcp-timeout-close-wait",
	"conntrack.udpTimeout": "conntrack-udp-timeout", "conntrack.udpStreamTimeout": "conntrack-udp-timeout-stream", "logging.format": "logging-format",
	"featureGates": "feature-gates", "showHiddenMetricsForVersion": "show-hidden-metrics-for-version", "logging.vmodule": "vmodule", "logging.flushFrequency": "log-flush-frequency",
}

// ignored are the fields that podnet-proxy takes and does not use, with the reason. Below each stands when it says something.
var ignored = []struct {
	field  string
	says   func(k *v1alpha1.KubeProxyConfiguration) string // what is set; "" = nothing
	reason string
}{
	{"featureGates", func(k *v1alpha1.KubeProxyConfiguration) string {
		return strings.Join(slices.Sorted(maps.Keys(k.FeatureGates)), ", ")
	}, "podnet-proxy has no feature gates"},
	{"clientConnection.acceptContentTypes", func(k *v1alpha1.KubeProxyConfiguration) string {
		return except(k.ClientConnection.AcceptContentTypes, protobuf)
	}, "podnet-proxy asks for protobuf"},
	{"clientConnection.contentType", func(k *v1alpha1.KubeProxyConfiguration) string {
		return except(k.ClientConnection.ContentType, protobuf)
	}, "podnet-proxy speaks protobuf"},
	{"showHiddenMetricsForVersion", func(k *v1alpha1.KubeProxyConfiguration) string { return k.ShowHiddenMetricsForVersion }, "podnet-proxy hides no metrics"},
	{"ipvs.excludeCIDRs", func(k *v1alpha1.KubeProxyConfiguration) string { return strings.Join(k.IPVS.ExcludeCIDRs, ", ") },
		"not needed: podnet-proxy never touches a virtual server that it did not make"},
	{"winkernel", func(k *v1alpha1.KubeProxyConfiguration) string {
		return changed(k.Winkernel != v1alpha1.KubeProxyWinkernelConfiguration{})
	}, "for Windows; podnet-proxy is for Linux"},
	{"windowsRunAsService", func(k *v1alpha1.KubeProxyConfiguration) string { return changed(k.WindowsRunAsService) }, "for Windows; podnet-proxy is for Linux"},
	{"portRange", func(k *v1alpha1.KubeProxyConfiguration) string { return k.PortRange }, "no proxy uses it since the userspace mode was removed"},
	{"configSyncPeriod", func(k *v1alpha1.KubeProxyConfiguration) string {
		return except(k.ConfigSyncPeriod.Duration.String(), "15m0s")
	}, "not needed: podnet-proxy compares the kernel with what is wanted"},
	{"logging.flushFrequency", func(k *v1alpha1.KubeProxyConfiguration) string {
		return except(k.Logging.FlushFrequency.Duration.Duration.String(), "5s")
	}, "not needed: nothing is held back"},
	{"logging.vmodule", func(k *v1alpha1.KubeProxyConfiguration) string { return changed(len(k.Logging.VModule) > 0) }, "use logging.verbosity"},
	{"logging.options", func(k *v1alpha1.KubeProxyConfiguration) string {
		o := k.Logging.Options
		return changed(o.Text.SplitStream || o.JSON.SplitStream || !o.Text.InfoBufferSize.IsZero() || !o.JSON.InfoBufferSize.IsZero())
	}, "podnet-proxy logs to stderr only"},
}

func except(value, fine string) string {
	if value == fine {
		return ""
	}
	return value
}

func changed(yes bool) string {
	if yes {
		return "set"
	}
	return ""
}

// notes warns of fields that are set and not used.
func notes(k *v1alpha1.KubeProxyConfiguration, name func(field string) string) (warnings []string) {
	for _, i := range ignored {
		if says := i.says(k); says != "" {
			warnings = append(warnings, fmt.Sprintf("%s (%s) is not used: %s", name(i.field), says, i.reason))
		}
	}
	return warnings
}
