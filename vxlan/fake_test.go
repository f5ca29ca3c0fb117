package vxlan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// fakeUplink makes the namespace of kernels["fake"] in k.
func fakeUplink(k *rtnltest.Kernel) *rtnltest.FakeNetns {
	n := k.Netns("n1")
	n.AddUplink("eth0", k.Segment("lan"), prefix("192.168.0.1/16"), prefix("2001:db8::1/64"))
	return n
}

// TestFailEach lets every single read and write fail in turn: the failure comes back, and the next Apply converges.
func TestFailEach(t *testing.T) {
	moved := cluster(4)[0]
	moved.VNI = 7
	changed := cluster(5)[0]
	changed.Peers = changed.Peers[2:]
	changed.Peers[0].MAC = rtnl.MAC{2, 9}
	changed.Peers[2].Addr = addr("192.168.0.77")
	changed.Endpoints[0].PodCIDR = prefix("10.244.99.0/24")
	changed.Endpoints[0].MAC = rtnl.MAC{2, 99}
	changed.Endpoints[1].MTU = 1400
	direct := cluster(4)[0]
	direct.DirectRouting = true
	for _, c := range []struct {
		name     string
		from, to Config
		Options
	}{
		{"from nothing", Config{}, cluster(4)[0], Options{}},
		{"from nothing with nexthops", Config{}, cluster(4)[0], Options{NexthopsAbove: 1}},
		{"changes", cluster(4)[0], changed, Options{}},
		{"to nexthops", cluster(3)[0], cluster(4)[0], Options{NexthopsAbove: 2}},
		{"from nexthops", cluster(6)[0], cluster(2)[0], Options{NexthopsAbove: 4}},
		{"another VNI", cluster(4)[0], moved, Options{}},
		{"to direct", cluster(4)[0], direct, Options{}},
		{"from direct", direct, cluster(4)[0], Options{}},
		{"clean-up", cluster(4)[0], Config{}, Options{NexthopsAbove: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fresh := fakeUplink(rtnltest.NewKernel())
			apply(t, fresh, c.to, c.Options)
			want := state(t, fresh, ourDevicesOf(c.to)...)
			rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
				k := rtnltest.NewKernel()
				n := fakeUplink(k)
				apply(t, n, c.from, c.Options)
				f.Arm(k)
				_, err := New(n, c.Options).Apply(t.Context(), c.to)
				f.Check(t, err)
				k.Fault = nil
				apply(t, n, c.to, c.Options)
				if got := state(t, n, ourDevicesOf(c.to)...); strings.Join(got, "\n") != strings.Join(want, "\n") {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		})
	}
}

func ourDevicesOf(c Config) (names []string) {
	for _, e := range c.withDefaults().Endpoints {
		names = append(names, e.Device)
	}
	return append(names, ourDevices...)
}

// TestOneBadWriteStopsNobody: the kernel refuses all that is written for one peer; the others get everything.
func TestOneBadWriteStopsNobody(t *testing.T) {
	k := rtnltest.NewKernel()
	n := fakeUplink(k)
	bad := nodeOf(2, rtnl.IPv4)
	k.Fault = func(c rtnltest.Call) error {
		if r, ok := c.Change.Object.(rtnl.Route); ok && r.Dst == bad.PodCIDR {
			return syscall.ENOMEM
		}
		return nil
	}
	done, err := New(n, Options{}).Apply(t.Context(), cluster(4)[0])
	if !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), bad.PodCIDR.String()) {
		t.Errorf("got error %v, want ENOMEM that names %s", err, bad.PodCIDR)
	}
	routes := 0
	for _, c := range done {
		if _, ok := c.Object.(rtnl.Route); ok {
			routes++
		}
	}
	if routes != 5 {
		t.Errorf("%d routes written, want those of the 5 other peers:\n%s", routes, done)
	}
	k.Fault = nil
	apply(t, n, cluster(4)[0], Options{})
}

// TestOldKernel has no nexthop objects.
func TestOldKernel(t *testing.T) {
	k := rtnltest.NewKernel()
	n := fakeUplink(k)
	k.Fault = func(c rtnltest.Call) error {
		if c.Method == "Nexthops" {
			return syscall.EOPNOTSUPP
		}
		return nil
	}
	for _, c := range apply(t, n, cluster(4)[0], Options{NexthopsAbove: 1}) {
		if _, ok := c.Object.(rtnl.Nexthop); ok {
			t.Errorf("writes %s", c)
		}
	}
}

// TestSteadyStateCost: nothing is written, and each table is dumped once.
func TestSteadyStateCost(t *testing.T) {
	n := fakeUplink(rtnltest.NewKernel())
	want := cluster(50)[0]
	want.DirectRouting = true
	r := New(n, Options{})
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	n.ResetCounts()
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	// Dumps: links, routes, nexthops; addresses, neighbours and FDB of two devices. Reads: accept_ra of both, and of new devices.
	if got, want := n.Counts(), (rtnltest.Counts{Dumps: 9, Reads: 3}); got != want {
		t.Errorf("a look at what is as wanted costs %+v, want %+v", got, want)
	}
}

// TestWalk sends packets between pods on three fake nodes, one of them behind a router.
func TestWalk(t *testing.T) {
	for _, mode := range []struct {
		name   string
		direct bool
		Options
	}{{"tunnel", false, Options{}}, {"direct", true, Options{}}, {"nexthops", false, Options{NexthopsAbove: 1}}} {
		t.Run(mode.name, func(t *testing.T) {
			k, configs := fakeNodes(t)
			for i, c := range configs {
				c.DirectRouting = mode.direct
				apply(t, k.Netns(fmt.Sprintf("n%d", i+1)), c, mode.Options)
			}
			var trace strings.Builder
			for _, family := range families {
				for _, pair := range [][2]int{{1, 2}, {1, 3}, {2, 1}, {2, 3}, {3, 1}, {3, 2}} {
					src, dst := podOf(pair[0], family), podOf(pair[1], family)
					way, err := k.Walk(rtnltest.Packet{From: fmt.Sprintf("pod%d", pair[0]), Dst: dst, Size: 1400, DF: true})
					if err != nil || way.Netns != fmt.Sprintf("pod%d", pair[1]) || way.Src != src {
						t.Errorf("%s to %s: source %s, ends in %s (%v)\n%s", src, dst, way.Src, way.Netns, err, way)
					}
					if pair[0] == 1 {
						fmt.Fprintf(&trace, "%s to %s\n%s\n", src, dst, way)
					}
				}
				wantMTU(t, k, family)
			}
			golden(t, "walk-"+mode.name, trace.String())
		})
	}
}

// wantMTU: between n1 and n3, always a tunnel, the largest packet passes and one byte more does not.
func wantMTU(t *testing.T, k *rtnltest.Kernel, family rtnl.Family) {
	t.Helper()
	p := rtnltest.Packet{From: "pod1", Dst: podOf(3, family), Size: MTUFor(1500, family), DF: true}
	if _, err := k.Walk(p); err != nil {
		t.Errorf("a packet of %d bytes: %v", p.Size, err)
	}
	p.Size++
	var lost *rtnltest.LostError
	if _, err := k.Walk(p); !errors.As(err, &lost) || lost.MTU != p.Size-1 {
		t.Errorf("a packet of %d bytes: got %v, want it lost for its size", p.Size, err)
	}
}

func podOf(n int, family rtnl.Family) netip.Addr {
	return nodeOf(n, family).PodCIDR.Addr().Next().Next()
}

// fakeNodes is threeNodes on the fake.
func fakeNodes(t *testing.T) (*rtnltest.Kernel, []Config) {
	t.Helper()
	k := rtnltest.NewKernel()
	forward := []rtnl.Change{
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}},
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}},
	}
	router := k.Netns("router")
	for segment := 1; segment <= 2; segment++ {
		router.AddUplink(fmt.Sprintf("eth%d", segment), k.Segment(fmt.Sprintf("seg%d", segment)),
			prefix(fmt.Sprintf("192.168.%d.254/24", segment)), prefix(fmt.Sprintf("2001:db8:%d::fe/64", segment)))
	}
	write(t, router, forward...)
	add := func(o rtnl.Object) rtnl.Change { return rtnl.Change{Verb: rtnl.Add, Object: o} }
	all := cluster(3)
	for n := 1; n <= 3; n++ {
		segment := 1 + n/3
		node, pod := k.Netns(fmt.Sprintf("n%d", n)), k.Netns(fmt.Sprintf("pod%d", n))
		outer := map[rtnl.Family]netip.Addr{rtnl.IPv4: addr(fmt.Sprintf("192.168.%d.%d", segment, n)), rtnl.IPv6: addr(fmt.Sprintf("2001:db8:%d::%d", segment, n))}
		node.AddUplink("eth0", k.Segment(fmt.Sprintf("seg%d", segment)), netip.PrefixFrom(outer[rtnl.IPv4], 24), netip.PrefixFrom(outer[rtnl.IPv6], 64))
		write(t, node, append(forward,
			add(rtnl.Route{Dst: prefix("0.0.0.0/0"), Gateway: addr(fmt.Sprintf("192.168.%d.254", segment)), Link: "eth0"}),
			add(rtnl.Route{Dst: prefix("::/0"), Gateway: addr(fmt.Sprintf("2001:db8:%d::fe", segment)), Link: "eth0"}),
			add(rtnl.Link{Name: "pod", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: "pod" + fmt.Sprint(n)}}))...)
		write(t, pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}})
		for _, family := range families {
			own := nodeOf(n, family)
			gateway := own.PodCIDR.Addr().Next()
			write(t, node, add(rtnl.Addr{Link: "pod", Prefix: netip.PrefixFrom(gateway, own.PodCIDR.Bits()), NoDAD: family == rtnl.IPv6}))
			write(t, pod,
				add(rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(gateway.Next(), own.PodCIDR.Bits()), NoDAD: family == rtnl.IPv6}),
				add(rtnl.Route{Dst: netip.PrefixFrom(gateway, 0).Masked(), Gateway: gateway, Link: "eth0"}))
			for i := range all {
				for j := range all[i].Endpoints {
					if all[i].Endpoints[j].PodCIDR == own.PodCIDR {
						all[i].Endpoints[j].Local = outer[family]
					}
				}
				for j := range all[i].Peers {
					if all[i].Peers[j].PodCIDR == own.PodCIDR {
						all[i].Peers[j].Addr = outer[family]
					}
				}
			}
		}
	}
	return k, all
}

// TestCancelled: a context that has ended is an error, not a plan to remove everything.
func TestCancelled(t *testing.T) {
	n := fakeUplink(rtnltest.NewKernel())
	apply(t, n, cluster(3)[0], Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := New(n, Options{}).Apply(ctx, cluster(2)[0]); !errors.Is(err, context.Canceled) || !p.Empty() {
		t.Errorf("got %v\n%s", err, p)
	}
}
