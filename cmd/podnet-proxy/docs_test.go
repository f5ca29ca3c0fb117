package main

import (
	"flag"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/metrics"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/internal/docstest"
	"github.com/podnet/podnet/service"
)

var update = flag.Bool("update", false, "rewrite the tables in docs/proxy.md")

// TestDocs compares the tables of flags and metrics in docs/proxy.md with the code.
func TestDocs(t *testing.T) {
	var all []prometheus.Gatherer
	for _, mode := range allModes() {
		all = append(all, metricsOf(mode).Gatherer())
	}
	docstest.Compare(t, "../../docs/proxy.md", *update,
		docstest.Table{Name: "flags", Content: docstest.Flags(proxyconfig.NewFlags(&proxyconfig.Flags{}))},
		docstest.Table{Name: "metrics", Content: docstest.Metrics(t, "podnet_", all...)},
		docstest.Table{Name: "kube-proxy's metrics", Content: docstest.Metrics(t, "kubeproxy_", all...)})
}

func allModes() []string {
	return []string{proxyconfig.NFTables, proxyconfig.IPVS, proxyconfig.IPTables}
}

// metricsOf are the metrics of a mode, with every label that there is.
func metricsOf(mode string) *metrics.Metrics {
	none, never := func() uint64 { return 0 }, func() time.Time { return time.Time{} }
	zero := func() int { return 0 }
	m := metrics.New(metrics.Options{Mode: mode, Families: []service.Family{service.IPv4}, Sources: metrics.Sources{Pending: zero, ServiceChanges: none, EndpointChanges: none,
		Held: zero, APIErrors: none, Heard: never, EventsLost: none, HealthCheckPorts: zero, Queued: never}})
	m.Answer("/healthz", 200)
	m.Answer("/livez", 200)
	return m
}

// TestAlerts: every alert is about metrics that there are in each mode, and docs/proxy.md says what to do.
func TestAlerts(t *testing.T) {
	for _, mode := range allModes() {
		docstest.CheckAlerts(t, "../../deploy/prometheus/proxy-rules.yaml", "../../docs/proxy.md", docstest.Labels(t, metricsOf(mode).Gatherer()))
	}
}
