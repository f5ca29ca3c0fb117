package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
)

// metricLabels returns the labels of every metric that the agent serves, and those that Prometheus adds.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	m := agent.NewMetrics("x", []string{"x"})
	if err := m.Registerer().Register(kubenode.NewMetrics()); err != nil {
		t.Fatal(err)
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{"up": {"job", "instance"}}
	for _, f := range families {
		labels := []string{"job", "instance"}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		out[f.GetName()] = labels
		if f.GetType().String() == "HISTOGRAM" {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				out[f.GetName()+suffix] = append(slices.Clone(labels), "le")
			}
		}
	}
	return out
}

var (
	metricName = regexp.MustCompile(`\b(?:podnet|process|go)_[a-z_]+|\bup\b`)
	selectors  = regexp.MustCompile(`[{,]\s*([a-z]+)(?:=~|!=|!~|=)"`)
	grouping   = regexp.MustCompile(`\bby \(([a-z, ]*)\)`)
)

// checkExpr finds metrics and labels that the agent does not have.
func checkExpr(t *testing.T, where, expr string, metrics map[string][]string) {
	t.Helper()
	names := metricName.FindAllString(expr, -1)
	if len(names) == 0 {
		t.Errorf("%s: %s: names no metric", where, expr)
		return
	}
	var known []string
	for _, name := range names {
		labels, ok := metrics[name]
		if !ok {
			t.Errorf("%s: the agent has no metric %s", where, name)
		}
		known = append(known, labels...)
	}
	var used []string
	for _, m := range selectors.FindAllStringSubmatch(expr, -1) {
		used = append(used, m[1])
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		used = append(used, strings.Split(m[1], ", ")...)
	}
	for _, label := range used {
		if !slices.Contains(known, label) {
			t.Errorf("%s: %s: no label %q", where, expr, label)
		}
	}
}

// TestDashboard: every panel shows metrics that there are, every metric of the agent is shown, and every one has a place of its own.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../deploy/grafana/podnet-agent.json")
	if err != nil {
		t.Fatal(err)
	}
	type place struct{ X, Y, W, H int }
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			GridPos place
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	metrics := metricLabels(t)
	ids, places := map[int]bool{}, []place{}
	for _, p := range board.Panels {
		if ids[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its number is used twice, or it shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range places {
			if p.GridPos.X < q.X+q.W && q.X < p.GridPos.X+p.GridPos.W && p.GridPos.Y < q.Y+q.H && q.Y < p.GridPos.Y+p.GridPos.H || p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("panel %q lies over another one", p.Title)
			}
		}
		places = append(places, p.GridPos)
		for _, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr, metrics)
		}
	}
	for name := range metrics {
		base := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "podnet_") && !strings.Contains(string(text), base) {
			t.Errorf("%s is on no panel", name)
		}
	}
}

// TestAlerts: every alert is about metrics that there are, and docs/install.md says what to do.
func TestAlerts(t *testing.T) {
	text, err := os.ReadFile("../../deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	metrics := metricLabels(t)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			checkExpr(t, r.Alert, r.Expr, metrics)
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.For == "" {
				t.Errorf("%s: %+v", r.Alert, r)
			}
			if !strings.Contains(string(guide), "`"+r.Alert+"`") {
				t.Errorf("docs/install.md does not say what to do about %s", r.Alert)
			}
		}
	}
}
