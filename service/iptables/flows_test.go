package iptables_test

import (
	"testing"

	"github.com/podnet/podnet/service/internal/flowtable"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
	"github.com/podnet/podnet/service/servicetest"
)

// subject is the dataplane over the fake kernel.
type subject struct {
	*iptables.Dataplane
	kernel *iptablestest.Kernel
}

func newSubject(testing.TB) servicetest.Subject {
	k := &iptablestest.Kernel{}
	return subject{iptables.New(k, iptables.Options{}), k}
}

func (s subject) SetMachine(m servicetest.Machine) { s.kernel.SetLocal(m.Local...) }

func (s subject) Lookup(p servicetest.Packet) (servicetest.Verdict, error) {
	return s.kernel.Lookup(p)
}

// TestFlows runs the tables of packet flows on the rules that were written.
func TestFlows(t *testing.T) {
	for name, o := range map[string]flowtable.Options{"changes": {}, "resync": {Resync: true}} {
		t.Run(name, func(t *testing.T) { flowtable.Run(t, o, newSubject) })
	}
}

// TestRandom compares with the oracle.
func TestRandom(t *testing.T) {
	states := 2000
	if testing.Short() {
		states = 200
	}
	servicetest.RunRandom(t, servicetest.RandomOptions{States: states}, newSubject)
}
