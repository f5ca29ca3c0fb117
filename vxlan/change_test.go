package vxlan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestOneChange shows what a change of one peer, or of the node itself, costs.
func TestOneChange(t *testing.T) {
	for _, step := range []struct {
		name   string
		change func(*Config)
	}{
		{"peer-mac", func(c *Config) { c.Peers[0].MAC = rtnl.MAC{0x0a, 9} }},
		{"peer-addr", func(c *Config) { c.Peers[0].Addr = addr("192.168.0.77") }},
		{"peer-addr-v6", func(c *Config) { c.Peers[1].Addr = addr("2001:db8::77") }},
		{"peer-podcidr", func(c *Config) { c.Peers[0].PodCIDR = prefix("10.244.77.0/24") }},
		{"peer-gone", func(c *Config) { c.Peers = c.Peers[1:] }},
		{"peer-new", func(c *Config) { c.Peers = append(c.Peers, nodeOf(9, rtnl.IPv4)) }},
		{"peer-replaced", func(c *Config) {
			c.Peers[0] = Peer{Name: "n8", PodCIDR: c.Peers[0].PodCIDR, Addr: addr("192.168.0.8"), MAC: rtnl.MAC{2, 8}}
		}},
		{"macs-swapped", func(c *Config) { c.Peers[0].MAC, c.Peers[2].MAC = c.Peers[2].MAC, c.Peers[0].MAC }},
		{"podcidrs-swapped", func(c *Config) { c.Peers[0].PodCIDR, c.Peers[2].PodCIDR = c.Peers[2].PodCIDR, c.Peers[0].PodCIDR }},
		{"own-podcidr", func(c *Config) { c.Endpoints[0].PodCIDR = prefix("10.244.99.0/24") }},
		{"own-addr", func(c *Config) { c.Endpoints[0].Local = addr("192.168.0.99") }},
		{"own-mac", func(c *Config) { c.Endpoints[0].MAC = rtnl.MAC{2, 99} }},
		{"own-mtu", func(c *Config) { c.Endpoints[0].MTU = 1400 }},
		{"vni", func(c *Config) { c.VNI = 7 }},
		{"names", func(c *Config) { c.Endpoints[0].Device, c.Endpoints[1].Device = "flannel.1", "flannel-v6.1" }},
		{"v6-off", func(c *Config) {
			*c = cluster(3)[0]
			c.Endpoints = c.Endpoints[:1]
			c.Peers = []Peer{c.Peers[0], c.Peers[2]}
		}},
		{"cleanup", func(c *Config) { *c = Config{} }},
	} {
		t.Run(step.name, func(t *testing.T) {
			onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
				apply(t, c, cluster(3)[0], Options{})
				want := cluster(3)[0]
				step.change(&want)
				golden(t, step.name, apply(t, c, want, Options{}).String())
				apply(t, c, cluster(3)[0], Options{})
			})
		})
	}
}

// TestForeignRouteInTheWay is kept and reported; all other peers are served.
func TestForeignRouteInTheWay(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		foreign := rtnl.Route{Dst: nodeOf(2, rtnl.IPv4).PodCIDR, Gateway: addr("192.168.0.66"), Link: "eth0", Protocol: rtnl.ProtocolStatic}.Canonical()
		write(t, c, rtnl.Change{Verb: rtnl.Add, Object: foreign})
		_, err := applyTolerant(t, c, cluster(3)[0], Options{})
		var of *PeerError
		if !errors.As(err, &of) || of.Peer != "n2" || !strings.Contains(err.Error(), foreign.String()) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("got error %v, want one of peer n2 that names %s", err, foreign)
		}
		routes, err := c.Routes(t.Context(), rtnl.RouteFilter{Family: rtnl.IPv4})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]rtnl.Protocol{}
		for _, r := range routes {
			found[r.Dst.String()] = r.Protocol
		}
		want := map[string]rtnl.Protocol{"192.168.0.0/16": rtnl.ProtocolKernel, "10.244.2.0/24": rtnl.ProtocolStatic, "10.244.3.0/24": rtnl.ProtocolVXLAN}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
		write(t, c, rtnl.Change{Verb: rtnl.Delete, Object: foreign})
		apply(t, c, cluster(3)[0], Options{})
	})
}

// TestForeignDevice: what has our name or our tunnel and is not ours is reported with the command that helps; the other family is served.
func TestForeignDevice(t *testing.T) {
	tunnel := rtnl.VXLAN{VNI: 1, Port: 8472, Local: addr("192.168.0.1"), Underlay: "eth0"}
	exact := tunnel
	exact.Learning = rtnl.Off
	for _, f := range []struct {
		name string
		link rtnl.Link
		want string // "" = adopted
	}{
		{"exact, unmarked", rtnl.Link{Name: "podnet.1", Kind: rtnl.KindVXLAN, VXLAN: exact}, ""},
		{"other settings, unmarked", rtnl.Link{Name: "podnet.1", Kind: rtnl.KindVXLAN, VXLAN: tunnel}, "remove it (ip link del podnet.1)"},
		{"someone else's mark", rtnl.Link{Name: "podnet.1", Kind: rtnl.KindVXLAN, Alias: "antrea", VXLAN: exact}, `belongs to "antrea"`},
		{"a bridge", rtnl.Link{Name: "podnet.1", Kind: rtnl.KindBridge}, "is no vxlan device"},
		{"same tunnel, other name", rtnl.Link{Name: "flannel.1", Kind: rtnl.KindVXLAN, VXLAN: exact}, "remove it (ip link del flannel.1), or choose another VNI or port"},
	} {
		t.Run(f.name, func(t *testing.T) {
			onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
				write(t, c, rtnl.Change{Verb: rtnl.Add, Object: f.link})
				if f.want == "" {
					apply(t, c, cluster(3)[0], Options{})
					return
				}
				before := state(t, c, f.link.Name)
				_, err := applyTolerant(t, c, cluster(3)[0], Options{})
				if err == nil || !strings.Contains(err.Error(), f.want) {
					t.Fatalf("got %v, want an error with %q", err, f.want)
				}
				for _, line := range before {
					if !strings.Contains(strings.Join(state(t, c, f.link.Name), "\n"), line) {
						t.Errorf("%s is gone", line)
					}
				}
				routes, err := c.Routes(t.Context(), rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
				if err != nil || len(routes) != 2 {
					t.Errorf("routes %v (%v), want the two of IPv6", routes, err)
				}
			})
		})
	}
}

// TestUnderlay that is missing or down is an error, and what is there is kept.
func TestUnderlay(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		want := cluster(3)[0]
		apply(t, c, want, Options{})
		whole := state(t, c, ourDevices...)
		missing := want
		missing.Underlay = "eth7"
		if _, err := applyTolerant(t, c, missing, Options{}); err == nil || !strings.Contains(err.Error(), "underlay eth7: no such device") {
			t.Errorf("got %v", err)
		}
		wantState(t, c, whole)
		write(t, c, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.Off}})
		if _, err := applyTolerant(t, c, want, Options{}); err == nil || !strings.Contains(err.Error(), "underlay eth0: is down") {
			t.Errorf("got %v", err)
		}
		wantState(t, c, whole)
		write(t, c, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}})
		apply(t, c, want, Options{})
		wantState(t, c, whole)
	})
}

// TestMTU follows the underlay, and is what the underlay allows where more is wanted.
func TestMTU(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		mtus := func() string {
			links, err := c.Links(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			byName := map[string]int{}
			for _, l := range links {
				byName[l.Name] = l.MTU
			}
			return fmt.Sprint(byName["podnet.1"], byName["podnet-v6.1"])
		}
		want := cluster(3)[0]
		for _, step := range []struct {
			uplink, mtu int
			got, err    string
		}{
			{1500, 0, "1450 1430", ""},
			{1400, 0, "1350 1330", ""},
			{9000, 0, "8950 8930", ""},
			{9000, 1400, "1400 1400", ""},
			{1450, 1400, "1400 1380", "device podnet-v6.1: MTU 1400: underlay eth0 with MTU 1450 allows up to 1380"},
		} {
			write(t, c, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", MTU: step.uplink}})
			want.Endpoints[0].MTU, want.Endpoints[1].MTU = step.mtu, step.mtu
			_, err := applyTolerant(t, c, want, Options{})
			if got := mtus(); got != step.got || err == nil != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
				t.Errorf("uplink %d, wanted %d: devices have %s (%v), want %s (%s)", step.uplink, step.mtu, got, err, step.got, step.err)
			}
		}
		write(t, c, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", MTU: 1300}})
		if _, err := applyTolerant(t, c, want, Options{}); err == nil || !strings.Contains(err.Error(), "IPv6 pods need 1350 or more") {
			t.Errorf("got %v", err)
		}
	})
}

// TestNexthopThreshold: crossing it replaces routes in place, and there is room between the way there and the way back.
func TestNexthopThreshold(t *testing.T) {
	onEachKernel(t, func(t *testing.T, c rtnltest.Conn) {
		o := Options{NexthopsAbove: 8}
		for _, step := range []struct {
			peers    int
			nexthops int
		}{{8, 0}, {9, 9}, {8, 8}, {5, 5}, {4, 0}, {8, 0}, {12, 12}, {0, 0}} {
			done := apply(t, c, manyPeers(step.peers), o)
			nexthops, err := c.Nexthops(t.Context(), rtnl.ProtocolVXLAN)
			if err != nil || len(nexthops) != step.nexthops {
				t.Errorf("%d peers: nexthops %v (%v), want %d", step.peers, nexthops, err, step.nexthops)
			}
			live := map[string]bool{}
			for _, change := range done {
				if r, ok := change.Object.(rtnl.Route); ok {
					if change.Verb == rtnl.Delete && live[r.Dst.String()] {
						t.Errorf("%d peers: deletes a route that it has written: %s", step.peers, change)
					}
					live[r.Dst.String()] = change.Verb != rtnl.Delete
				}
			}
			for _, p := range manyPeers(step.peers).Peers {
				if written, touched := live[p.PodCIDR.String()]; touched && !written {
					t.Errorf("%d peers: %s deleted", step.peers, p.PodCIDR)
				}
			}
		}
	})
}

// TestAnySequenceConverges walks through random peer sets. After each step the kernel has what it would have from nothing, and a step has
// cost a bounded number of writes for each peer that changed.
func TestAnySequenceConverges(t *testing.T) {
	for _, o := range []Options{{NexthopsAbove: -1}, {NexthopsAbove: 1}} {
		for _, k := range kernels {
			steps := 150
			if k.name != "fake" {
				steps = 25
			}
			t.Run(fmt.Sprintf("%s, nexthops above %d", k.name, o.NexthopsAbove), func(t *testing.T) {
				r := rand.New(rand.NewPCG(3, 4))
				c := k.make(t)
				last, direct := map[Peer]bool{}, false
				apply(t, c, randomPeers(r, 0), o)
				for step := range steps {
					want := randomPeers(r, 2+r.IntN(14))
					done, err := applyTolerant(t, c, want, o)
					if err != nil {
						t.Fatalf("step %d: %v\n%s", step, err, done)
					}
					changed := 0
					next := map[Peer]bool{}
					for _, p := range want.Peers {
						next[p] = true
						if !last[p] {
							changed++
						}
					}
					for p := range last {
						if !next[p] {
							changed++
						}
					}
					// Turning direct routing on or off touches everybody: such a step has no bound of interest.
					if want.DirectRouting == direct && len(done) > 6*changed {
						t.Fatalf("step %d: %d changes for %d changed peers:\n%s", step, len(done), changed, done)
					}
					last, direct = next, want.DirectRouting
					fresh := k.make(t)
					apply(t, fresh, want, o)
					wantState(t, c, state(t, fresh, ourDevices...))
				}
			})
		}
	}
}

// randomPeers draws n nodes; some have exchanged their pod ranges, addresses or MACs with others, who may be gone.
func randomPeers(r *rand.Rand, n int) Config {
	c := cluster(1)[0]
	c.DirectRouting = r.IntN(4) == 0
	mixed := func() []int {
		order := []int{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}
		for range r.IntN(4) {
			i, j := r.IntN(len(order)), r.IntN(len(order))
			order[i], order[j] = order[j], order[i]
		}
		return order
	}
	for _, family := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		cidrs, addrs, macs := mixed(), mixed(), mixed()
		for i, node := range mixed()[:n] {
			c.Peers = append(c.Peers, Peer{
				Name:    fmt.Sprintf("n%d", node),
				PodCIDR: nodeOf(cidrs[i], family).PodCIDR,
				Addr:    nodeOf(addrs[i], family).Addr,
				MAC:     nodeOf(macs[i], family).MAC,
			})
		}
	}
	return c
}
