package docstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestCheckAlerts: what is wrong is found.
func TestCheckAlerts(t *testing.T) {
	reg := prometheus.NewRegistry()
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "podnet_x_seconds", Help: "x"}, []string{"family"})
	v.WithLabelValues("IPv4").Observe(1)
	reg.MustRegister(v)
	metrics := Labels(t, reg)
	const ok = `podnet_x_seconds_bucket{family="IPv4",le="1"} > 3 and on (instance) sum by (job, instance) (up) == 1`
	for _, c := range []struct{ name, expr, guide, severity, want string }{
		{"good", ok, "`A`", "warning", ""},
		{"no metric", `up == 0 or podnet_y > 1`, "`A`", "warning", "podnet_y"},
		{"nothing", `1 > 0`, "`A`", "warning", "names no metric"},
		{"label", `podnet_x_seconds{colour="red"} > 0`, "`A`", "warning", "colour"},
		{"group", `sum by (verb) (up) > 0`, "`A`", "warning", "verb"},
		{"guide", ok, "`B`", "warning", "what to do about A"},
		{"severity", ok, "`A`", "", "A: {"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			rules, guide := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "guide.md")
			text := fmt.Sprintf("groups:\n- name: g\n  rules:\n  - {alert: A, expr: '%s', for: 1m, labels: {severity: '%s'}, annotations: {summary: s, description: d}}\n", c.expr, c.severity)
			for path, text := range map[string]string{rules: text, guide: c.guide} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := &recorder{TB: t}
			CheckAlerts(r, rules, guide, metrics)
			if found := strings.Join(r.errors, "\n"); (c.want == "") != (found == "") || !strings.Contains(found, c.want) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}
