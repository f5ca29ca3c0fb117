package docstest

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
)

// Table is the content of a table, and the word at the beginning of the comment before it.
type Table struct{ Name, Content string }

// Compare wants the document to have these tables; with update it writes them.
func Compare(t testing.TB, path string, update bool, tables ...Table) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for _, table := range tables {
		want = replace(t, want, table)
	}
	if update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("%s: run the same test with -update (-want +got):\n%s", path, diff)
	}
}

func replace(t testing.TB, text string, table Table) string {
	t.Helper()
	head, rest, ok := strings.Cut(text, "<!-- "+table.Name+":")
	line, rest, ok2 := strings.Cut(rest, "\n")
	_, tail, ok3 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("no place for the table of %s", table.Name)
	}
	return head + "<!-- " + table.Name + ":" + line + "\n" + table.Content + "<!-- end -->" + tail
}

// Flags makes a table of flags, with their defaults.
func Flags(flags *pflag.FlagSet) string {
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

// Metrics makes a table of the metrics whose names begin with prefix, of all registries together.
func Metrics(t testing.TB, prefix string, all ...prometheus.Gatherer) string {
	t.Helper()
	lines := map[string]string{} // by name
	for _, g := range all {
		families, err := g.Gather()
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
	var b strings.Builder
	b.WriteString("| metric | type | meaning |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		b.WriteString(lines[name])
	}
	return b.String()
}
