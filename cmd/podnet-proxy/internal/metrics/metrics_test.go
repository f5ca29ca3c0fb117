package metrics_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/metrics"
	"github.com/podnet/podnet/service"
)

var update = flag.Bool("update", false, "rewrite testdata")

func sources() metrics.Sources {
	none := func() uint64 { return 0 }
	never := func() time.Time { return time.Time{} }
	return metrics.Sources{Pending: func() int { return 3 }, ServiceChanges: none, EndpointChanges: none, Held: func() int { return 0 }, APIErrors: none, Heard: never, EventsLost: none,
		HealthCheckPorts: func() int { return 0 }, Queued: func() time.Time { return time.Unix(5, 5e8) }}
}

func newMetrics(mode string) *metrics.Metrics {
	return metrics.New(metrics.Options{Version: "v", Mode: mode, Families: []service.Family{service.IPv4, service.IPv6}, Sources: sources(), Start: time.Unix(1000, 0)})
}

// values returns all values, by name and labels.
func values(t *testing.T, m *metrics.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			var labels []string
			for _, l := range one.GetLabel() {
				if l.GetName() == "goversion" {
					continue
				}
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case one.Counter != nil:
				out[name] = one.Counter.GetValue()
			case one.Gauge != nil:
				out[name] = one.Gauge.GetValue()
			case one.Histogram != nil:
				out[name+"_count"] = float64(one.Histogram.GetSampleCount())
			}
		}
	}
	return out
}

// TestNames holds the names and labels of each mode against a list: dashboards depend on them.
func TestNames(t *testing.T) {
	var b strings.Builder
	for _, mode := range []string{"nftables", "ipvs", "iptables"} {
		m := newMetrics(mode)
		m.Answer("/healthz", 200)
		m.Answer("/livez", 503)
		families, err := m.Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", mode)
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), "kubeproxy_") && !strings.HasPrefix(f.GetName(), "podnet_") {
				continue
			}
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			fmt.Fprintf(&b, "  %s{%s} %s\n", f.GetName(), strings.Join(labels, ","), strings.ToLower(f.GetType().String()))
		}
	}
	const path = "testdata/names.txt"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSync(t *testing.T) {
	m := newMetrics("nftables")
	web, dns := service.Name{Namespace: "ns", Name: "web"}, service.Name{Namespace: "ns", Name: "dns"}
	m.Changed(web, time.Unix(999, 0)) // before the process began
	m.Changed(web, time.Unix(2000, 0))
	m.Changed(web, time.Unix(2001, 0))
	m.Changed(dns, time.Unix(2000, 0))
	m.Sync(service.Report{Took: time.Millisecond}, errors.New("no"))
	m.Sync(service.Report{
		Full: true, Changes: []service.Change{{Name: web}}, Planned: []service.Name{dns, web}, Failed: map[service.Name]error{dns: errors.New("no")},
		Faults: map[service.Name][]service.Fault{web: {{}}}, Writes: 7, Services: 2, NoLocalExternal: 1,
	}, nil)
	m.Sync(service.Report{Full: true, Writes: 2, Services: 2, NoLocalExternal: 1}, nil) // heals
	m.Conntrack(map[service.Family]int{service.IPv4: 4}, nil, time.Millisecond)
	m.Conntrack(nil, errors.New("no"), time.Millisecond)
	got := values(t, m)
	for name, want := range map[string]float64{
		"kubeproxy_network_programming_duration_seconds{ip_family=IPv4}_count":                        2,
		"kubeproxy_sync_proxy_rules_duration_seconds{ip_family=IPv6}_count":                           3,
		"kubeproxy_sync_full_proxy_rules_duration_seconds{ip_family=IPv4}_count":                      3,
		"kubeproxy_sync_partial_proxy_rules_duration_seconds{ip_family=IPv4}_count":                   0,
		"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=IPv4}":                     1,
		"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=IPv4,traffic_policy=external}": 1,
		"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=IPv4,traffic_policy=internal}": 0,
		"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=IPv4}":                    5.5,
		"kubeproxy_sync_proxy_rules_service_changes_pending":                                          3,
		"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=IPv4}":                        4,
		"kubeproxy_conntrack_reconciler_sync_duration_seconds{ip_family=IPv4}_count":                  2,
		"podnet_proxy_kernel_writes_total":                                                            9,
		"podnet_proxy_heals_total":                                                                    1,
		"podnet_proxy_services":                                                                       2,
		"podnet_proxy_services_faulty":                                                                1,
		"podnet_proxy_sync_failures_total":                                                            1,
		"podnet_proxy_conntrack_failures_total":                                                       1,
		"podnet_proxy_source_heard_timestamp_seconds":                                                 0,
		"podnet_proxy_build_info{mode=nftables,version=v}":                                            1,
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending":                                         3,
		"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family=IPv6}":                  0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	m.Sync(service.Report{Planned: []service.Name{dns, web}, Services: 2}, nil)
	got = values(t, m)
	if got["kubeproxy_network_programming_duration_seconds{ip_family=IPv4}_count"] != 3 || got["podnet_proxy_services_faulty"] != 0 || got["podnet_proxy_services_failed"] != 0 {
		t.Errorf("after the repair: %v", got)
	}
}
