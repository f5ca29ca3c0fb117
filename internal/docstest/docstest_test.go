package docstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
)

// recorder takes note of errors instead of failing.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// TestCompare: a table that is old is an error, and is right after an update.
func TestCompare(t *testing.T) {
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	flags.Int("count", 3, "how many `things`")
	flags.String("name", "", "of the thing")
	metrics := func(names ...string) prometheus.Gatherer {
		r := prometheus.NewRegistry()
		for _, n := range names {
			r.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: n, Help: "Says " + n + "."}))
		}
		return r
	}
	tables := []Table{{"flags", Flags(flags)}, {"metrics", Metrics(t, "podnet_", metrics("podnet_b", "podnet_a"), metrics("podnet_c", "podnet_a", "other"))}}
	path := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(path, []byte("# x\n<!-- flags: written -->\nold\n<!-- end -->\nand\n<!-- metrics: written -->\n<!-- end -->\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recorder{TB: t}
	Compare(r, path, false, tables...)
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "-update") {
		t.Errorf("an old table: %q", r.errors)
	}
	Compare(t, path, true, tables...)
	Compare(t, path, false, tables...)
	const want = "# x\n<!-- flags: written -->\n| flag | default | meaning |\n|---|---|---|\n| `--count things` | `3` | how many things |\n| `--name string` |  | of the thing |\n<!-- end -->\nand\n" +
		"<!-- metrics: written -->\n| metric | type | meaning |\n|---|---|---|\n| `podnet_a` | gauge | Says podnet_a. |\n| `podnet_b` | gauge | Says podnet_b. |\n| `podnet_c` | gauge | Says podnet_c. |\n<!-- end -->\nend\n"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%v, got\n%s", err, got)
	}
}
