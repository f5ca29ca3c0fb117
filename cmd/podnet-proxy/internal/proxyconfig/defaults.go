package proxyconfig

import (
	"net"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Ports of kube-proxy.
const (
	healthzPort = 10256
	metricsPort = 10249
)

// setDefaults gives every field that says nothing kube-proxy's default (v1.36).
func setDefaults(k *v1alpha1.KubeProxyConfiguration) {
	k.APIVersion, k.Kind = v1alpha1.SchemeGroupVersion.String(), "KubeProxyConfiguration"
	value(&k.BindAddress, "0.0.0.0")
	healthz, metrics := "0.0.0.0", "127.0.0.1"
	if a, err := parseAddr(k.BindAddress); err == nil && a.Is6() {
		healthz, metrics = "::", "::1"
	}
	value(&k.HealthzBindAddress, healthz)
	value(&k.MetricsBindAddress, metrics)
	k.HealthzBindAddress = addPort(k.HealthzBindAddress, healthzPort)
	k.MetricsBindAddress = addPort(k.MetricsBindAddress, metricsPort)

	pointer(&k.OOMScoreAdj, -999)
	pointer(&k.IPTables.MasqueradeBit, 14)
	pointer(&k.NFTables.MasqueradeBit, 14)
	pointer(&k.IPTables.LocalhostNodePorts, true)
	value(&k.IPTables.SyncPeriod.Duration, 30*time.Second)
	value(&k.IPTables.MinSyncPeriod.Duration, time.Second)
	value(&k.NFTables.SyncPeriod.Duration, 30*time.Second)
	value(&k.NFTables.MinSyncPeriod.Duration, time.Second)
	value(&k.IPVS.SyncPeriod.Duration, 30*time.Second)
	value(&k.ConfigSyncPeriod.Duration, 15*time.Minute)

	pointer(&k.Conntrack.MaxPerCore, 32<<10)
	pointer(&k.Conntrack.Min, 128<<10)
	pointer(&k.Conntrack.TCPEstablishedTimeout, metav1.Duration{Duration: 24 * time.Hour})
	pointer(&k.Conntrack.TCPCloseWaitTimeout, metav1.Duration{Duration: time.Hour})

	value(&k.ClientConnection.ContentType, protobuf)
	value(&k.ClientConnection.QPS, 5)
	value(&k.ClientConnection.Burst, 10)
	value(&k.Logging.Format, "text")
	value(&k.Logging.FlushFrequency.Duration.Duration, 5*time.Second)
}

const protobuf = "application/vnd.kubernetes.protobuf"

func value[T comparable](field *T, otherwise T) {
	var zero T
	if *field == zero {
		*field = otherwise
	}
}

func pointer[T any](field **T, otherwise T) {
	if *field == nil {
		*field = &otherwise
	}
}

// addPort makes address:port of an address alone. Port 0 turns the server off, as kube-proxy's --healthz-port=0 does.
func addPort(address string, port int32) string {
	if port == 0 {
		return ""
	}
	if _, err := parseAddr(address); err != nil {
		return address // has a port, or is wrong, which the checks say
	}
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}
