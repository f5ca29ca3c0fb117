package flowtable

import (
	"testing"

	"github.com/podnet/podnet/service/servicetest"
)

// TestPlan runs the tables on the plan: the fake dataplane walks the programs that it was given.
func TestPlan(t *testing.T) {
	for name, o := range map[string]Options{"changes": {}, "resync": {Resync: true}} {
		t.Run(name, func(t *testing.T) {
			Run(t, o, func(testing.TB) servicetest.Subject { return new(servicetest.Dataplane) })
		})
	}
}

// TestCount: nobody loses a table without noticing.
func TestCount(t *testing.T) {
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, c := range cases {
		for _, s := range c.Steps {
			rows += len(s.Flows)
		}
	}
	t.Logf("%d cases, %d rows", len(cases), rows)
	if len(cases) < 100 || rows < 1000 {
		t.Errorf("%d cases, %d rows: where are the others?", len(cases), rows)
	}
}
