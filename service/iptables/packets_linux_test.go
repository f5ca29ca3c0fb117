package iptables_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/flowtable"
	"github.com/podnet/podnet/service/internal/wire"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/servicetest"
)

// onWire returns dataplanes in a node that real packets come to.
func onWire(t *testing.T, v iptables.Variant) func(testing.TB) servicetest.Subject {
	w := wire.New(t)
	d := hookedOnce{iptables.New(&iptables.Tools{Netns: w.Netns().Path(), Variant: v}, iptables.Options{})}
	return func(t testing.TB) servicetest.Subject { return w.Subject(t, d) }
}

// hookedOnce leaves the rules that lead to our chains where they are between cases: each of them costs a process.
type hookedOnce struct{ *iptables.Dataplane }

func (d hookedOnce) Cleanup(ctx context.Context) error {
	_, err := d.Apply(ctx, service.Delta{Full: true})
	return err
}

// TestKernelFlows: the flow tables with real packets. All cases run on one node, each cleans up behind it.
func TestKernelFlows(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		flowtable.Run(t, flowtable.Options{Agrees: wire.Agrees}, onWire(t, v))
	})
}

// TestKernelRandom: random states with real packets.
func TestKernelRandom(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		servicetest.RunRandom(t, servicetest.RandomOptions{States: 40, Packets: 10, Agrees: wire.Agrees}, onWire(t, v))
	})
}

// TestKernelAffinity: a client stays with its endpoint while others come and go and the proxy restarts (row D14 of the fault catalogue), and leaves one that is gone.
func TestKernelAffinity(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		w := wire.New(t)
		if err := w.SetMachine(scaleMachine()); err != nil {
			t.Fatal(err)
		}
		d := iptables.New(&iptables.Tools{Netns: w.Netns().Path(), Variant: v}, iptables.Options{})
		web := many(1, 6)[0]
		web.Ports[0].Affinity = time.Hour
		endpoints := web.Ports[0].Cluster
		full := func(endpoints []service.Backend) service.Delta {
			web.Ports[0].Cluster = endpoints
			return service.Delta{Node: scaleNode, Full: true, Set: []service.Program{web}}
		}
		client := servicetest.Packet{From: netip.MustParseAddr("10.244.1.5"), In: "cni0", To: web.Ports[0].Frontends[0].Addr, Port: 80, Protocol: service.TCP}
		ask := func() netip.AddrPort {
			t.Helper()
			v, err := w.Lookup(client)
			if err != nil || len(v.Targets) != 1 {
				t.Fatalf("%s: %s, %v, want one endpoint", client, v, err)
			}
			return v.Targets[0].Addr
		}
		apply(t, d, full(endpoints[1:5]))
		mine := ask()
		stays := func(what string, list []service.Backend) {
			t.Helper()
			apply(t, d, full(list))
			if have := ask(); have != mine {
				t.Errorf("%s: the client went from %s to %s", what, mine, have)
			}
		}
		stays("an endpoint comes in front", endpoints[:5])
		stays("an endpoint comes behind", endpoints)
		only := slices.DeleteFunc(slices.Clone(endpoints), func(b service.Backend) bool { return b.Addr != mine && b != endpoints[0] })
		stays("the others go", only)
		d = iptables.New(&iptables.Tools{Netns: w.Netns().Path(), Variant: v}, iptables.Options{})
		stays("a restart", only)
		left := slices.DeleteFunc(slices.Clone(endpoints), func(b service.Backend) bool { return b.Addr == mine })
		apply(t, d, full(left))
		if have := ask(); have == mine {
			t.Errorf("the client is with %s, which is gone", have)
		}
		mine = ask()
		stays("and stays with the next", left)
	})
}
