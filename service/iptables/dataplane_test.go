package iptables_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
	"github.com/podnet/podnet/service/servicetest"
)

func TestDataplaneContract(t *testing.T) {
	servicetest.Contract(t, func(testing.TB) servicetest.Kernel {
		k := &iptablestest.Kernel{}
		return servicetest.Kernel{
			New: func(testing.TB) service.Dataplane {
				return iptables.New(k, iptables.Options{Poll: time.Millisecond})
			},
			Lookup:     k.Lookup,
			SetMachine: func(m servicetest.Machine) { k.SetLocal(m.Local...) },
			Flush: func(testing.TB) {
				for _, f := range service.Families() {
					k.Flush(f, "nat")
				}
			},
		}
	})
}

// TestDataplaneContractRefuse: the kernel, not the dataplane, refuses a Service.
func TestDataplaneContractRefuse(t *testing.T) {
	servicetest.Contract(t, func(testing.TB) servicetest.Kernel {
		k := &iptablestest.Kernel{}
		return servicetest.Kernel{
			New:        func(testing.TB) service.Dataplane { return iptables.New(k, iptables.Options{}) },
			Lookup:     k.Lookup,
			SetMachine: func(m servicetest.Machine) { k.SetLocal(m.Local...) },
			Refuse: func(p service.Program) func() {
				k.Refuse(p.Ports[0].Cluster[0].Addr.String())
				return func() { k.Refuse("") }
			},
		}
	})
}

// TestFaults: each call to the kernel fails once, in every way of getting to a state. The next sync converges.
func TestFaults(t *testing.T) {
	w := servicetest.NewRandom(7).World
	for n := 1; ; n++ {
		k := &iptablestest.Kernel{}
		k.SetLocal(w.Local...)
		calls, broken := 0, errors.New("broken")
		k.Fault(func(iptablestest.Call) error {
			if calls++; calls == n {
				return broken
			}
			return nil
		})
		r := service.New(iptables.New(k, iptables.Options{}), service.Options{})
		report, err := r.Apply(context.Background(), w.Config)
		if calls < n {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		_ = report
		for range 2 { // a Service that failed is tried again by the next sync
			_, err = r.Apply(t.Context(), w.Config)
		}
		if err != nil {
			t.Errorf("call %d failed: %v", n, err)
		}
		fresh := &iptablestest.Kernel{}
		if _, err := service.New(iptables.New(fresh, iptables.Options{}), service.Options{}).Apply(t.Context(), w.Config); err != nil {
			t.Fatal(err)
		}
		if have, want := k.Dump(), fresh.Dump(); have != want {
			t.Errorf("call %d failed: the kernel holds\n%s\nwant\n%s", n, have, want)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files")

// TestGolden: the rules of few, to be read.
func TestGolden(t *testing.T) {
	k := &iptablestest.Kernel{}
	if _, err := service.New(iptables.New(k, iptables.Options{}), service.Options{}).Apply(t.Context(), few()); err != nil {
		t.Fatal(err)
	}
	const path = "testdata/few.golden"
	have := k.Dump()
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(have), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), have); diff != "" {
		t.Errorf("rules (-want +have):\n%s", diff)
	}
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
