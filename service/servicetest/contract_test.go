package servicetest

import (
	"errors"
	"testing"

	"github.com/podnet/podnet/service"
)

// TestContract: the fake keeps the contract of the dataplanes.
func TestContract(t *testing.T) {
	for name, refuses := range map[string]bool{"by itself": false, "by its kernel": true} {
		t.Run(name, func(t *testing.T) {
			Contract(t, func(testing.TB) Kernel { return fakeKernel(refuses) })
		})
	}
}

func fakeKernel(refuses bool) Kernel {
	d := new(Dataplane)
	k := Kernel{
		New: func(testing.TB) service.Dataplane {
			d = d.Restart()
			return d
		},
		Lookup:     func(p Packet) (Verdict, error) { return d.Lookup(p) },
		SetMachine: func(m Machine) { d.SetMachine(m) },
		Flush:      func(testing.TB) { d.Flush() },
	}
	if refuses {
		k.Refuse = func(p service.Program) func() {
			d.Fault = func(c Call) error {
				if c.Op == "set" && c.Name == p.Name {
					return errors.New("refused")
				}
				return nil
			}
			return func() { d.Fault = nil }
		}
	}
	return k
}
