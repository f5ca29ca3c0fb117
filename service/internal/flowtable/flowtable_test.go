package flowtable

import (
	"slices"
	"testing"

	"github.com/podnet/podnet/service"
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

// TestOracle runs the tables on the oracle, which then judges the random states.
func TestOracle(t *testing.T) {
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			w := &world{slices: map[service.Name]map[string]service.Slice{}}
			objects := map[Object]func(){}
			for _, step := range c.Steps {
				w.Local = step.Machine.Local
				step.tell(t, w, objects)
				w.Endpoints = map[service.Name][]service.Slice{}
				for n, all := range w.slices {
					for _, s := range all {
						w.Endpoints[n] = append(w.Endpoints[n], s)
					}
				}
				c.ask(t, Options{}, w, step)
			}
		})
	}
}

// world is a kube.Sink that only remembers.
type world struct {
	servicetest.World
	slices map[service.Name]map[string]service.Slice
}

func (w *world) SetNode(n service.Node) { w.Node = n }

func (w *world) SetService(s service.Service) {
	w.DeleteService(s.Name)
	w.Services = append(w.Services, s)
}

func (w *world) DeleteService(n service.Name) {
	w.Services = slices.DeleteFunc(w.Services, func(s service.Service) bool { return s.Name == n })
}

func (w *world) SetSlice(of service.Name, name string, s service.Slice) {
	if w.slices[of] == nil {
		w.slices[of] = map[string]service.Slice{}
	}
	w.slices[of][name] = s
}

func (w *world) DeleteSlice(of service.Name, name string) { delete(w.slices[of], name) }

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
