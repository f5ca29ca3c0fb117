package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

func TestLoopConvergesAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.wantReady(t, 200, "ok\n")
		b.wantLog(t, `
level=INFO msg=reconciled peers=2 backend=5
`)
		pause(time.Second)
		if b.backend.applies() != 1 {
			t.Errorf("%d passes without a reason", b.backend.applies())
		}
		// Somebody removed something: the event brings a pass at once.
		b.backend.returns(Result{Writes: 2})
		b.event()
		synctest.Wait()
		b.wantLog(t, `
level=INFO msg=healed peers=2 backend=2
`)
		if got := testutil.ToFloat64(b.o.Metrics.heals); got != 1 {
			t.Errorf("heals = %v", got)
		}
		// A burst of events is one pass at once and one behind it.
		pause(time.Second)
		before := b.backend.applies()
		for range 1000 {
			b.event()
		}
		pause(100 * time.Millisecond)
		if got := b.backend.applies() - before; got != 2 {
			t.Errorf("%d passes for a burst, want 2", got)
		}
		// Without any event, the resync finds it.
		before = b.backend.applies()
		b.backend.returns(Result{Writes: 1})
		pause(10 * time.Second)
		if got := testutil.ToFloat64(b.o.Metrics.heals); got != 2 || b.backend.applies() == before {
			t.Errorf("heals = %v after %d passes", got, b.backend.applies()-before)
		}
	})
}

func TestLoopFailureAndBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.take()
		handoffs, masqs := b.handoff.applies(), b.masq.applies()
		b.backend.returns(Result{Err: errors.New("device busy")})
		b.event()
		synctest.Wait()
		b.wantReady(t, 503, "backend: device busy\nhandoff: waits for backend\n")
		before := b.backend.applies()
		pause(time.Minute)
		// 0.25 + 0.5 + 1 + 2 + 4 + 8 seconds, then every 10 with the resync in between.
		if got := b.backend.applies() - before; got < 8 || got > 22 {
			t.Errorf("%d tries in a minute", got)
		}
		if b.masq.applies() == masqs || b.handoff.applies() != handoffs {
			t.Errorf("masq tried %d times, handoff %d: a failure keeps back only what needs it", b.masq.applies()-masqs, b.handoff.applies()-handoffs)
		}
		b.wantLog(t, `
level=WARN msg="concern failed" name=backend err="device busy"
`)
		b.backend.returns(Result{Writes: 1})
		pause(12 * time.Second)
		b.wantReady(t, 200, "ok\n")
		b.wantLog(t, `
level=INFO msg="concern recovered" name=backend was="device busy"
level=INFO msg=reconciled peers=2 backend=1
`)
	})
}

// Events that our own failing writes cause must not turn the loop into a busy one.
func TestLoopFailingWritesDoNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.backend.returns(Result{Err: errors.New("half done")})
		b.backend.during(b.Notify)
		b.Notify()
		pause(time.Minute)
		if b.backend.applies() > 70 {
			t.Errorf("%d passes in a minute", b.backend.applies())
		}
		b.backend.during(nil)
	})
}

// Neither must someone who undoes each write at once.
func TestLoopFightsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		before := b.backend.applies()
		b.backend.during(func() {
			b.backend.returns(Result{Writes: 1})
			b.Notify()
		})
		b.Notify()
		pause(time.Minute)
		if n := b.backend.applies() - before; n < 55 || n > 70 {
			t.Errorf("%d passes in a minute, want about one a second", n)
		}
		b.backend.during(nil)
	})
}

func TestLoopUplinkComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.take()
		links, addrs := b.kernel.links, b.kernel.addrs
		b.kernel.set(nil, nil)
		b.event()
		synctest.Wait()
		b.wantReady(t, 503, "uplink: no device has an address of this node ([192.168.1.1]), and there is no default route; name one with --iface\nbackend: waits for uplink\nhandoff: waits for uplink\n")
		before := b.backend.applies()
		pause(time.Hour)
		if b.backend.applies() != before {
			t.Error("the backend was applied without an uplink")
		}
		b.kernel.set(links, addrs)
		b.event()
		pause(time.Second)
		b.wantReady(t, 200, "ok\n")
	})
}

func TestLoopNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.take()
		all := nodes(3)
		// A change of the nodes makes the agent unready until a pass has seen it.
		b.event()
		synctest.Wait()
		b.backend.returns(Result{Writes: 4})
		b.source.set(node.Snapshot{Synced: true, Nodes: all[:2], Problems: []string{"c.yaml:1: broken"}})
		b.wantReady(t, 503, "a change of the nodes is being worked in\n")
		pause(time.Second)
		b.wantReady(t, 200, "ok\nnote: c.yaml:1: broken\n")
		b.wantLog(t, `
level=WARN msg="left out" what="c.yaml:1: broken"
level=INFO msg=reconciled peers=1 backend=4
`)
		if got := testutil.ToFloat64(b.o.Metrics.invalid); got != 1 {
			t.Errorf("invalid = %v", got)
		}
		pause(time.Minute)
		b.source.set(node.Snapshot{Synced: true, Nodes: all[:2]})
		pause(time.Second)
		b.wantLog(t, `
level=INFO msg="no longer left out" what="c.yaml:1: broken"
`)
		before := b.backend.applies()
		b.source.set(node.Snapshot{Synced: true, Nodes: all[1:]})
		pause(time.Second)
		b.wantReady(t, 503, "node: no description of this node, \"node-1\", among 2\nuplink: waits for node\nbackend: waits for node\nmasq: waits for node\nhandoff: waits for node\n")
		if b.backend.applies() != before {
			t.Error("the backend was applied for a node without a description")
		}
	})
}

// A directory that is suddenly empty but for this node takes no peer away until a minute has passed.
func TestLoopHoldsPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.source.set(node.Snapshot{Synced: true, Nodes: nodes(9)})
		pause(time.Second)
		b.source.set(node.Snapshot{Synced: true, Nodes: nodes(1)})
		pause(59 * time.Second)
		if b.backend.seenPeers() != 8 {
			t.Errorf("%d peers while they are held, want 8", b.backend.seenPeers())
		}
		b.wantReady(t, 200, "ok\nnote: 8 of 8 peers disappeared at once: kept for 1m0s, in case that is a fault\n")
		pause(2 * time.Second)
		if b.backend.seenPeers() != 0 {
			t.Errorf("%d peers after a minute, want 0", b.backend.seenPeers())
		}
		b.wantReady(t, 200, "ok\n")
	})
}

func TestLoopStopsAfterPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		release := make(chan struct{})
		b.backend.during(func() { <-release })
		b.event()
		pause(time.Second)
		go func() {
			time.Sleep(3 * time.Second)
			close(release)
		}()
		handoffs := b.handoff.applies()
		b.stop()
		if b.handoff.applies() != handoffs+1 {
			t.Error("the pass under way was cut short")
		}
	})
}

func TestHealthz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		if code, body := b.get(t, "/healthz"); code != 200 {
			t.Errorf("%d %s", code, body)
		}
		release := make(chan struct{})
		b.backend.during(func() { <-release })
		b.event()
		pause(time.Minute)
		if code, body := b.get(t, "/healthz"); code != 503 || body != "the loop came by 1m0s ago\nwant at most 50s\n" {
			t.Errorf("%d %q", code, body)
		}
		close(release)
		synctest.Wait()
	})
}

func TestWatchRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.take()
		ctx, cancel := context.WithCancel(t.Context())
		runs := 0 // read after the bubble has come to rest
		go b.keep(ctx, "fragile", func(context.Context) error {
			runs++
			return errors.New("socket closed")
		})
		go b.keep(ctx, "none", func(context.Context) error { return errors.ErrUnsupported })
		pause(time.Minute)
		cancel()
		synctest.Wait()
		if runs < 5 || runs > 12 {
			t.Errorf("%d runs in a minute", runs)
		}
		if log := b.log.take(); strings.Count(log, "\n") != 2 {
			t.Errorf("want one log line each:\n%s", log)
		}
	})
}

func TestInterests(t *testing.T) {
	a := New(Options{Net: netConf()})
	a.devices.Store(newDevices(Desired{Net: netConf(), Uplink: rtnl.Link{Name: "eth0"}, seen: map[string]bool{"eth0": true, "cni0": true}}))
	for _, tt := range []struct {
		event rtnl.Event
		want  bool
	}{
		{rtnl.Event{Overflow: true}, true},
		{rtnl.Event{Object: "link", Link: "eth0"}, true},
		{rtnl.Event{Object: "link", Link: "podnet.1", Deleted: true}, true},
		{rtnl.Event{Object: "link", Deleted: true}, true},
		{rtnl.Event{Object: "link", Link: "veth1234"}, false},
		{rtnl.Event{Object: "addr", Link: "podnet-v6.1"}, true},
		{rtnl.Event{Object: "addr", Link: "cni0"}, false},
		{rtnl.Event{Object: "link", Link: "lan0"}, true}, // eth0's new name
		{rtnl.Event{Object: "route", Protocol: rtnl.ProtocolVXLAN, Link: "podnet.1"}, true},
		{rtnl.Event{Object: "route", Protocol: rtnl.ProtocolHostGW}, true},
		{rtnl.Event{Object: "route", Protocol: rtnl.ProtocolKernel, Link: "eth0"}, false},
		{rtnl.Event{Object: "neigh", Link: "podnet.1"}, true},
		{rtnl.Event{Object: "neigh", Link: "eth0"}, false},
		{rtnl.Event{Object: "neigh"}, false},
	} {
		if got := a.Interests(tt.event); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.event, got, tt.want)
		}
	}
}
