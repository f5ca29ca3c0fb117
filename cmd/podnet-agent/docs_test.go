package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
)

var update = flag.Bool("update", false, "rewrite the tables in docs/agent.md")

// TestDocs compares the tables of flags and metrics in docs/agent.md and docs/install.md with the code.
func TestDocs(t *testing.T) {
	compareDocs(t, "../../docs/agent.md", func(text string) string {
		text = replaceTable(t, text, "flags", flagsTable(newFlags(&options{})))
		return replaceTable(t, text, "metrics", metricsTable(t))
	})
	compareDocs(t, "../../docs/install.md", func(text string) string {
		return replaceTable(t, text, "install", flagsTable(newInstallFlags(&installOptions{})))
	})
}

func compareDocs(t *testing.T, path string, replace func(text string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := replace(string(text))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("run go test ./cmd/podnet-agent -run TestDocs -update (-want +got):\n%s", diff)
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

func flagsTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		value := f.DefValue
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `--%s%s` | %s | %s |\n", f.Name, strings.TrimRight(" "+name, " "), value, usage)
	})
	return b.String()
}

func metricsTable(t *testing.T) string {
	t.Helper()
	metrics := agent.NewMetrics("x", []string{"x"})
	if err := metrics.Registerer().Register(kubenode.NewMetrics()); err != nil {
		t.Fatal(err)
	}
	families, err := metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| metric | type | meaning |\n|---|---|---|\n")
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "podnet_") {
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
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, strings.ToLower(f.GetType().String()), f.GetHelp())
	}
	return b.String()
}
