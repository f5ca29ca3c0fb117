package nft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// node is a network namespace with endpoints 10.244.0.1 to 10.244.0.n on its loopback, each of which sends its address to whoever connects.
type node struct {
	ns *rtnltest.Netns
	k  *Conn
}

func newNode(t *testing.T, endpoints int) *node {
	t.Helper()
	ns := rtnltest.NewNetns(t)
	plan := rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.MustParsePrefix("10.99.0.1/32")}}}
	for i := range endpoints {
		plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.PrefixFrom(endpoint(i+1).Addr(), 32)}})
	}
	plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Link: "lo", Dst: netip.MustParsePrefix("0.0.0.0/0"), Src: netip.MustParseAddr("10.99.0.1")}})
	if err := errors.Join(ns.Conn(t).Write(t.Context(), plan)...); err != nil {
		t.Fatal(err)
	}
	k, err := Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	n := &node{ns, k}
	for i := range endpoints {
		n.serve(t, endpoint(i+1))
	}
	return n
}

func endpoint(n int) netip.AddrPort { return endpoints(n)[0].Addr }

// serve sends the address to whoever connects to it.
func (n *node) serve(t *testing.T, at netip.AddrPort) {
	t.Helper()
	var l net.Listener
	err := n.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, at.String())
			c.Close()
		}
	}()
}

// ask connects to 10.96.0.n:80 and returns who answers.
func ask(n int) (string, error) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("10.96.0.%d:80", n), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

// underLoad calls do over and over while connections to a Service are opened as fast as it goes, and wants each of them to succeed.
func (n *node) underLoad(t *testing.T, do func(i int)) {
	t.Helper()
	var wg sync.WaitGroup
	var end atomic.Bool
	var count atomic.Int64
	var failed atomic.Pointer[error]
	for range 4 {
		wg.Go(func() {
			if err := n.ns.Do(func() error {
				for !end.Load() {
					if _, err := ask(1); err != nil {
						return err
					}
					count.Add(1)
				}
				return nil
			}); err != nil {
				failed.Store(&err)
			}
		})
	}
	rounds := 0
	for start := time.Now(); rounds < 300 || count.Load() < 3000; rounds++ {
		do(rounds)
		if failed.Load() != nil || time.Since(start) > time.Minute {
			break
		}
	}
	end.Store(true)
	wg.Wait()
	if err := failed.Load(); err != nil {
		t.Errorf("connection %d failed: %v", count.Load(), *err)
	}
	if count.Load() < 1000 {
		t.Errorf("only %d connections", count.Load())
	}
	t.Logf("%d rounds, %d connections", rounds, count.Load())
}

// TestKernelNoConnectFails: while endpoints come and go, a process restarts, somebody changes the rules and sets are replaced by larger ones, no connection fails.
func TestKernelNoConnectFails(t *testing.T) {
	n := newNode(t, 8)
	d := New(n.k, Options{})
	d.least = 2
	apply(t, d, full(program(1, 1, 2, 3, 4, 5, 6, 7, 8)))
	for name, do := range map[string]func(i int){
		"endpoints": func(i int) {
			var to []int
			for j := range 8 {
				if (i*2654435761>>j)&1 == 1 || j == i%8 {
					to = append(to, j+1)
				}
			}
			apply(t, d, some(program(1, to...)))
		},
		"growth": func(i int) {
			all := []service.Program{program(1, 1, 2, 3)}
			for j := range 1 << (i % 8) {
				all = append(all, program(j+3, 1, 2, 3, 4))
			}
			apply(t, d, full(all...))
			if i%8 == 7 {
				apply(t, d, full(all[:1]...))
			}
		},
		"affinity": func(i int) {
			p := program(1, i%8+1, 9+i%2)
			if i%2 == 0 {
				p.Ports[0].Cluster = p.Ports[0].Cluster[:1]
			} else {
				p = program(1, 1, 2, 3)
			}
			p.Ports[0].Affinity = time.Duration(i%3) * time.Hour
			apply(t, d, some(p))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n.underLoad(t, do)
		})
	}
}

// TestKernelRestart: a new process takes over under load, finds nothing to do, and no connection fails; one that lives is not cut.
func TestKernelRestart(t *testing.T) {
	n := newNode(t, 4)
	apply(t, New(n.k, Options{}), full(program(1, 1, 2, 3, 4)))
	n.underLoad(t, func(int) {
		k, err := Open(n.ns.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if r := apply(t, New(k, Options{}), full(program(1, 1, 2, 3, 4))); r.Writes > 0 {
			t.Errorf("a restart wrote %d objects", r.Writes)
		}
	})
}

// TestKernelAffinity: a client stays with its endpoint as long as that is one, and is remembered for the whole time again with each connection.
func TestKernelAffinity(t *testing.T) {
	n := newNode(t, 8)
	d := New(n.k, Options{})
	want := func(to ...int) service.Program {
		p := program(1, to...)
		p.Ports[0].Affinity = time.Hour
		return p
	}
	inside := func(f func() error) {
		t.Helper()
		if err := n.ns.Do(f); err != nil {
			t.Fatal(err)
		}
	}
	stays := func() string {
		t.Helper()
		var first string
		inside(func() (err error) {
			if first, err = ask(1); err != nil {
				return err
			}
			for range 20 {
				if next, err := ask(1); err != nil || next != first {
					return fmt.Errorf("%s, then %s: %w", first, next, err)
				}
			}
			return nil
		})
		return first
	}
	apply(t, d, full(want(1, 2, 3, 4, 5, 6, 7, 8)))
	first := stays()
	var rest []int
	for i := range 8 {
		if endpoint(i+1).String() != first {
			rest = append(rest, i+1)
		}
	}
	apply(t, d, some(want(rest...)))
	second := stays()
	if second == first {
		t.Errorf("%s is no endpoint any more", first)
	}
	apply(t, d, some(want(1, 2, 3, 4, 5, 6, 7, 8)))
	if again := stays(); again != second {
		t.Errorf("%s, then %s", second, again)
	}
	apply(t, New(n.k, Options{}), full(want(1, 2, 3, 4, 5, 6, 7, 8))) // a restart
	if again := stays(); again != second {
		t.Errorf("%s, after a restart %s", second, again)
	}
	expires := func() (left time.Duration) {
		err := n.k.Elements(t.Context(), d.tables[0].name, setNames[setAffinity], func() { left = 0 }, func(x nfnl.Element) { left = x.Expires })
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	for end := time.Now().Add(10 * time.Second); expires() > time.Hour-100*time.Millisecond; {
		if time.Now().After(end) {
			t.Fatal("the time that is left does not pass")
		}
	}
	before := expires()
	stays()
	if after := expires(); after <= before || after > time.Hour {
		t.Errorf("%s are left, after another connection %s", before, after)
	}
}

// TestKernelAffinityIsFull: who finds no place is served without affinity.
func TestKernelAffinityIsFull(t *testing.T) {
	n := newNode(t, 2)
	p, q := program(1, 1, 2), program(2, 1, 2)
	p.Ports[0].Affinity, q.Ports[0].Affinity = time.Hour, time.Hour
	apply(t, New(n.k, Options{AffinityClients: 1}), full(p, q))
	if err := n.ns.Do(func() error {
		if _, err := ask(1); err != nil {
			return err
		}
		seen := map[string]bool{}
		for range 60 {
			who, err := ask(2)
			if err != nil {
				return err
			}
			seen[who] = true
		}
		if len(seen) != 2 {
			return fmt.Errorf("met %v", seen)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestKernelRepair: whatever somebody does to the tables, the Reconciler repairs it within a second.
func TestKernelRepair(t *testing.T) {
	n := newNode(t, 2)
	d := New(n.k, Options{})
	r := service.New(d, service.Options{})
	c := config(1)
	r.SetService(c.Services[0])
	r.SetSlice(c.Services[0].Name, "a", c.Endpoints[c.Services[0].Name][0])
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	healthy := func() error {
		return n.ns.Do(func() error {
			for range 4 {
				if _, err := ask(1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	until := func(f func() error) time.Duration {
		t.Helper()
		start := time.Now()
		for {
			err := f()
			if err == nil {
				return time.Since(start)
			}
			if time.Since(start) > 20*time.Second {
				t.Fatal(err)
			}
		}
	}
	until(healthy)
	want := n.list(t)
	same := func() error {
		if have := n.list(t); have != want {
			return fmt.Errorf("have:\n%s\nwant:\n%s", have, want)
		}
		return nil
	}
	until(same)
	for _, harm := range []string{
		"flush ruleset",
		"flush table ip podnet-service",
		"delete table ip podnet-service",
		"delete element ip podnet-service endpoints-1024 { 0x1 . 0x0 }",
		"flush map ip podnet-service frontends-1024",
		"flush chain ip podnet-service services",
		"flush chain ip podnet-service prerouting; delete chain ip podnet-service prerouting",
		"flush map ip podnet-service classes; delete chain ip podnet-service cluster2",
		"add table ip podnet-service { flags dormant; }",
		"insert rule ip podnet-service services drop",
		"add chain ip podnet-service evil { type filter hook output priority 0; policy drop; }",
	} {
		out, err := exec.Command("ip", "netns", "exec", n.ns.Name(), "nft", harm).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %s", harm, out)
		}
		took := until(same)
		if took > time.Second {
			t.Errorf("%s: repaired after %s", harm, took)
		}
		t.Logf("%s: %s", harm, took)
		if err := healthy(); err != nil {
			t.Errorf("%s: %v", harm, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// list shows the table without numbers that may differ.
func (n *node) list(t *testing.T) string {
	t.Helper()
	seen, err := n.k.Describe(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	rules := map[string]string{}
	for _, r := range seen.Rules {
		rules[r.Chain] += "  " + r.Comment + "\n"
	}
	chains := map[string]bool{}
	for _, c := range seen.Chains {
		chains[c.Name] = true
		if rules[c.Name] == "" {
			return "empty chain " + c.Name
		}
	}
	for _, name := range []string{"prerouting", "output", "postrouting", "services", "firewall", "cluster2"} {
		fmt.Fprintf(&b, "%s %v\n%s", name, chains[name], rules[name])
	}
	fmt.Fprintf(&b, "dormant %v, %d chains\n", seen.Dormant, len(chains))
	for _, s := range seen.Sets {
		count := 0
		if err := n.k.Elements(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"}, s.Name, func() { count = 0 }, func(nfnl.Element) { count++ }); err != nil {
			return err.Error()
		}
		fmt.Fprintf(&b, "%s %d\n", s.Name, count)
	}
	return b.String()
}

// TestKernelRandom: the same transactions leave the same in the fake and in the real kernel, and a restart finds nothing to do there.
func TestKernelRandom(t *testing.T) {
	k := kernel(t)
	random := servicetest.NewRandom(7)
	r := service.New(New(k, Options{}), service.Options{})
	for i := range 40 {
		random.Change()
		if _, err := r.Apply(t.Context(), random.World.Config); err != nil {
			t.Fatal(i, err)
		}
		again, err := service.New(New(k, Options{}), service.Options{}).Apply(t.Context(), random.World.Config)
		if err != nil || again.Writes > 0 {
			t.Fatalf("state %d: a restart wrote %d objects: %v", i, again.Writes, err)
		}
	}
}

// TestKernelListing: nft shows the tables and does not stumble over them.
func TestKernelListing(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	k, err := Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	random := servicetest.NewRandom(3)
	for range 30 {
		random.Change()
		d := New(k, Options{})
		if _, err := service.New(d, service.Options{}).Apply(t.Context(), random.World.Config); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ip", "netns", "exec", ns.Name(), "nft", "list", "ruleset").CombinedOutput()
		if err != nil || strings.Contains(string(out), "rror") || len(out) == 0 && len(random.World.Services) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
	}
}
