package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
	"github.com/podnet/podnet/internal/docstest"
)

// allMetrics are those that the agent serves.
func allMetrics(t *testing.T) prometheus.Gatherer {
	t.Helper()
	m := agent.NewMetrics("x", []string{"x"})
	if err := m.Registerer().Register(kubenode.NewMetrics()); err != nil {
		t.Fatal(err)
	}
	return m.Gatherer()
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
	metrics := docstest.Labels(t, allMetrics(t))
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
			docstest.CheckExpr(t, p.Title, target.Expr, metrics)
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
	docstest.CheckAlerts(t, "../../deploy/prometheus/rules.yaml", "../../docs/install.md", docstest.Labels(t, allMetrics(t)))
}
