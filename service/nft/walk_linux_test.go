package nft

import (
	"flag"
	"fmt"
	"net/netip"
	"testing"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/flowtable"
	"github.com/podnet/podnet/service/servicetest"
)

// subject is a Dataplane over a fake kernel that executes the rules.
type subject struct {
	*Dataplane
	kernel *nfnltest.Kernel
}

func newSubject() *subject {
	k := &nfnltest.Kernel{}
	s := &subject{New(k.Open(), Options{}), k}
	s.least = 2 // so that sets are replaced by larger ones all the time
	return s
}

func (s *subject) SetMachine(m servicetest.Machine) { s.kernel.SetLocal(m.Local) }

// Lookup sends the packet through the rules. A packet of the node itself goes through output, all others through prerouting.
func (s *subject) Lookup(p servicetest.Packet) (servicetest.Verdict, error) { return walk(s.kernel, p) }

func walk(k *nfnltest.Kernel, p servicetest.Packet) (servicetest.Verdict, error) {
	packet := nfnltest.Packet{
		From: netip.AddrPortFrom(p.From, 34567), To: netip.AddrPortFrom(p.To, p.Port), Protocol: uint8(p.Protocol), In: p.In,
		Out: p.In == "" && k.IsLocal(p.From),
	}
	results, err := k.Walk(packet)
	if err != nil {
		return servicetest.Verdict{}, err
	}
	var v servicetest.Verdict
	for i, r := range results {
		var one servicetest.Verdict
		switch {
		case r.Verdict == nfnltest.Rejected:
			one.Outcome = servicetest.Rejects
		case r.Verdict == nfnltest.Dropped:
			one.Outcome = servicetest.Drops
		case r.Translated:
			one.Outcome = servicetest.Forwards
		case r.Masquerade:
			return v, fmt.Errorf("masqueraded without an endpoint")
		}
		if i > 0 && (one.Outcome != v.Outcome || r.Remembered != v.Affinity) {
			return v, fmt.Errorf("chance decides between %v and %v", v, r)
		}
		if r.Mark != 0 {
			return v, fmt.Errorf("mark %#x is left", r.Mark)
		}
		v.Outcome, v.Affinity = one.Outcome, r.Remembered
		if v.Outcome == servicetest.Forwards {
			v.Targets = append(v.Targets, servicetest.Target{Addr: r.To, Masquerade: r.Masquerade})
		}
	}
	return v, nil
}

func TestFlows(t *testing.T) {
	for name, o := range map[string]flowtable.Options{"changes": {}, "resync": {Resync: true}} {
		t.Run(name, func(t *testing.T) {
			flowtable.Run(t, o, func(testing.TB) servicetest.Subject { return newSubject() })
		})
	}
}

// states is how many random states TestRandom tries; -short tries a hundredth.
var (
	states = flag.Int("states", 100_000, "random states")
	seed   = flag.Uint64("seed", 0, "the only seed of TestRandom")
)

func TestRandom(t *testing.T) {
	n := *states
	if testing.Short() {
		n /= 100
	}
	servicetest.RunRandom(t, servicetest.RandomOptions{States: n, Seed: *seed}, func(testing.TB) servicetest.Subject { return newSubject() })
}

// TestContract: what every dataplane must keep, on the fake kernel.
func TestContract(t *testing.T) {
	table := func(f nfnl.Family) nfnl.Table { return nfnl.Table{Family: f, Name: tableName("")} }
	servicetest.Contract(t, func(testing.TB) servicetest.Kernel {
		k := &nfnltest.Kernel{}
		return servicetest.Kernel{
			New:        func(testing.TB) service.Dataplane { return New(k.Open(), Options{}) },
			Lookup:     func(p servicetest.Packet) (servicetest.Verdict, error) { return walk(k, p) },
			SetMachine: func(m servicetest.Machine) { k.SetLocal(m.Local) },
			Flush: func(t testing.TB) {
				var tx nfnl.Transaction
				tx.DeleteTable(table(nfnl.IPv4))
				tx.DeleteTable(table(nfnl.IPv6))
				if err := k.Open().Commit(t.Context(), &tx); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
