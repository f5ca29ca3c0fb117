package iptables_test

import (
	"context"
	"testing"

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
