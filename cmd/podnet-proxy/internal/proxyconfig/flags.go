package proxyconfig

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Flags is the command line, not checked yet.
type Flags struct {
	configFile, writeConfigTo, hostname, master, mode, services, clusterCIDR string

	kube                                             v1alpha1.KubeProxyConfiguration
	masqueradeAll                                    bool
	masqueradeBit                                    int32
	syncPeriod, minSync, ipvsSyncPeriod, ipvsMinSync time.Duration
	healthzPort, metricsPort                         int32
	gates, vmodule, externalCIDRs                    []string
	verbosity                                        int
	logFormat                                        string
	logFlush, hold                                   time.Duration
	version, cleanup, cleanupKubeProxy, initOnly     bool
	sysctlDir                                        string
	replaceKubeProxy                                 bool
	proxyMode, detectLocal, hiddenMetric             string
}

// own are the flags that count with --config too.
var own = map[string]bool{
	"config": true, "mode": true, "sysctl-dir": true, "services": true, "external-ip-cidrs": true, "mass-delete-hold": true, "cleanup-kube-proxy": true, "replace-kube-proxy": true, "version": true, "write-config-to": true,
	"hostname-override": true, "master": true, "cleanup": true, "init-only": true, "v": true, "vmodule": true, "logging-format": true, "log-flush-frequency": true, "help": true,
}

// NewFlags returns the flags of podnet-proxy, which write into f.
func NewFlags(f *Flags) *pflag.FlagSet {
	s := pflag.NewFlagSet("podnet-proxy", pflag.ContinueOnError)
	s.SortFlags = false
	setDefaults(&f.kube)
	f.ownFlags(s)
	f.clientFlags(s)
	f.serverFlags(s)
	f.proxyFlags(s)
	f.ipvsFlags(s)
	f.conntrackFlags(s)
	f.logFlags(s)
	return s
}

func (f *Flags) ownFlags(s *pflag.FlagSet) {
	s.StringVar(&f.configFile, "config", "", "`path` of a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), as kube-proxy reads it; the flags that say the same as its fields are ignored then")
	s.StringVar(&f.mode, "mode", "", "`dataplane`: auto, nftables, ipvs or iptables; wins over --proxy-mode and the file's mode. auto takes nftables if the kernel can, else ipvs, else iptables, and logs why")
	s.StringVar(&f.services, "services", "", "`path` of a file or directory with Services and EndpointSlices (YAML or JSON), watched; without it: Kubernetes")
	s.StringSliceVar(&f.externalCIDRs, "external-ip-cidrs", nil, "`CIDRs` in which a Service may claim spec.externalIPs; none: all external IPs are refused (CVE-2020-8554)")
	s.DurationVar(&f.hold, "mass-delete-hold", time.Minute, "keep Services for this long when more than half of them disappear at once; 0: do not")
	s.BoolVar(&f.cleanup, "cleanup", false, "remove all that podnet-proxy made in this network namespace, in any mode, and exit")
	s.BoolVar(&f.cleanupKubeProxy, "cleanup-kube-proxy", false, "remove what kube-proxy left in this network namespace (tables, chains, ipsets, virtual servers, kube-ipvs0), and exit; stop kube-proxy first")
	s.BoolVar(&f.replaceKubeProxy, "replace-kube-proxy", false, "serve, and remove what kube-proxy left as soon as all Services are served, so that no connection fails in between; stop kube-proxy first")
	s.BoolVar(&f.initOnly, "init-only", false, "do what needs full root (the connection tracking sysctls), and exit; podnet-proxy needs CAP_NET_ADMIN only then")
	s.StringVar(&f.sysctlDir, "sysctl-dir", "/proc/sys", "`directory` of the kernel's settings; in a container, whose own cannot be written, where the node's are mounted")
	s.StringVar(&f.writeConfigTo, "write-config-to", "", "write the configuration with all defaults to this `file`, and exit")
	s.BoolVar(&f.version, "version", false, "print the version and exit")
}

func (f *Flags) clientFlags(s *pflag.FlagSet) {
	c := &f.kube.ClientConnection
	s.StringVar(&c.Kubeconfig, "kubeconfig", "", "`path` of the kubeconfig; without it: the service account of the pod that podnet-proxy runs in")
	s.StringVar(&f.master, "master", "", "`URL` of the API server; wins over the kubeconfig's")
	s.StringVar(&c.ContentType, "kube-api-content-type", c.ContentType, "accepted; podnet-proxy always asks for protobuf")
	s.Int32Var(&c.Burst, "kube-api-burst", c.Burst, "requests to the API server that may come at once")
	s.Float32Var(&c.QPS, "kube-api-qps", c.QPS, "requests to the API server per second")
	s.StringVar(&f.hostname, "hostname-override", "", "`name` of this Node; default: the host's name")
	s.DurationVar(&f.kube.ConfigSyncPeriod.Duration, "config-sync-period", f.kube.ConfigSyncPeriod.Duration, "accepted; podnet-proxy compares with what it has done, so there is nothing to refresh")
	s.StringSliceVar(&f.gates, "feature-gates", nil, "accepted; podnet-proxy has none")
}

func (f *Flags) serverFlags(s *pflag.FlagSet) {
	s.StringVar(&f.kube.BindAddress, "bind-address", f.kube.BindAddress, "`IP` of this node, if it is not the one in the Node's status; nothing is bound to it")
	s.StringVar(&f.kube.HealthzBindAddress, "healthz-bind-address", f.kube.HealthzBindAddress, "`address`:port of /healthz and /livez; empty: off")
	s.StringVar(&f.kube.MetricsBindAddress, "metrics-bind-address", f.kube.MetricsBindAddress, "`address`:port of /metrics and /proxyMode; empty: off")
	s.BoolVar(&f.kube.BindAddressHardFail, "bind-address-hard-fail", false, "end when a port cannot be bound, instead of trying again every 5s")
	s.BoolVar(&f.kube.EnableProfiling, "profiling", false, "serve /debug/pprof/ on the metrics address")
	s.StringVar(&f.hiddenMetric, "show-hidden-metrics-for-version", "", "accepted; podnet-proxy hides no metrics")
	s.Int32Var(&f.healthzPort, "healthz-port", healthzPort, "port of --healthz-bind-address, if that has none; 0: off (deprecated)")
	s.Int32Var(&f.metricsPort, "metrics-port", metricsPort, "port of --metrics-bind-address, if that has none; 0: off (deprecated)")
	s.Int32Var(f.kube.OOMScoreAdj, "oom-score-adj", *f.kube.OOMScoreAdj, "oom-score-adj of the process, -1000 to 1000")
}

func (f *Flags) proxyFlags(s *pflag.FlagSet) {
	s.StringVar(&f.proxyMode, "proxy-mode", "", "kube-proxy's flag for --mode: nftables, ipvs or iptables; empty: auto")
	s.BoolVar(&f.masqueradeAll, "masquerade-all", false, "masquerade all traffic to cluster IPs")
	s.Int32Var(&f.masqueradeBit, "iptables-masquerade-bit", *f.kube.IPTables.MasqueradeBit, "`bit` of the packet mark that asks for masquerading, 0 to 31, in every mode")
	s.BoolVar(f.kube.IPTables.LocalhostNodePorts, "iptables-localhost-nodeports", *f.kube.IPTables.LocalhostNodePorts, "accepted; NodePorts are never served on 127.0.0.1, which would need route_localnet (CVE-2020-8558)")
	s.DurationVar(&f.syncPeriod, "iptables-sync-period", f.kube.IPTables.SyncPeriod.Duration, "look at everything at least this often (modes nftables and iptables)")
	s.DurationVar(&f.minSync, "iptables-min-sync-period", f.kube.IPTables.MinSyncPeriod.Duration, "shortest time between two syncs under constant change (modes nftables and iptables)")
	s.StringVar(&f.detectLocal, "detect-local-mode", "", "how traffic of this node's pods is recognised: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix; empty: ClusterCIDR")
	s.StringVar(&f.clusterCIDR, "cluster-cidr", "", "`CIDRs` of the cluster's pods, one or an IPv4 and an IPv6 one with a comma")
	s.StringVar(&f.kube.DetectLocal.BridgeInterface, "pod-bridge-interface", "", "`name` of the pods' bridge, for BridgeInterface")
	s.StringVar(&f.kube.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", "", "`prefix` of the names of pods' interfaces, for InterfaceNamePrefix")
	s.StringSliceVar(&f.kube.NodePortAddresses, "nodeport-addresses", nil, "`CIDRs` of node addresses that serve NodePorts, or primary; default: primary in mode nftables, else all")
}

func (f *Flags) ipvsFlags(s *pflag.FlagSet) {
	v := &f.kube.IPVS
	s.DurationVar(&f.ipvsSyncPeriod, "ipvs-sync-period", v.SyncPeriod.Duration, "look at everything at least this often (mode ipvs)")
	s.DurationVar(&f.ipvsMinSync, "ipvs-min-sync-period", v.MinSyncPeriod.Duration, "shortest time between two syncs under constant change (mode ipvs)")
	s.StringVar(&v.Scheduler, "ipvs-scheduler", "", "`name` of the IPVS scheduler; empty: rr")
	s.StringSliceVar(&v.ExcludeCIDRs, "ipvs-exclude-cidrs", nil, "accepted; podnet-proxy never touches virtual servers that it did not make")
	s.BoolVar(&v.StrictARP, "ipvs-strict-arp", false, "answer ARP for cluster IPs on no interface (arp_ignore 1, arp_announce 2)")
	s.DurationVar(&v.TCPTimeout.Duration, "ipvs-tcp-timeout", 0, "timeout of idle IPVS TCP connections; 0: as it is")
	s.DurationVar(&v.TCPFinTimeout.Duration, "ipvs-tcpfin-timeout", 0, "timeout of IPVS TCP connections after a FIN; 0: as it is")
	s.DurationVar(&v.UDPTimeout.Duration, "ipvs-udp-timeout", 0, "timeout of IPVS UDP flows; 0: as it is")
}

func (f *Flags) conntrackFlags(s *pflag.FlagSet) {
	c := &f.kube.Conntrack
	s.Int32Var(c.MaxPerCore, "conntrack-max-per-core", *c.MaxPerCore, "connections to track per CPU; 0: leave the maximum alone")
	s.Int32Var(c.Min, "conntrack-min", *c.Min, "connections to track at least, whatever the number of CPUs")
	s.DurationVar(&c.TCPEstablishedTimeout.Duration, "conntrack-tcp-timeout-established", c.TCPEstablishedTimeout.Duration, "timeout of idle TCP connections; 0: as it is")
	s.DurationVar(&c.TCPCloseWaitTimeout.Duration, "conntrack-tcp-timeout-close-wait", c.TCPCloseWaitTimeout.Duration, "timeout of TCP connections in CLOSE_WAIT; 0: as it is")
	s.BoolVar(&c.TCPBeLiberal, "conntrack-tcp-be-liberal", false, "take TCP packets out of the window for valid")
	s.DurationVar(&c.UDPTimeout.Duration, "conntrack-udp-timeout", 0, "timeout of UDP flows without an answer; 0: as it is")
	s.DurationVar(&c.UDPStreamTimeout.Duration, "conntrack-udp-timeout-stream", 0, "timeout of UDP flows with answers; 0: as it is")
}

func (f *Flags) logFlags(s *pflag.FlagSet) {
	s.IntVarP(&f.verbosity, "v", "v", 0, "verbosity; 4 and more: debug")
	s.StringVar(&f.logFormat, "logging-format", f.kube.Logging.Format, "text or json")
	s.StringSliceVar(&f.vmodule, "vmodule", nil, "accepted; use -v")
	s.DurationVar(&f.logFlush, "log-flush-frequency", 5*time.Second, "accepted; nothing is held back")
}

// finish puts the values of flags that are not a field of the file, or several, into what would be the file.
func (f *Flags) finish(s *pflag.FlagSet) error {
	k := &f.kube
	k.Mode, k.DetectLocalMode = v1alpha1.ProxyMode(f.proxyMode), v1alpha1.LocalMode(f.detectLocal)
	k.ShowHiddenMetricsForVersion = f.hiddenMetric
	k.ClusterCIDR = f.clusterCIDR
	k.IPTables.MasqueradeAll, k.NFTables.MasqueradeAll = f.masqueradeAll, f.masqueradeAll
	k.IPTables.MasqueradeBit, k.NFTables.MasqueradeBit = &f.masqueradeBit, &f.masqueradeBit
	k.IPTables.SyncPeriod.Duration, k.NFTables.SyncPeriod.Duration = f.syncPeriod, f.syncPeriod
	k.IPTables.MinSyncPeriod.Duration, k.NFTables.MinSyncPeriod.Duration = f.minSync, f.minSync
	k.IPVS.SyncPeriod.Duration, k.IPVS.MinSyncPeriod.Duration = f.ipvsSyncPeriod, f.ipvsMinSync
	k.HealthzBindAddress = addPort(k.HealthzBindAddress, f.healthzPort)
	k.MetricsBindAddress = addPort(k.MetricsBindAddress, f.metricsPort)
	for _, g := range f.gates {
		name, value, _ := strings.Cut(strings.TrimSpace(g), "=")
		on, err := strconv.ParseBool(value)
		if err != nil || name == "" {
			return fmt.Errorf("--feature-gates %q: want name=true or name=false", g)
		}
		if k.FeatureGates == nil {
			k.FeatureGates = map[string]bool{}
		}
		k.FeatureGates[name] = on
	}
	return nil
}
