package main

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

func flush(t *testing.T, n *testNode, protocol rtnl.Protocol) {
	t.Helper()
	routes, err := n.conn.Routes(context.Background(), rtnl.RouteFilter{Protocol: protocol})
	if err != nil || len(routes) == 0 {
		t.Fatalf("%d routes of ours, %v", len(routes), err)
	}
	for _, r := range routes {
		mustWrite(t, n.conn, rtnl.Change{Verb: rtnl.Delete, Object: r})
	}
}

// fault breaks something that the agent keeps.
type fault struct {
	name string
	do   func(*testing.T)
}

func faultsOf(a *testNode) []fault {
	ctx := context.Background()
	vtep := vxlan.DeviceName(1, rtnl.IPv4)
	return []fault{
		{"VTEP deleted", func(t *testing.T) {
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: vtep}})
		}},
		{"VTEP down", func(t *testing.T) {
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: vtep, Up: rtnl.Off}})
		}},
		{"VTEP's MAC rewritten", func(t *testing.T) {
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: vtep, MAC: rtnl.MAC{2, 1, 2, 3, 4, 5}}})
		}},
		{"routes flushed", func(t *testing.T) { flush(t, a, rtnl.ProtocolVXLAN) }},
		{"neighbours flushed", func(t *testing.T) {
			neighs, err := a.conn.Neighs(ctx, vtep)
			if err != nil || len(neighs) == 0 {
				t.Fatalf("%d neighbours, %v", len(neighs), err)
			}
			for _, n := range neighs {
				mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Delete, Object: n})
			}
		}},
		{"FDB flushed", func(t *testing.T) {
			fdb, err := a.conn.FDB(ctx, vtep)
			if err != nil || len(fdb) == 0 {
				t.Fatalf("%d FDB entries, %v", len(fdb), err)
			}
			for _, f := range fdb {
				mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Delete, Object: f})
			}
		}},
	}
}

// wantHeals breaks things with packets under way, and wants these back within a second.
func wantHeals(t *testing.T, a, b *testNode) {
	for _, fault := range faultsOf(a) {
		t.Run(fault.name, func(t *testing.T) {
			bestOf(t, func() time.Duration {
				p := startProbe(t, a, b, false)
				if !p.answers(100) {
					t.Fatal("no packets before the fault")
				}
				fault.do(t)
				if !p.answers(200) {
					t.Error("no packets any more")
				}
				sent, lost, outage := p.finish()
				t.Logf("%d sent, %d lost, outage %v", sent, lost, outage.Round(time.Millisecond))
				return outage
			})
		})
	}
	t.Run("nft flushed", func(t *testing.T) {
		ctx := context.Background()
		r := masq.New(&masq.Netfilter{Netns: a.ns.Path()}, masq.Options{})
		want := masqConfig(t, a)
		stands := func() bool {
			p, err := r.Plan(ctx, want)
			return err == nil && p.Empty()
		}
		bestOf(t, func() time.Duration {
			if !stands() {
				t.Fatal("the rules do not stand")
			}
			if err := a.ns.Do(exec.Command("nft", "flush", "ruleset").Run); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if !poll(20*time.Second, stands) {
				t.Fatal("never healed")
			}
			t.Logf("healed in %v", time.Since(start).Round(time.Millisecond))
			return time.Since(start)
		})
	})
}

// bestOf wants an outage of at most a second. On a machine that is busy with other things one in three has to do: the kernel's rtnl lock
// is one for all namespaces.
func bestOf(t *testing.T, outage func() time.Duration) {
	t.Helper()
	for range 3 {
		if outage() <= time.Second {
			return
		}
	}
	t.Error("each outage was longer than 1s")
}
