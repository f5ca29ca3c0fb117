package ipvs_test

import (
	"slices"
	"testing"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/flowtable"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
	"github.com/podnet/podnet/service/servicetest"
)

// skip leaves out other ports of addresses that are local for a Service: they are refused, see TestStrays.
func skip(_ string, f flowtable.Flow) string {
	if slices.Contains(f.Tags, "vip-port") {
		return "the address is local"
	}
	return ""
}

// askable leaves out the same of random states.
func askable(w servicetest.World, p servicetest.Packet) bool {
	want, err := w.Lookup(p)
	if err != nil || want.Outcome != servicetest.Pass || slices.Contains(w.Local, p.To) {
		return true
	}
	return !slices.ContainsFunc(w.Services, func(s service.Service) bool {
		return slices.Contains(s.LoadBalancerIPs, p.To) || slices.Contains(s.ExternalIPs, p.To)
	})
}

// agrees takes hashing for affinity, which is what there is where a mark leads to real servers with another port.
func agrees(got, want servicetest.Verdict) bool {
	if got.Affinity == ipvstest.Hashed && want.Affinity > 0 {
		got.Affinity = want.Affinity
	}
	return got.String() == want.String()
}

// following is a subject that follows the addresses of its node as Watch would.
type following struct {
	servicetest.Subject
	d *ipvs.Dataplane
	t testing.TB
}

func newSubject(t testing.TB) servicetest.Subject {
	n := ipvstest.NewNode()
	d := ipvs.New(n.Kernel(), ipvs.Options{})
	return following{n.Subject(d), d, t}
}

func (s following) SetMachine(m servicetest.Machine) {
	s.Subject.SetMachine(m)
	if failed, err := s.d.Refresh(s.t.Context()); failed || err != nil {
		s.t.Errorf("the addresses change: %v, %v", failed, err)
	}
}

// TestFlows: the flow tables on the walk over the fake kernel.
func TestFlows(t *testing.T) {
	for name, resync := range map[string]bool{"changes": false, "resync": true} {
		t.Run(name, func(t *testing.T) {
			o := flowtable.Options{Resync: resync, Skip: skip, Agrees: agrees}
			flowtable.Run(t, o, newSubject)
		})
	}
}

// TestRandom: random states against the oracle.
func TestRandom(t *testing.T) {
	o := servicetest.RandomOptions{States: 4000, Agrees: agrees, Ask: askable}
	if testing.Short() {
		o.States = 400
	}
	servicetest.RunRandom(t, o, newSubject)
}
