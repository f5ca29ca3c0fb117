package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/metrics"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/internal/promtest"
	"github.com/podnet/podnet/service"
)

var update = flag.Bool("update", false, "rewrite the tables in docs/proxy.md")

// TestDocs compares the tables of flags and metrics in docs/proxy.md with the code.
func TestDocs(t *testing.T) {
	const path = "../../docs/proxy.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := replaceTable(t, string(text), "flags", flagsTable())
	want = replaceTable(t, want, "metrics", metricsTable(t, "podnet_"))
	want = replaceTable(t, want, "kube-proxy's metrics", metricsTable(t, "kubeproxy_"))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("run go test ./cmd/podnet-proxy -run TestDocs -update (-want +got):\n%s", diff)
	}
}

func replaceTable(t *testing.T, text, name, table string) string {
	t.Helper()
	head, rest, ok := strings.Cut(text, "<!-- "+name+":")
	line, rest, ok2 := strings.Cut(rest, "\n")
	_, tail, ok3 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("no place for the table of %s", name)
	}
	return head + "<!-- " + name + ":" + line + "\n" + table + "<!-- end -->" + tail
}

func flagsTable() string {
	var b strings.Builder
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	proxyconfig.NewFlags(&proxyconfig.Flags{}).VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		value := f.DefValue
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `--%s%s` | %s | %s |\n", f.Name, strings.TrimRight(" "+name, " "), value, usage)
	})
	return b.String()
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
	for _, mode := range []string{proxyconfig.NFTables, proxyconfig.IPVS, proxyconfig.IPTables} {
		promtest.CheckAlerts(t, "../../deploy/prometheus/proxy-rules.yaml", "../../docs/proxy.md", promtest.Labels(t, metricsOf(mode).Gatherer()))
	}
}

// metricsTable is about all modes.
func metricsTable(t *testing.T, prefix string) string {
	t.Helper()
	lines := map[string]string{}
	for _, mode := range []string{proxyconfig.NFTables, proxyconfig.IPVS, proxyconfig.IPTables} {
		m := metricsOf(mode)
		families, err := m.Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), prefix) {
				continue
			}
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			lines[name] = fmt.Sprintf("| `%s` | %s | %s |\n", name, strings.ToLower(f.GetType().String()), f.GetHelp())
		}
	}
	var names []string
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("| metric | type | meaning |\n|---|---|---|\n")
	for _, name := range names {
		b.WriteString(lines[name])
	}
	return b.String()
}
