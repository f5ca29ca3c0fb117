package vxlan

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// kernels are what every test of behaviour runs on. Each makes a network namespace with the uplink eth0: 192.168.0.1/16 and 2001:db8::1/64, and a
// default route to somewhere else.
var kernels = []struct {
	name string
	make func(testing.TB) rtnltest.Conn
}{
	{"fake", func(testing.TB) rtnltest.Conn {
		return fakeUplink(rtnltest.NewKernel())
	}},
	{"linux", func(t testing.TB) rtnltest.Conn {
		c := rtnltest.NewNetns(t).Conn(t)
		write(t, c,
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "switch"}}},
			rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "switch", Up: rtnl.On}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: prefix("192.168.0.1/16")}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: prefix("2001:db8::1/64"), NoDAD: true}},
		)
		return c
	}},
}

// onEachKernel runs body on the fake and on Linux.
func onEachKernel(t *testing.T, body func(*testing.T, rtnltest.Conn)) {
	for _, k := range kernels {
		t.Run(k.name, func(t *testing.T) { body(t, k.make(t)) })
	}
}

func write(t testing.TB, c rtnltest.Conn, changes ...rtnl.Change) {
	t.Helper()
	for i, err := range c.Write(t.Context(), changes) {
		if err != nil {
			t.Fatalf("%s: %v", changes[i], err)
		}
	}
}

// apply applies want, and proves that there is nothing left to do.
func apply(t testing.TB, c rtnltest.Conn, want Config, o Options) rtnl.Plan {
	t.Helper()
	done, err := applyTolerant(t, c, want, o)
	if err != nil {
		t.Fatalf("apply: %v\ndone:\n%s", err, done)
	}
	return done
}

// applyTolerant is apply where an error is expected beside the plan.
func applyTolerant(t testing.TB, c rtnltest.Conn, want Config, o Options) (rtnl.Plan, error) {
	t.Helper()
	o.KernelRelease = "6.18.0"
	r := New(c, o)
	done, err := r.Apply(t.Context(), want)
	again, againErr := r.Apply(t.Context(), want)
	if !again.Empty() {
		t.Fatalf("second apply (%v) after\n%swrites again (%v)\n%s", err, done, againErr, again)
	}
	return done, err
}

// state is everything that this package may own, in iproute2 syntax, sorted. Nexthop IDs are resolved: which of them a peer has is not
// part of what is wanted.
func state(t testing.TB, c rtnltest.Conn, devices ...string) []string {
	t.Helper()
	ctx := context.Background()
	var lines []string
	add := func(o rtnl.Object) { lines = append(lines, o.String()) }
	must := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("read state: %v", err)
		}
	}
	links, err := c.Links(ctx)
	must(err)
	for _, l := range links {
		if !slices.Contains(devices, l.Name) {
			continue
		}
		add(l)
		addrs, err := c.Addrs(ctx, l.Name)
		must(err)
		for _, a := range addrs {
			if !a.Prefix.Addr().IsLinkLocalUnicast() {
				a.Tentative = false
				add(a)
			}
		}
		neighs, err := c.Neighs(ctx, l.Name)
		must(err)
		for _, n := range neighs {
			if n.Permanent {
				add(n)
			}
		}
		fdb, err := c.FDB(ctx, l.Name)
		must(err)
		for _, f := range fdb {
			add(f)
		}
		ra, err := c.Sysctl(ctx, acceptRA(l.Name).Name)
		must(err)
		add(rtnl.Sysctl{Name: acceptRA(l.Name).Name, Value: ra})
	}
	nexthops, err := c.Nexthops(ctx, 0)
	must(err)
	ids := map[uint32]string{}
	for _, n := range nexthops {
		id := n.ID
		n.ID = 1
		ids[id] = n.String()
		add(n)
	}
	routes, err := c.Routes(ctx, rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
	must(err)
	for _, r := range routes {
		through := ""
		if r.Nexthop != 0 {
			through = " through " + ids[r.Nexthop]
			r.Nexthop = 1
		}
		lines = append(lines, r.String()+through)
	}
	slices.Sort(lines)
	return lines
}

var ourDevices = []string{"podnet.1", "podnet-v6.1"}

func wantState(t testing.TB, c rtnltest.Conn, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, state(t, c, ourDevices...)); diff != "" {
		t.Fatalf("state (-want +got):\n%s", diff)
	}
}

// TestApplyFromNothing is the whole of what a node with two peers gets; see testdata for how it is made.
func TestApplyFromNothing(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		done := apply(t, c, cluster(3)[0], Options{})
		golden(t, "nothing", done.String())
		golden(t, "nothing.state", strings.Join(state(t, c, ourDevices...), "\n")+"\n")
	})
}

func TestDirectRouting(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		write(t, c, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("0.0.0.0/0"), Gateway: addr("192.168.255.254"), Link: "eth0"}})
		want := cluster(3)[0]
		want.DirectRouting = true
		for i, p := range want.Peers {
			if p.Name == "n3" && p.Addr.Is4() {
				want.Peers[i].Addr = addr("172.16.0.3") // behind the router
			}
		}
		done := apply(t, c, want, Options{})
		golden(t, "direct", done.String())
		want.DirectRouting = false
		golden(t, "direct-off", apply(t, c, want, Options{}).String())
		want.DirectRouting = true
		golden(t, "direct-on", apply(t, c, want, Options{}).String())
	})
}

// TestHeal damages the state in every way in which others do.
func TestHeal(t *testing.T) {
	del := func(o rtnl.Object) rtnl.Change { return rtnl.Change{Verb: rtnl.Delete, Object: o} }
	set := func(o rtnl.Object) rtnl.Change { return rtnl.Change{Verb: rtnl.Set, Object: o} }
	damages := []struct {
		name   string
		damage func(t *testing.T, c rtnltest.Conn) []rtnl.Change
	}{
		{"device deleted", func(*testing.T, rtnltest.Conn) []rtnl.Change { return []rtnl.Change{del(rtnl.Link{Name: "podnet.1"})} }},
		{"v6 device deleted", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{del(rtnl.Link{Name: "podnet-v6.1"})}
		}},
		{"device down", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{set(rtnl.Link{Name: "podnet.1", Up: rtnl.Off}), set(rtnl.Link{Name: "podnet-v6.1", Up: rtnl.Off})}
		}},
		{"MAC rewritten", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{set(rtnl.Link{Name: "podnet.1", MAC: rtnl.MAC{2, 1}}), set(rtnl.Link{Name: "podnet-v6.1", MAC: rtnl.MAC{2, 1}})}
		}},
		{"MTU rewritten", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{set(rtnl.Link{Name: "podnet.1", MTU: 1300}), set(rtnl.Link{Name: "podnet-v6.1", MTU: 1300})}
		}},
		{"offload switched", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{set(rtnl.Link{Name: "podnet.1", TxChecksum: rtnl.Off})}
		}},
		{"learning and local address changed", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{set(rtnl.Link{Name: "podnet.1", Kind: rtnl.KindVXLAN, VXLAN: rtnl.VXLAN{Learning: rtnl.On, Local: addr("192.168.9.9")}})}
		}},
		{"accept_ra switched", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{set(rtnl.Sysctl{Name: acceptRA("podnet-v6.1").Name, Value: "2"})}
		}},
		{"another address", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			return []rtnl.Change{{Verb: rtnl.Add, Object: rtnl.Addr{Link: "podnet.1", Prefix: prefix("10.9.9.9/24")}}}
		}},
		{"addresses flushed", func(t *testing.T, c rtnltest.Conn) (p []rtnl.Change) {
			for _, device := range ourDevices {
				addrs, err := c.Addrs(t.Context(), device)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range addrs {
					p = append(p, del(a))
				}
			}
			return p
		}},
		{"routes flushed", func(t *testing.T, c rtnltest.Conn) (p []rtnl.Change) {
			routes, err := c.Routes(t.Context(), rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range routes {
				p = append(p, del(r))
			}
			return p
		}},
		{"neighbours flushed", func(t *testing.T, c rtnltest.Conn) (p []rtnl.Change) {
			for _, device := range ourDevices {
				neighs, err := c.Neighs(t.Context(), device)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range neighs {
					p = append(p, del(n))
				}
			}
			return p
		}},
		{"fdb flushed", func(t *testing.T, c rtnltest.Conn) (p []rtnl.Change) {
			for _, device := range ourDevices {
				fdb, err := c.FDB(t.Context(), device)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range fdb {
					p = append(p, del(f))
				}
			}
			return p
		}},
		{"fdb and neighbour bent", func(*testing.T, rtnltest.Conn) []rtnl.Change {
			n2 := nodeOf(2, rtnl.IPv4)
			return []rtnl.Change{
				{Verb: rtnl.Replace, Object: rtnl.FDB{Link: "podnet.1", MAC: n2.MAC, Dst: addr("192.168.66.6")}},
				{Verb: rtnl.Replace, Object: rtnl.Neigh{Link: "podnet.1", IP: n2.PodCIDR.Addr(), MAC: rtnl.MAC{2, 6}, Permanent: true}},
				{Verb: rtnl.Add, Object: rtnl.FDB{Link: "podnet.1", MAC: rtnl.MAC{2, 6}, Dst: addr("192.168.66.6")}},
				{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "podnet.1", IP: addr("10.1.1.1"), MAC: rtnl.MAC{2, 6}, Permanent: true}},
				{Verb: rtnl.Replace, Object: rtnl.Route{Dst: n2.PodCIDR, Gateway: addr("192.168.66.6"), Link: "eth0", Protocol: rtnl.ProtocolVXLAN}},
			}
		}},
	}
	for _, o := range []struct {
		name string
		Options
	}{{"plain", Options{}}, {"nexthops", Options{NexthopsAbove: 1}}} {
		t.Run(o.name, func(t *testing.T) {
			onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
				want := cluster(4)[0]
				want.TxChecksum = rtnl.On
				apply(t, c, want, o.Options)
				whole := state(t, c, ourDevices...)
				for _, d := range damages {
					t.Run(d.name, func(t *testing.T) {
						write(t, c, d.damage(t, c)...)
						if cmp.Equal(whole, state(t, c, ourDevices...)) {
							t.Fatal("the damage did none")
						}
						done := apply(t, c, want, o.Options)
						wantState(t, c, whole)
						t.Logf("healed by %d changes", len(done))
					})
				}
			})
		})
	}
}

// TestCleanup removes what is owned and nothing else.
func TestCleanup(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		foreign := []rtnl.Change{
			{Verb: rtnl.Add, Object: rtnl.Link{Name: "vx9", Kind: rtnl.KindVXLAN, VXLAN: rtnl.VXLAN{VNI: 9, Local: addr("192.168.0.1"), Underlay: "eth0"}, Up: rtnl.On}},
			{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "vx9", IP: addr("10.9.0.1"), MAC: rtnl.MAC{2, 9}, Permanent: true}},
			{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("10.9.0.0/16"), Gateway: addr("192.168.0.9"), Link: "eth0", Protocol: rtnl.ProtocolStatic}},
			{Verb: rtnl.Add, Object: rtnl.Nexthop{ID: 9, Gateway: addr("192.168.0.9"), Link: "eth0", Protocol: rtnl.ProtocolStatic}},
			{Verb: rtnl.Add, Object: rtnl.Nexthop{ID: nexthopBase, Gateway: addr("192.168.0.8"), Link: "eth0", Protocol: rtnl.ProtocolBoot}},
		}
		write(t, c, foreign...)
		all := append([]string{"vx9", "eth0"}, ourDevices...)
		before := state(t, c, all...)
		for _, o := range []Options{{}, {NexthopsAbove: 1}} {
			for _, direct := range []bool{false, true} {
				want := cluster(4)[0]
				want.DirectRouting = direct
				apply(t, c, want, o)
				apply(t, c, Config{}, o)
				if diff := cmp.Diff(before, state(t, c, all...)); diff != "" {
					t.Fatalf("after clean-up (-before +after):\n%s", diff)
				}
			}
		}
	})
}
