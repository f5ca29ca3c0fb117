package hostgw

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var families = []rtnl.Family{rtnl.IPv4, rtnl.IPv6}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

// nodeOf is node n in one family: n1 has 192.168.0.1 and 10.244.1.0/24, and 2001:db8::1 and fd00:10:244:1::/64.
func nodeOf(n int, family rtnl.Family) Peer {
	p := Peer{Name: fmt.Sprintf("n%d", n)}
	if family == rtnl.IPv4 {
		p.Addr = netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)})
		p.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24)
		return p
	}
	p.Addr = addr(fmt.Sprintf("2001:db8::%x", n))
	p.PodCIDR = prefix(fmt.Sprintf("fd00:10:244:%x::/64", n))
	return p
}

// cluster returns the Config of node self of size nodes, in both families.
func cluster(self, size int) Config {
	c := Config{Underlay: "eth0"}
	for n := 1; n <= size; n++ {
		for _, family := range families {
			p := nodeOf(n, family)
			if n == self {
				c.Endpoints = append(c.Endpoints, Endpoint{Local: p.Addr, PodCIDR: p.PodCIDR})
			} else {
				c.Peers = append(c.Peers, p)
			}
		}
	}
	return c
}

func fakeUplink(k *rtnltest.Kernel) *rtnltest.FakeNetns {
	n := k.Netns("n1")
	n.AddUplink("eth0", k.Segment("lan"), prefix("192.168.0.1/16"), prefix("2001:db8::1/64"))
	return n
}

// onEachKernel runs body on the fake and on Linux, in a network namespace with the uplink eth0.
func onEachKernel(t *testing.T, body func(*testing.T, rtnltest.Conn)) {
	t.Run("fake", func(t *testing.T) { body(t, fakeUplink(rtnltest.NewKernel())) })
	t.Run("linux", func(t *testing.T) {
		c := rtnltest.NewNetns(t).Conn(t)
		write(t, c,
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "switch"}}},
			rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "switch", Up: rtnl.On}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: prefix("192.168.0.1/16")}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: prefix("2001:db8::1/64"), NoDAD: true}},
		)
		body(t, c)
	})
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
func apply(t testing.TB, c rtnltest.Conn, want Config) (rtnl.Plan, error) {
	t.Helper()
	r := New(c, Options{})
	done, err := r.Apply(t.Context(), want)
	if again, againErr := r.Apply(t.Context(), want); !again.Empty() {
		t.Fatalf("second apply (%v) after\n%swrites again (%v)\n%s", err, done, againErr, again)
	}
	return done, err
}

func routes(t testing.TB, c rtnltest.Conn, p rtnl.Protocol) string {
	t.Helper()
	have, err := c.Routes(t.Context(), rtnl.RouteFilter{Protocol: p})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range have {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func TestApply(t *testing.T) {
	for _, step := range []struct {
		name   string
		change func(*Config)
	}{
		{"nothing", func(c *Config) { *c = cluster(1, 3) }},
		{"peer-addr", func(c *Config) { c.Peers[0].Addr = addr("192.168.0.77") }},
		{"peer-podcidr", func(c *Config) { c.Peers[1].PodCIDR = prefix("fd00:10:244:77::/64") }},
		{"peer-gone", func(c *Config) { c.Peers = c.Peers[2:] }},
		{"peer-new", func(c *Config) { c.Peers = append(c.Peers, nodeOf(9, rtnl.IPv4), nodeOf(9, rtnl.IPv6)) }},
		{"peer-replaced", func(c *Config) {
			c.Peers[0] = Peer{Name: "n8", PodCIDR: c.Peers[0].PodCIDR, Addr: addr("192.168.0.8")}
		}},
		{"podcidrs-swapped", func(c *Config) { c.Peers[0].PodCIDR, c.Peers[2].PodCIDR = c.Peers[2].PodCIDR, c.Peers[0].PodCIDR }},
		{"v6-off", func(c *Config) { c.Endpoints = c.Endpoints[:1]; c.Peers = []Peer{c.Peers[0], c.Peers[2]} }},
		{"cleanup", func(c *Config) { *c = Config{} }},
	} {
		t.Run(step.name, func(t *testing.T) {
			onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
				foreign := rtnl.Route{Dst: prefix("10.99.0.0/16"), Gateway: addr("192.168.0.9"), Link: "eth0", Protocol: rtnl.ProtocolStatic}
				write(t, c, rtnl.Change{Verb: rtnl.Add, Object: foreign})
				before := routes(t, c, rtnl.ProtocolStatic)
				if step.name != "nothing" {
					if _, err := apply(t, c, cluster(1, 3)); err != nil {
						t.Fatal(err)
					}
				}
				want := cluster(1, 3)
				step.change(&want)
				done, err := apply(t, c, want)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, step.name, done.String())
				if diff := cmp.Diff(before, routes(t, c, rtnl.ProtocolStatic)); diff != "" {
					t.Errorf("routes of others (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// TestHeal puts back what others took or bent.
func TestHeal(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		want := cluster(1, 4)
		if _, err := apply(t, c, want); err != nil {
			t.Fatal(err)
		}
		whole := routes(t, c, rtnl.ProtocolHostGW)
		have, err := c.Routes(t.Context(), rtnl.RouteFilter{Protocol: rtnl.ProtocolHostGW})
		if err != nil {
			t.Fatal(err)
		}
		var flush []rtnl.Change
		for _, r := range have {
			flush = append(flush, rtnl.Change{Verb: rtnl.Delete, Object: r})
		}
		bent := nodeOf(2, rtnl.IPv4)
		for name, damage := range map[string][]rtnl.Change{
			"flushed": flush,
			"bent": {
				{Verb: rtnl.Replace, Object: rtnl.Route{Dst: bent.PodCIDR, Gateway: addr("192.168.66.6"), Link: "eth0", Protocol: rtnl.ProtocolHostGW}},
				{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("10.244.66.0/24"), Gateway: addr("192.168.66.6"), Link: "eth0", Protocol: rtnl.ProtocolHostGW}},
				{Verb: rtnl.Add, Object: rtnl.Route{Dst: bent.PodCIDR, Gateway: bent.Addr, Link: "eth0", Protocol: rtnl.ProtocolHostGW, Priority: 7}},
			},
			"link flap": {
				{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.Off}},
				{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}},
				{Verb: rtnl.Replace, Object: rtnl.Route{Dst: prefix("2001:db8::/64"), Link: "eth0", Protocol: rtnl.ProtocolBoot}},
			},
		} {
			t.Run(name, func(t *testing.T) {
				write(t, c, damage...)
				if routes(t, c, rtnl.ProtocolHostGW) == whole {
					t.Fatal("the damage did none")
				}
				if _, err := apply(t, c, want); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(whole, routes(t, c, rtnl.ProtocolHostGW)); diff != "" {
					t.Errorf("routes (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// TestRefusedPeers: each is reported with its name and the reason; the others are served.
func TestRefusedPeers(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"behind a router", func(c *Config) { c.Peers[0].Addr = addr("172.16.0.2") }, `peer "n2": address 172.16.0.2: is behind the gateway 192.168.255.254`},
		{"no route at all", func(c *Config) { c.Peers[1].Addr = addr("2001:db8:9::2") }, `peer "n2": address 2001:db8:9::2: no route to it`},
		{"same pods", func(c *Config) { c.Peers[2].PodCIDR = c.Peers[0].PodCIDR }, `peer "n3": PodCIDR 10.244.2.0/24: overlaps 10.244.2.0/24 of peer "n2"`},
		{"our pods", func(c *Config) { c.Peers[0].PodCIDR = c.Endpoints[0].PodCIDR }, `peer "n2": PodCIDR 10.244.1.0/24: overlaps 10.244.1.0/24 of this node`},
		{"same address", func(c *Config) { c.Peers[2].Addr = c.Peers[0].Addr }, `peer "n3": Addr 192.168.0.2: is that of peer "n2"`},
		{"our address", func(c *Config) { c.Peers[0].Addr = c.Endpoints[0].Local }, `peer "n2": Addr 192.168.0.1: is that of this node`},
		{"hostile pods", func(c *Config) { c.Peers[0].PodCIDR = prefix("0.0.0.0/0") }, `peer "n2": PodCIDR 0.0.0.0/0: is the whole address space`},
		{"taken by someone else", func(c *Config) { c.Peers[0].PodCIDR = prefix("10.50.0.0/16") }, `peer "n2": PodCIDR 10.50.0.0/16: has a route of another owner already: "route 10.50.0.0/16 via 192.168.0.9 dev eth0 proto static"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachKernel(t, func(t *testing.T, k rtnltest.Conn) {
				write(t, k,
					rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("0.0.0.0/0"), Gateway: addr("192.168.255.254"), Link: "eth0", Protocol: rtnl.ProtocolBoot}},
					rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("10.50.0.0/16"), Gateway: addr("192.168.0.9"), Link: "eth0", Protocol: rtnl.ProtocolStatic}},
				)
				want := cluster(1, 3)
				c.change(&want)
				done, err := apply(t, k, want)
				var refused *PeerError
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if len(done) != 3 {
					t.Errorf("want the routes of 3 peers, wrote\n%s", done)
				}
			})
		})
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) {}, ""},
		{func(c *Config) { *c = Config{} }, ""},
		{func(c *Config) { c.Underlay = "a/b" }, `hostgw: Underlay "a/b": want a device name`},
		{func(c *Config) { c.Endpoints = nil }, "hostgw: Endpoints: none; want one per address family of Peers"},
		{func(c *Config) { c.Endpoints[0].Local = addr("224.0.0.1") }, "hostgw: Endpoints[0].Local 224.0.0.1: want a unicast address"},
		{func(c *Config) { c.Endpoints[1].PodCIDR = prefix("fd00::1/64") }, "hostgw: Endpoints[1].PodCIDR fd00::1/64: has host bits; want fd00::/64"},
		{func(c *Config) { c.Endpoints = append(c.Endpoints, c.Endpoints[0]) }, "hostgw: Endpoints[2].Local 192.168.0.1: a second endpoint of IPv4; want one per family"},
		{func(c *Config) { c.Peers[0].Addr = netip.Addr{} }, `peer "n2": Addr is missing`},
	} {
		config := cluster(1, 3)
		c.change(&config)
		err := config.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// TestUnderlay that is missing or down is an error, and what is there is kept.
func TestUnderlay(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		want := cluster(1, 3)
		if _, err := apply(t, c, want); err != nil {
			t.Fatal(err)
		}
		whole := routes(t, c, rtnl.ProtocolHostGW)
		missing := want
		missing.Underlay = "eth7"
		if done, err := apply(t, c, missing); err == nil || !strings.Contains(err.Error(), "underlay eth7: no such device") || !done.Empty() {
			t.Errorf("got %v\n%s", err, done)
		}
		if diff := cmp.Diff(whole, routes(t, c, rtnl.ProtocolHostGW)); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
		write(t, c, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.Off}})
		if done, err := apply(t, c, want); err == nil || !strings.Contains(err.Error(), "underlay eth0: is down") || !done.Empty() {
			t.Errorf("got %v\n%s", err, done)
		}
	})
}

// TestFailEach lets every single read and write fail in turn: the failure comes back, and the next Apply converges.
func TestFailEach(t *testing.T) {
	changed := cluster(1, 5)
	changed.Peers = changed.Peers[2:]
	changed.Peers[0].Addr = addr("192.168.0.77")
	for name, to := range map[string]Config{"more": cluster(1, 6), "changes": changed, "clean-up": {}} {
		t.Run(name, func(t *testing.T) {
			fresh := fakeUplink(rtnltest.NewKernel())
			if _, err := apply(t, fresh, to); err != nil {
				t.Fatal(err)
			}
			rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
				k := rtnltest.NewKernel()
				n := fakeUplink(k)
				if _, err := apply(t, n, cluster(1, 4)); err != nil {
					t.Fatal(err)
				}
				f.Arm(k)
				_, err := New(n, Options{}).Apply(t.Context(), to)
				f.Check(t, err)
				k.Fault = nil
				if _, err := apply(t, n, to); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(fresh.Dump(), n.Dump()); diff != "" {
					t.Errorf("state (-from nothing +after the failure):\n%s", diff)
				}
			})
		})
	}
}

// TestSteadyStateCost: nothing is written, and each table is dumped once.
func TestSteadyStateCost(t *testing.T) {
	n := fakeUplink(rtnltest.NewKernel())
	if _, err := apply(t, n, cluster(1, 50)); err != nil {
		t.Fatal(err)
	}
	n.ResetCounts()
	if _, err := New(n, Options{}).Apply(t.Context(), cluster(1, 50)); err != nil {
		t.Fatal(err)
	}
	if got, want := n.Counts(), (rtnltest.Counts{Dumps: 2}); got != want {
		t.Errorf("a look at what is as wanted costs %+v, want %+v", got, want)
	}
}

// TestWalk sends packets between pods on three fake nodes of one segment.
func TestWalk(t *testing.T) {
	k := rtnltest.NewKernel()
	for n := 1; n <= 3; n++ {
		node := k.Netns(fmt.Sprintf("n%d", n))
		node.AddUplink("eth0", k.Segment("lan"), netip.PrefixFrom(nodeOf(n, rtnl.IPv4).Addr, 16), netip.PrefixFrom(nodeOf(n, rtnl.IPv6).Addr, 64))
		write(t, node, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge, Up: rtnl.On}})
		for _, family := range families {
			cidr := nodeOf(n, family).PodCIDR
			write(t, node, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "cni0", Prefix: netip.PrefixFrom(cidr.Addr().Next(), cidr.Bits()), NoDAD: family == rtnl.IPv6}})
		}
		if _, err := apply(t, node, cluster(n, 3)); err != nil {
			t.Fatal(err)
		}
	}
	for _, family := range families {
		for from := 1; from <= 3; from++ {
			for to := 1; to <= 3; to++ {
				p := rtnltest.Packet{From: fmt.Sprintf("n%d", from), Dst: nodeOf(to, family).PodCIDR.Addr().Next(), Size: 1500, DF: true}
				if way, err := k.Walk(p); err != nil || way.Netns != fmt.Sprintf("n%d", to) {
					t.Errorf("n%d to %s: ends in %s (%v)\n%s", from, p.Dst, way.Netns, err, way)
				}
			}
		}
	}
}

func TestInterested(t *testing.T) {
	c := cluster(1, 2)
	for _, e := range []struct {
		event rtnl.Event
		want  bool
	}{
		{rtnl.Event{Overflow: true}, true},
		{rtnl.Event{Object: "link", Link: "eth0"}, true},
		{rtnl.Event{Object: "link", Deleted: true}, true},
		{rtnl.Event{Object: "link", Link: "veth1234"}, false},
		{rtnl.Event{Object: "addr", Link: "eth0", Deleted: true}, true},
		{rtnl.Event{Object: "route", Protocol: rtnl.ProtocolHostGW, Deleted: true}, true},
		{rtnl.Event{Object: "route", Link: "eth0", Protocol: rtnl.ProtocolKernel}, true},
		{rtnl.Event{Object: "route", Link: "cni0", Protocol: rtnl.ProtocolKernel}, false},
		{rtnl.Event{Object: "neigh", Link: "eth0"}, false},
	} {
		if got := c.Interested(e.event); got != e.want {
			t.Errorf("Interested(%+v) = %v, want %v", e.event, got, e.want)
		}
	}
}
