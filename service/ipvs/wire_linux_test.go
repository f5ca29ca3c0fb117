package ipvs_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/flowtable"
	"github.com/podnet/podnet/service/internal/wire"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/servicetest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// onWire returns a dataplane in the node of w, which sends packets through the kernel's IPVS. It lets nothing drain: what a Service has lost is gone at once.
func onWire(t testing.TB, w *wire.Wire) servicetest.Subject {
	t.Helper()
	k, err := ipvs.Open(ipvs.OpenOptions{Netns: w.Netns().Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	d := ipvs.New(k, ipvs.Options{MaxDrain: 1})
	return following{w.Subject(t, d), d, t}
}

// TestWireFlows: the flow tables with real packets. All cases run on one node, each cleans up behind it.
func TestWireFlows(t *testing.T) {
	vmtest.RequireIPVS(t)
	w := wire.New(t)
	o := flowtable.Options{Agrees: wire.Agrees, Skip: func(name string, f flowtable.Flow) string {
		if f.Packet.From == f.Packet.To && f.Packet.In == "" {
			return "a packet with a local source that comes from elsewhere is a martian"
		}
		return skip(name, f)
	}}
	flowtable.Run(t, o, func(t testing.TB) servicetest.Subject { return onWire(t, w) })
}

// TestWireRandom: random states with real packets.
func TestWireRandom(t *testing.T) {
	vmtest.RequireIPVS(t)
	w := wire.New(t)
	o := servicetest.RandomOptions{States: 200, Agrees: wire.Agrees, Ask: func(w servicetest.World, p servicetest.Packet) bool {
		martian := slices.ContainsFunc(w.Services, func(s service.Service) bool {
			return slices.Contains(s.LoadBalancerIPs, p.From) || slices.Contains(s.ExternalIPs, p.From)
		})
		want, err := w.Lookup(p)
		itself := err == nil && slices.ContainsFunc(want.Targets, func(t servicetest.Target) bool { return t.Addr == netip.AddrPortFrom(p.To, p.Port) })
		return !martian && !itself && askable(w, p) // that an endpoint got what was sent to it shows nothing
	}}
	if testing.Short() {
		o.States = 20
	}
	servicetest.RunRandom(t, o, func(t testing.TB) servicetest.Subject { return onWire(t, w) })
}
