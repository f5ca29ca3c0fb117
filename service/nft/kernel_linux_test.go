package nft

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
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

// stays connects many times to a Service with affinity and returns who answers each time.
func (n *node) stays(t *testing.T) string {
	t.Helper()
	var first string
	err := n.ns.Do(func() (err error) {
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
	if err != nil {
		t.Fatal(err)
	}
	return first
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
	stays := func() string { return n.stays(t) }
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
	before := expires()
	for end := time.Now().Add(10 * time.Second); before == 0 || before > time.Hour-100*time.Millisecond; before = expires() { // 0: a dump on 6.1 that missed it
		if time.Now().After(end) {
			t.Fatalf("the time that is left does not pass: %s", before)
		}
	}
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
