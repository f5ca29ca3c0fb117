package rtnltest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }

// TestDump shows a node with everything on it.
func TestDump(t *testing.T) {
	k := cluster(t)
	write(t, k.Netns("node-1"), `
		nexthop add id 7 via 192.168.0.2 dev eth0 proto 113
		route add 10.250.0.0/16 nhid 7 proto 113
		route add blackhole 10.251.0.0/16 table 100
		sysctl -w net/ipv6/conf/cni0/accept_ra=0
	`)
	want := `link cni0 up mtu 1450 address 0a:58:00:00:00:01 type bridge
link eth0 up mtu 1500 address ba:02:07:a0:a4:9b
link flannel.1 up mtu 1450 address 0e:00:00:00:00:01 tx-checksum on type vxlan id 1 local 192.168.0.1 dev eth0 dstport 8472 nolearning
link veth0 up mtu 1450 address aa:49:f0:ac:e6:ef master cni0 hairpin off type veth
addr 10.244.1.0/32 dev flannel.1
addr 10.244.1.1/24 dev cni0
addr 192.168.0.1/24 dev eth0
addr 2001:db8::1/64 dev eth0 nodad
addr fd00:10:244:1::/128 dev flannel.1 nodad
addr fd00:10:244:1::1/64 dev cni0 nodad
neigh 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1 nud permanent
neigh fd00:10:244:2:: lladdr 0e:00:00:00:00:02 dev flannel.1 nud permanent
fdb 0e:00:00:00:00:02 dev flannel.1 dst 192.168.0.2 self permanent
nexthop id 7 via 192.168.0.2 dev eth0 proto 113
route 10.244.1.0/24 dev cni0 proto kernel scope link src 10.244.1.1
route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto 112 onlink
route 10.250.0.0/16 nhid 7 proto 113
route 192.168.0.0/24 dev eth0 proto kernel scope link src 192.168.0.1
route 2001:db8::/64 dev eth0 proto kernel metric 256
route blackhole 10.251.0.0/16 table 100
route fd00:10:244:1::/128 dev flannel.1 proto kernel metric 256
route fd00:10:244:1::/64 dev cni0 proto kernel metric 256
route fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel.1 proto 112 metric 1024 onlink
sysctl net/ipv4/ip_forward=1
sysctl net/ipv6/conf/all/forwarding=1
sysctl net/ipv6/conf/cni0/accept_ra=0
`
	if diff := cmp.Diff(want, k.Netns("node-1").Dump()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all := k.Dump(); !strings.Contains(all, "netns pod-2\n  link eth0 up mtu 1450") {
		t.Errorf("kernel dump:\n%s", all)
	}
}

// TestDeterministic: the same calls give the same dump.
func TestDeterministic(t *testing.T) {
	if diff := cmp.Diff(cluster(t).Dump(), cluster(t).Dump()); diff != "" {
		t.Error(diff)
	}
}

func TestRemoveNetns(t *testing.T) {
	k := cluster(t)
	pod := k.Netns("pod-1")
	k.RemoveNetns("/run/netns/pod-1")
	if _, err := k.Netns("node-1").Link(t.Context(), "veth0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the host end is still there: %v", err)
	}
	if _, err := pod.Links(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the namespace still answers: %v", err)
	}
	if got := k.Netns("pod-1").Dump(); got != "" {
		t.Errorf("the new namespace of that name holds\n%s", got)
	}
	if _, err := k.Walk(rtnltest.Packet{From: "pod-2", Dst: ip("10.244.1.2")}); err == nil {
		t.Error("a packet arrived in the removed namespace")
	}
}

func TestCounts(t *testing.T) {
	n := rtnltest.NewKernel().Netns("n")
	write(t, n, "link add a type veth peer b\nlink set a up")
	_, _ = n.Links(t.Context())
	_, _ = n.Sysctl(t.Context(), "net/ipv4/ip_forward")
	n.Dump()
	if got, want := n.Counts(), (rtnltest.Counts{Reads: 1, Dumps: 1, Writes: 1, Changes: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	n.ResetCounts()
	if got := n.Counts(); got != (rtnltest.Counts{}) {
		t.Errorf("after reset %+v", got)
	}
}

// TestFault: a fault hook fails calls, logs them, and may play another actor.
func TestFault(t *testing.T) {
	k := rtnltest.NewKernel()
	n := k.Netns("n")
	var log []string
	k.Fault = func(c rtnltest.Call) error {
		log = append(log, c.String())
		switch {
		case c.Method == "Routes":
			return syscall.EINTR
		case c.Change.String() == "link set a up":
			k.Fault = nil // the other actor's calls are not asked
			write(t, n, "link del a")
		}
		return nil
	}
	_, err := n.Routes(t.Context(), rtnl.RouteFilter{})
	var refused *rtnl.Error
	if !errors.As(err, &refused) || refused.Errno != syscall.EINTR || refused.Op != "route dump" {
		t.Errorf("got %v, want EINTR of a route dump", err)
	}
	plan, _ := rtnltest.ParsePlan("link add a type veth peer b\nlink set a up")
	errs := n.Write(t.Context(), plan)
	if len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], fs.ErrNotExist) {
		t.Errorf("got %v, want the second to miss its link", errs)
	}
	if want := []string{"n: Routes", "n: link add a type veth peer b", "n: link set a up"}; !slices.Equal(log, want) {
		t.Errorf("got %q, want %q", log, want)
	}
}

func TestFailEach(t *testing.T) {
	plan, err := rtnltest.ParsePlan("link add a type bridge\nlink set a up\naddr add 10.0.0.1/24 dev a")
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
		k := rtnltest.NewKernel()
		n := k.Netns("n")
		_, _ = n.Links(t.Context()) // before Arm: does not fail
		f.Arm(k)
		err := errors.Join(n.Write(t.Context(), plan)...)
		c, hit := f.Hit()
		runs = append(runs, fmt.Sprint(c.Change.Verb, " ", hit, " ", errors.Is(err, syscall.EBUSY)))
		if hit != (err != nil) {
			t.Errorf("hit %v, error %v", hit, err)
		}
		f.Check(t, err)
	}, syscall.EBUSY)
	if want := []string{"add true true", "set true true", "add true true", "invalid false false"}; !slices.Equal(runs, want) {
		t.Errorf("got %q, want %q", runs, want)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := rtnltest.NewKernel()
		n := k.Netns("n")
		ctx, stop := context.WithCancel(t.Context())
		var events []rtnl.Event
		done := make(chan error, 1)
		go func() {
			done <- n.Watch(ctx, rtnl.Groups{Routes: true}, func(e rtnl.Event) {
				n.Counts() // notify runs outside of the kernel's lock
				events = append(events, e)
			})
		}()
		synctest.Wait()
		write(t, n, "link add a type veth peer b\nlink set a up\naddr add 10.0.0.1/24 dev a\nlink set a down")
		k.Overflow("n")
		// The kernel does not tell of IPv4 routes that go with their device.
		want := []rtnl.Event{{Object: "route", Link: "a", Protocol: rtnl.ProtocolKernel}, {Overflow: true}}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n.Watchers() != 0 {
			t.Error("still subscribed")
		}
	})
}

// TestDAD: an address is unusable until its duplicate detection is over, and forever if someone else has it.
func TestDAD(t *testing.T) {
	k := rtnltest.NewKernel()
	a, b := k.Netns("a"), k.Netns("b")
	a.AddUplink("eth0", k.Segment("lan"), prefix("2001:db8::1/64"))
	b.AddUplink("eth0", k.Segment("lan"))
	write(t, b, "addr add 2001:db8::1/64 dev eth0\naddr add 2001:db8::2/64 dev eth0")
	walk := func() error {
		_, err := k.Walk(rtnltest.Packet{From: "a", Dst: ip("2001:db8::2")})
		return err
	}
	if err := walk(); err == nil {
		t.Error("a tentative address answers")
	}
	k.FinishDAD()
	if err := walk(); err != nil {
		t.Error(err)
	}
	if got := b.Dump(); !strings.Contains(got, "addr 2001:db8::1/64 dev eth0 tentative dadfailed\naddr 2001:db8::2/64 dev eth0\n") {
		t.Errorf("got\n%s", got)
	}
}

// TestUnmodelled: what the fake does not know is EOPNOTSUPP.
func TestUnmodelled(t *testing.T) {
	n := rtnltest.NewKernel().Netns("n")
	for _, c := range []rtnl.Change{
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "d", Kind: "dummy"}},
		{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("10.0.0.0/8"), Link: "lo", Table: 255}},
		{Verb: rtnl.Add, Object: rtnl.FDB{Link: "lo", Dst: ip("10.0.0.1")}},
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/lo/mtu", Value: "1400"}},
	} {
		if errs := n.Write(t.Context(), rtnl.Plan{c}); len(errs) != 1 || !errors.Is(errs[0], syscall.EOPNOTSUPP) {
			t.Errorf("%s: %v", c, errs)
		}
	}
	if _, err := n.RouteTo(t.Context(), ip("224.0.0.1")); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("multicast: %v", err)
	}
}

// TestConcurrent writes and walks from many goroutines, for the race detector.
func TestConcurrent(t *testing.T) {
	k := cluster(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			n := k.Netns(fmt.Sprintf("node-%d", i%2+1))
			for range 50 {
				write(t, n, "route add 10.9%d.0.0/16 via 192.168.0.9\nroute del 10.9%d.0.0/16", i, i)
				if _, err := k.Walk(rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2")}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkPeers adds 5,000 peers to one node: neighbour, forwarding entry and route.
func BenchmarkPeers(b *testing.B) {
	for b.Loop() {
		n := rtnltest.NewKernel().Netns("n")
		write(b, n, "link add vx up type vxlan id 1 local 192.168.0.1")
		var plan rtnl.Plan
		for i := range 5000 {
			hi, lo := byte(i>>8), byte(i)
			gw, mac := netip.AddrFrom4([4]byte{10, hi, lo, 0}), rtnl.MAC{2, 0, 0, 0, hi, lo}
			plan = append(plan,
				rtnl.Change{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "vx", IP: gw, MAC: mac, Permanent: true}},
				rtnl.Change{Verb: rtnl.Add, Object: rtnl.FDB{Link: "vx", MAC: mac, Dst: netip.AddrFrom4([4]byte{192, 168, hi, lo})}},
				rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.PrefixFrom(gw, 24), Gateway: gw, Link: "vx", Onlink: true, Protocol: 112}})
		}
		if errs := n.Write(b.Context(), plan); errs != nil {
			b.Fatal(errors.Join(errs...))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/15000, "ns/change")
}

// BenchmarkNamespaces measures what an idle namespace with an uplink takes.
func BenchmarkNamespaces(b *testing.B) {
	const nodes = 5000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		k := rtnltest.NewKernel()
		for i := range nodes {
			addr := netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})
			k.Netns(fmt.Sprint("node-", i)).AddUplink("eth0", k.Segment("lan"), netip.PrefixFrom(addr, 16))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/nodes, "B/netns")
		if _, err := k.Walk(rtnltest.Packet{From: "node-1", Dst: ip("192.168.19.135")}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWalk sends a packet between two of 5,000 stations of a segment.
func BenchmarkWalk(b *testing.B) {
	k := rtnltest.NewKernel()
	for i := range 5000 {
		addr := netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})
		k.Netns(fmt.Sprint("node-", i)).AddUplink("eth0", k.Segment("lan"), netip.PrefixFrom(addr, 16))
	}
	for b.Loop() {
		if _, err := k.Walk(rtnltest.Packet{From: "node-1", Dst: ip("192.168.19.135")}); err != nil {
			b.Fatal(err)
		}
	}
}
