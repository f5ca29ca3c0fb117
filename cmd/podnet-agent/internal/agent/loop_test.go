package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

// fakeSource is a NodeSource that a test changes.
type fakeSource struct {
	mu       sync.Mutex
	snapshot node.Snapshot
	notify   func()
}

func (s *fakeSource) Run(ctx context.Context, notify func()) error {
	s.mu.Lock()
	s.notify = notify
	s.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (s *fakeSource) Snapshot() node.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot
}

func (s *fakeSource) set(snapshot node.Snapshot) {
	s.mu.Lock()
	s.snapshot = snapshot
	notify := s.notify
	s.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// fakeKernel has one uplink.
type fakeKernel struct {
	mu     sync.Mutex
	links  []rtnl.Link
	addrs  []rtnl.Addr
	routes []rtnl.Route
	sysctl map[string]string
}

func (k *fakeKernel) Links(context.Context) ([]rtnl.Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.links, nil
}

func (k *fakeKernel) Addrs(context.Context, string) ([]rtnl.Addr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.addrs, nil
}
func (k *fakeKernel) Routes(context.Context, rtnl.RouteFilter) ([]rtnl.Route, error) {
	return k.routes, nil
}

func (k *fakeKernel) Sysctl(_ context.Context, name string) (string, error) {
	v, ok := k.sysctl[name]
	if !ok {
		return "", &rtnl.Error{Op: "sysctl get", Object: name, Errno: 2, Missing: true}
	}
	return v, nil
}

func (k *fakeKernel) Write(_ context.Context, p rtnl.Plan) []error {
	for _, c := range p {
		s := c.Object.(rtnl.Sysctl)
		k.sysctl[s.Name] = s.Value
	}
	return nil
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{
		links:  []rtnl.Link{{Name: "eth0", Index: 2, MTU: 1500}},
		addrs:  []rtnl.Addr{{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.1.1/24")}},
		sysctl: map[string]string{"net/ipv4/ip_forward": "0"},
	}
}

// fakeConcern stands or fails as the test says, and counts.
type fakeConcern struct {
	applies int
	result  Result
	apply   func()
}

func (c *fakeConcern) Apply(context.Context, Desired) Result {
	c.applies++
	if c.apply != nil {
		c.apply()
	}
	r := c.result
	c.result.Writes = 0
	return r
}

// bench is an agent with fakes around it, inside a synctest bubble.
type bench struct {
	*Agent
	source  *fakeSource
	kernel  *fakeKernel
	backend *fakeConcern
	masq    *fakeConcern
	handoff *fakeConcern
	event   func() // as if the kernel had told of something
	log     *bytes.Buffer
	stop    func()
}

func nodes(count int) []node.Node {
	out := make([]node.Node, count)
	for i := range out {
		out[i] = node.Node{
			Name:      fmt.Sprintf("node-%d", i+1),
			PodCIDRs:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))},
			Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", i+1))},
		}
	}
	return out
}

func netConf() netconf.Config {
	return netconf.Config{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Backend:  netconf.Backend{Type: netconf.VXLAN, VNI: 1, Port: 8472},
	}
}

func startBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{source: &fakeSource{snapshot: node.Snapshot{Synced: true, Nodes: nodes(3)}}, kernel: newFakeKernel(), log: &bytes.Buffer{},
		backend: &fakeConcern{result: Result{Writes: 5}}, masq: &fakeConcern{}, handoff: &fakeConcern{}}
	concerns := []Concern{
		{"backend", []string{needNode, needUplink}, b.backend.Apply},
		{"masq", []string{needNode}, b.masq.Apply},
		{"handoff", []string{needNode, needUplink, "backend", "masq"}, b.handoff.Apply},
	}
	events := make(chan struct{})
	b.event = func() { events <- struct{}{} }
	b.Agent = New(Options{
		NodeName: "node-1", Net: netConf(), Resync: 10 * time.Second, Hold: time.Minute, Source: b.source, Kernel: b.kernel, Concerns: concerns,
		Watches: []Watch{{Name: "kernel", Run: func(ctx context.Context, notify func()) error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-events:
					notify()
				}
			}
		}}},
		Metrics: NewMetrics("test", Names(concerns)),
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "took" {
				return slog.Attr{}
			}
			return a
		}})),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
	time.Sleep(time.Second) // the first pass, and the time behind it in which events gather
	return b
}

func (b *bench) get(t *testing.T, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	b.Handler(false).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func (b *bench) wantReady(t *testing.T, code int, body string) {
	t.Helper()
	gotCode, gotBody := b.get(t, "/readyz")
	if gotCode != code || gotBody != body {
		t.Errorf("/readyz = %d %q, want %d %q", gotCode, gotBody, code, body)
	}
}

func (b *bench) wantLog(t *testing.T, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), b.log.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	b.log.Reset()
}

func TestLoopConvergesAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.wantReady(t, 200, "ok\n")
		b.wantLog(t, `
level=INFO msg=reconciled peers=2 backend=5
`)
		time.Sleep(time.Second)
		if b.backend.applies != 1 {
			t.Errorf("%d passes without a reason", b.backend.applies)
		}
		// Somebody removed something: the event brings a pass at once.
		b.backend.result.Writes = 2
		b.event()
		synctest.Wait()
		b.wantLog(t, `
level=INFO msg=healed peers=2 backend=2
`)
		if got := testutil.ToFloat64(b.o.Metrics.heals); got != 1 {
			t.Errorf("heals = %v", got)
		}
		// A burst of events is one pass at once and one behind it.
		time.Sleep(time.Second)
		before := b.backend.applies
		for range 1000 {
			b.event()
		}
		time.Sleep(100 * time.Millisecond)
		if got := b.backend.applies - before; got != 2 {
			t.Errorf("%d passes for a burst, want 2", got)
		}
		// Without any event, the resync finds it.
		before = b.backend.applies
		b.backend.result.Writes = 1
		time.Sleep(10 * time.Second)
		if got := testutil.ToFloat64(b.o.Metrics.heals); got != 2 || b.backend.applies == before {
			t.Errorf("heals = %v after %d passes", got, b.backend.applies-before)
		}
	})
}

func TestLoopFailureAndBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.Reset()
		handoffs, masqs := b.handoff.applies, b.masq.applies
		b.backend.result = Result{Err: errors.New("device busy")}
		b.event()
		synctest.Wait()
		b.wantReady(t, 503, "backend: device busy\nhandoff: waits for backend\n")
		before := b.backend.applies
		time.Sleep(time.Minute)
		// 0.25 + 0.5 + 1 + 2 + 4 + 8 seconds, then every 10 with the resync in between.
		if got := b.backend.applies - before; got < 8 || got > 22 {
			t.Errorf("%d tries in a minute", got)
		}
		if b.masq.applies == masqs || b.handoff.applies != handoffs {
			t.Errorf("masq tried %d times, handoff %d: a failure keeps back only what needs it", b.masq.applies-masqs, b.handoff.applies-handoffs)
		}
		b.wantLog(t, `
level=WARN msg="concern failed" name=backend err="device busy"
`)
		b.backend.result = Result{Writes: 1}
		time.Sleep(12 * time.Second)
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
		b.backend.result.Err = errors.New("half done")
		b.backend.apply = b.Notify
		b.Notify()
		time.Sleep(time.Minute)
		if b.backend.applies > 70 {
			t.Errorf("%d passes in a minute", b.backend.applies)
		}
		b.backend.apply = nil
	})
}

// Neither must someone who undoes each write at once.
func TestLoopFightsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		before := b.backend.applies
		b.backend.apply = func() {
			b.backend.result.Writes = 1
			b.Notify()
		}
		b.Notify()
		time.Sleep(time.Minute)
		if n := b.backend.applies - before; n < 55 || n > 70 {
			t.Errorf("%d passes in a minute, want about one a second", n)
		}
		b.backend.apply = nil
	})
}

func TestLoopUplinkComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.Reset()
		b.kernel.mu.Lock()
		links, addrs := b.kernel.links, b.kernel.addrs
		b.kernel.links, b.kernel.addrs = nil, nil
		b.kernel.mu.Unlock()
		b.event()
		synctest.Wait()
		b.wantReady(t, 503, "uplink: no device has an address of this node ([192.168.1.1]), and there is no default route; name one with --iface\nbackend: waits for uplink\nhandoff: waits for uplink\n")
		before := b.backend.applies
		time.Sleep(time.Hour)
		if b.backend.applies != before {
			t.Error("the backend was applied without an uplink")
		}
		b.kernel.mu.Lock()
		b.kernel.links, b.kernel.addrs = links, addrs
		b.kernel.mu.Unlock()
		b.event()
		time.Sleep(time.Second)
		b.wantReady(t, 200, "ok\n")
	})
}

func TestLoopNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		defer b.stop()
		b.log.Reset()
		all := nodes(3)
		// A change of the nodes makes the agent unready until a pass has seen it.
		b.event()
		synctest.Wait()
		b.backend.result.Writes = 4
		b.source.set(node.Snapshot{Synced: true, Nodes: all[:2], Problems: []string{"c.yaml:1: broken"}})
		b.wantReady(t, 503, "a change of the nodes is being worked in\n")
		time.Sleep(time.Second)
		b.wantReady(t, 200, "ok\nnote: c.yaml:1: broken\n")
		b.wantLog(t, `
level=WARN msg="left out" what="c.yaml:1: broken"
level=INFO msg=reconciled peers=1 backend=4
`)
		if got := testutil.ToFloat64(b.o.Metrics.invalid); got != 1 {
			t.Errorf("invalid = %v", got)
		}
		time.Sleep(time.Minute)
		b.source.set(node.Snapshot{Synced: true, Nodes: all[:2]})
		time.Sleep(time.Second)
		b.wantLog(t, `
level=INFO msg="no longer left out" what="c.yaml:1: broken"
`)
		before := b.backend.applies
		b.source.set(node.Snapshot{Synced: true, Nodes: all[1:]})
		time.Sleep(time.Second)
		b.wantReady(t, 503, "node: no description of this node, \"node-1\", among 2\nuplink: waits for node\nbackend: waits for node\nmasq: waits for node\nhandoff: waits for node\n")
		if b.backend.applies != before {
			t.Error("the backend was applied for a node without a description")
		}
	})
}

func TestLoopStopsAfterPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t)
		release := make(chan struct{})
		b.backend.apply = func() { <-release }
		b.event()
		time.Sleep(time.Second)
		go func() {
			time.Sleep(3 * time.Second)
			close(release)
		}()
		handoffs := b.handoff.applies
		b.stop()
		if b.handoff.applies != handoffs+1 {
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
		b.backend.apply = func() { <-release }
		b.event()
		time.Sleep(time.Minute)
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
		b.log.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		runs := 0
		go b.keep(ctx, "fragile", func(context.Context) error {
			runs++
			return errors.New("socket closed")
		})
		go b.keep(ctx, "none", func(context.Context) error { return errors.ErrUnsupported })
		time.Sleep(time.Minute)
		cancel()
		synctest.Wait()
		if runs < 5 || runs > 12 {
			t.Errorf("%d runs in a minute", runs)
		}
		if n := strings.Count(b.log.String(), "\n"); n != 2 {
			t.Errorf("%d log lines, want one each:\n%s", n, b.log)
		}
	})
}

func TestInterests(t *testing.T) {
	a := New(Options{Net: netConf()})
	a.devices.Store(newDevices(netConf(), "eth0"))
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
