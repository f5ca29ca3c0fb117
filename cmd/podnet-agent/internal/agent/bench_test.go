package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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

func (k *fakeKernel) set(links []rtnl.Link, addrs []rtnl.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.links, k.addrs = links, addrs
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

func (k *fakeKernel) RouteTo(context.Context, netip.Addr) (rtnl.Route, error) {
	return rtnl.Route{}, syscall.ENETUNREACH
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
	mu     sync.Mutex
	count  int
	peers  int // of the last Apply
	result Result
	hook   func()
}

func (c *fakeConcern) Apply(_ context.Context, d Desired) Result {
	c.mu.Lock()
	c.count++
	c.peers = len(d.Peers)
	hook := c.hook
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.result
	c.result.Writes = 0
	return r
}

// applies is how often Apply was called.
func (c *fakeConcern) applies() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

func (c *fakeConcern) seenPeers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peers
}

// returns sets what Apply returns; writes only once.
func (c *fakeConcern) returns(r Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result = r
}

// during sets what happens while Apply runs.
func (c *fakeConcern) during(hook func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hook = hook
}

// logBuffer is a bytes.Buffer for two.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what was written since the last take.
func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
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
	log     *logBuffer
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
	b := &bench{source: &fakeSource{snapshot: node.Snapshot{Synced: true, Nodes: nodes(3)}}, kernel: newFakeKernel(), log: &logBuffer{},
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
	pause(time.Second) // the first pass, and the time behind it in which events gather
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
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), b.log.take()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// pause lets the bubble's time pass, and waits until nobody has anything to do.
func pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
