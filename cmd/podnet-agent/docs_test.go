package main

import (
	"flag"
	"testing"

	"github.com/podnet/podnet/internal/docstest"
)

var update = flag.Bool("update", false, "rewrite the tables in docs/agent.md")

// TestDocs compares the tables of flags and metrics in docs/agent.md and docs/install.md with the code.
func TestDocs(t *testing.T) {
	docstest.Compare(t, "../../docs/agent.md", *update,
		docstest.Table{Name: "flags", Content: docstest.Flags(newFlags(&options{}))},
		docstest.Table{Name: "metrics", Content: docstest.Metrics(t, "podnet_", allMetrics(t))})
	docstest.Compare(t, "../../docs/install.md", *update, docstest.Table{Name: "install", Content: docstest.Flags(newInstallFlags(&installOptions{}))})
}
