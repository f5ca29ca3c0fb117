package rtnl_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

func write(tb testing.TB, c *rtnl.Conn, plan string) {
	tb.Helper()
	p, err := rtnltest.ParsePlan(plan)
	if err != nil {
		tb.Fatal(err)
	}
	must(tb, c.Write(tb.Context(), p))
}

// run runs ip(8) or bridge(8) for what rtnl cannot write.
func run(t *testing.T, ns *rtnltest.Netns, tool, args string) {
	t.Helper()
	out, err := exec.Command(tool, append([]string{"-n", ns.Name()}, strings.Fields(args)...)...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no ", tool, " here, which makes what rtnl cannot write")
	}
	if err != nil {
		t.Fatalf("%s %s: %v: %s", tool, args, err, out)
	}
}

func TestOpen(t *testing.T) {
	if _, err := rtnl.Open(rtnl.Options{Netns: "/run/netns/podnet-there-is-none"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing namespace: %v", err)
	}
	rtnltest.RequireKernel(t, "setns")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rtnl.Open(rtnl.Options{Netns: file}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no namespace: %v", err)
	}
}

// Without a path the namespace is that of the calling thread, for the life of the Conn, whichever thread calls later.
func TestOpenCallersNetns(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	var c *rtnl.Conn
	if err := ns.Do(func() (err error) {
		c, err = rtnl.Open(rtnl.Options{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	write(t, c, "link add only-here type bridge\nsysctl -w net/ipv4/ip_forward=1\naddr add 10.0.0.1/24 dev only-here")
	other := ns.Conn(t)
	if _, err := other.Link(t.Context(), "only-here"); err != nil {
		t.Error(err)
	}
	if v, err := other.Sysctl(t.Context(), "net/ipv4/ip_forward"); v != "1" || err != nil {
		t.Errorf("ip_forward is %q, %v", v, err)
	}
}

func TestClose(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	for range 20 {
		c, err := rtnl.Open(rtnl.Options{Netns: ns.Path()})
		if err != nil {
			t.Fatal(err)
		}
		set := rtnl.Plan{{Verb: rtnl.Set, Object: rtnl.Link{Name: "lo", Up: rtnl.On}}, {Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "0"}}}
		var wg sync.WaitGroup
		for _, call := range []func() error{
			func() error { _, err := c.Links(t.Context()); return err },
			func() error { _, err := c.Link(t.Context(), "lo"); return err },
			func() error { _, err := c.Routes(t.Context(), rtnl.RouteFilter{}); return err },
			func() error { return errors.Join(c.Write(t.Context(), set)...) },
			func() error { _, err := c.Sysctl(t.Context(), "net/ipv4/ip_forward"); return err },
		} {
			wg.Go(func() {
				for {
					if err := call(); err != nil {
						if !errors.Is(err, fs.ErrClosed) {
							t.Errorf("while it was closed: %v", err)
						}
						return
					}
				}
			})
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := c.Close(); err != nil {
			t.Errorf("closed again: %v", err)
		}
		if err := c.Watch(t.Context(), rtnl.Groups{}, func(rtnl.Event) {}); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Watch of a closed connection: %v", err)
		}
		for _, err := range c.Write(t.Context(), set) {
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Write on a closed connection: %v", err)
			}
		}
	}
}

// No thread that visited another namespace may come back to the pool from there.
func TestThreadsStayHome(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for range 100 {
				c, err := rtnl.Open(rtnl.Options{Netns: ns.Path()})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := c.Sysctl(t.Context(), "net/ipv4/ip_forward"); err != nil {
					t.Error(err)
				}
				c.Close()
				if now, err := os.Readlink("/proc/thread-self/ns/net"); now != home {
					t.Errorf("thread is in %s, home is %s: %v", now, home, err)
				}
			}
		})
	}
	wg.Wait()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if now, err := os.Readlink(task); err == nil && now != home {
			t.Errorf("%s is %s, home is %s", task, now, home)
		}
	}
}

// A dump is whole, whatever changes meanwhile.
func TestDumpWhileTableChanges(t *testing.T) {
	const fixed = 2000
	_, c := vxlanNetns(t)
	var plan rtnl.Plan
	for i := range fixed {
		_, _, _, podCIDR := peer(i)
		plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: podCIDR, Link: "vx", Scope: rtnl.ScopeLink, Protocol: 112}})
	}
	must(t, c.Write(t.Context(), plan))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_, _, _, podCIDR := peer(fixed + i%1000)
			route := rtnl.Route{Dst: podCIDR, Link: "vx", Scope: rtnl.ScopeLink, Protocol: 113}
			link := rtnl.Link{Name: "churn", Kind: rtnl.KindBridge}
			for _, err := range c.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: route}, {Verb: rtnl.Delete, Object: route}, {Verb: rtnl.Add, Object: link}, {Verb: rtnl.Delete, Object: link}}) {
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 50 {
		routes, err := c.Routes(t.Context(), rtnl.RouteFilter{})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[netip.Prefix]bool)
		for _, r := range routes {
			if r.Protocol == 112 {
				if seen[r.Dst] {
					t.Fatalf("%v twice", r)
				}
				seen[r.Dst] = true
			}
		}
		if len(seen) != fixed {
			t.Fatalf("%d routes, want %d", len(seen), fixed)
		}
		if links, err := c.Links(t.Context()); err != nil || len(links) < 2 {
			t.Fatal(links, err)
		}
	}
	stop()
	wg.Wait()
}

func TestConcurrentWrites(t *testing.T) {
	_, c := vxlanNetns(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				inner, mac, _, _ := peer(g*50 + i)
				errs := c.Write(t.Context(), rtnl.Plan{
					{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "vx", IP: inner, MAC: mac, Permanent: true}},
					{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "vx", IP: inner, MAC: mac, Permanent: true}},
				})
				if len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], fs.ErrExist) {
					t.Errorf("%v: %v", inner, errs)
				}
			}
		})
	}
	wg.Wait()
	neighs, err := c.Neighs(t.Context(), "vx")
	if err != nil || len(neighs) != 400 {
		t.Errorf("%d neighbours, %v", len(neighs), err)
	}
}

// Nobody reads for a while: the reader is told that it missed something, and the subscription lives on.
func TestWatchOverflow(t *testing.T) {
	_, c := vxlanNetns(t)
	c.ShrinkWatch(16 << 10)
	ctx, stop := context.WithCancel(t.Context())
	events, goOn := make(chan rtnl.Event), make(chan bool)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, rtnl.Groups{Neighs: true}, func(e rtnl.Event) {
			select {
			case events <- e:
			case <-goOn:
			}
		})
	}()
	entry := rtnl.Neigh{Link: "vx", IP: netip.MustParseAddr("10.0.0.9"), MAC: rtnl.MAC{2, 0, 0, 0, 0, 9}, Permanent: true}
	noise := rtnl.Plan{{Verb: rtnl.Add, Object: entry}, {Verb: rtnl.Delete, Object: entry}}
	expect := func(what string, ok func(rtnl.Event) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			must(t, c.Write(t.Context(), noise)) // what is written while the socket is full is lost, with another Overflow
			select {
			case e := <-events:
				if ok(e) {
					return
				}
			case <-time.After(time.Millisecond):
			}
		}
		t.Fatal("waited in vain for ", what)
	}
	expect("the first event", func(rtnl.Event) bool { return true })
	for range 1000 { // Watch waits in notify, or is about to
		must(t, c.Write(t.Context(), noise))
	}
	expect("word of the overflow", func(e rtnl.Event) bool { return e == rtnl.Event{Overflow: true} })
	expect("an event after the overflow", func(e rtnl.Event) bool { return e == rtnl.Event{Object: "neigh", Link: "vx", Deleted: true} })
	stop()
	close(goOn)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ended with %v", err)
	}
}

// What rtnl cannot write is still seen by its key, and nothing of it crashes the decoder.
func TestForeignObjects(t *testing.T) {
	ns, c := vxlanNetns(t)
	write(t, c, "link add a up type veth peer b\nlink set b up\naddr add 10.0.0.1/24 dev a\naddr add fd00::1/64 dev a nodad")
	for _, args := range []string{
		"route add 10.1.0.0/24 proto 112 nexthop via 10.0.0.2 nexthop via 10.0.0.3",
		"route add fd01::/64 proto 112 nexthop via fd00::2 nexthop via fd00::3",
		"nexthop add id 1 via 10.0.0.2 dev a proto 112",
		"nexthop add id 2 via 10.0.0.3 dev a proto 112",
		"nexthop add id 3 group 1/2 proto 112",
		"nexthop add id 4 blackhole proto 112",
		"route add 10.2.0.0/24 nhid 3 proto 112",
		"route add prohibit 10.3.0.0/24 proto 112",
		"route add throw 10.4.0.0/24 proto 112",
		"route add 10.5.0.0/24 via inet6 fe80::1 dev a proto 112",
		"link property add dev a altname another",
		"neigh add proxy 10.0.0.7 dev a",
		"addr add 10.8.0.1 peer 10.8.0.2/32 dev a",
	} {
		run(t, ns, "ip", args)
	}
	run(t, ns, "bridge", "fdb append 00:00:00:00:00:00 dev vx dst 10.0.0.2 self permanent")
	run(t, ns, "bridge", "fdb add 02:00:00:00:00:07 dev vx dst 10.0.0.2 self dynamic")

	routes, err := c.Routes(t.Context(), rtnl.RouteFilter{Protocol: 112})
	want := `route 10.1.0.0/24 proto 112
route 10.2.0.0/24 nhid 3 proto 112
route 10.5.0.0/24 via fe80::1 dev a proto 112
route fd01::/64 proto 112 metric 1024
`
	if diff := cmp.Diff(want, lines(routes)); diff != "" || err != nil {
		t.Errorf("routes (-want +have):\n%s%v", diff, err)
	}
	nexthops, err := c.Nexthops(t.Context(), 112)
	want = `nexthop id 1 via 10.0.0.2 dev a proto 112
nexthop id 2 via 10.0.0.3 dev a proto 112
nexthop id 3 proto 112
nexthop id 4 proto 112
`
	if diff := cmp.Diff(want, lines(nexthops)); diff != "" || err != nil {
		t.Errorf("nexthops (-want +have):\n%s%v", diff, err)
	}
	if fdb, err := c.FDB(t.Context(), "vx"); len(fdb) != 0 || err != nil {
		t.Errorf("FDB: %v, %v", fdb, err)
	}
	if neighs, err := c.Neighs(t.Context(), "a"); len(neighs) != 0 || err != nil {
		t.Errorf("neighbours: %v, %v", neighs, err)
	}
	if _, err := c.Link(t.Context(), "another"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an alternative name is not a name: %v", err)
	}
	addrs, err := c.Addrs(t.Context(), "a")
	if err != nil || !strings.Contains(lines(addrs), "addr 10.8.0.1/32 dev a\n") {
		t.Errorf("addresses: %v, %v", addrs, err)
	}
	gateway := rtnl.Route{Dst: netip.MustParsePrefix("10.6.0.0/24"), Gateway: netip.MustParseAddr("fe80::1"), Link: "a", Protocol: 113}
	must(t, c.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: gateway}}))
	if have, err := c.Routes(t.Context(), rtnl.RouteFilter{Protocol: 113}); err != nil || len(have) != 1 || have[0] != gateway.Canonical() {
		t.Errorf("an IPv4 route over an IPv6 gateway: %v, %v", have, err)
	}
	must(t, c.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Delete, Object: gateway}}))
}

func lines[T fmt.Stringer](objects []T) string {
	var b strings.Builder
	for _, o := range objects {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}
