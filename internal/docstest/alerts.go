package docstest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"
)

// Labels returns the labels of every metric that is served, and those that Prometheus adds: job, instance, and the metric up.
func Labels(t testing.TB, g prometheus.Gatherer) map[string][]string {
	t.Helper()
	families, err := g.Gather()
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
	metricName = regexp.MustCompile(`\b(?:podnet|kubeproxy|process|go)_[a-z_]+|\bup\b`)
	selectors  = regexp.MustCompile(`[{,]\s*([a-z_]+)(?:=~|!=|!~|=)"`)
	grouping   = regexp.MustCompile(`\bby \(([a-z_, ]*)\)`)
)

// CheckExpr finds metrics and labels that are not served.
func CheckExpr(t testing.TB, where, expr string, metrics map[string][]string) {
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
			t.Errorf("%s: there is no metric %s", where, name)
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

// CheckAlerts wants every alert of a file to be about metrics that there are, to say how bad it is and what it means, and to stand in the guide with what to do.
func CheckAlerts(t testing.TB, path, guidePath string, metrics map[string][]string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile(guidePath)
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
	if len(file.Groups) == 0 {
		t.Errorf("%s has no alerts", path)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			CheckExpr(t, r.Alert, r.Expr, metrics)
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.For == "" {
				t.Errorf("%s: %+v", r.Alert, r)
			}
			if !strings.Contains(string(guide), "`"+r.Alert+"`") {
				t.Errorf("%s does not say what to do about %s", guidePath, r.Alert)
			}
		}
	}
}
