package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

func dualStack(backend string) netconf.Config {
	return netconf.Config{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/48")},
		Backend:  netconf.Backend{Type: backend, VNI: 1, Port: 8472},
	}
}

func dualNode(name, pod4, pod6, addr4, addr6 string) node.Node {
	n := node.Node{Name: name}
	for _, p := range []string{pod4, pod6} {
		if p != "" {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(p))
		}
	}
	for _, a := range []string{addr4, addr6} {
		if a != "" {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
	}
	return n
}

func nodeA() node.Node {
	return dualNode("a", "10.244.1.0/24", "fd00:244:0:1::/64", "192.168.0.1", "fd00:192::1")
}

func TestSplitFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		own    node.Node
		want   string
		locals int
	}{
		{"whole", nodeA(), "", 2},
		{"missing", dualNode("b", "", "", "", ""), `no description of this node, "a", among 1`, 0},
		{"no IPv6", dualNode("a", "10.244.1.0/24", "", "192.168.0.1", ""), `node "a" has no IPv6 podCIDR, though the network fd00:244::/48 is enabled`, 1},
		{"outside", dualNode("a", "10.245.1.0/24", "fd00:244:0:1::/64", "192.168.0.1", "fd00:192::1"), `node "a": podCIDR 10.245.1.0/24 is outside the network 10.244.0.0/16`, 1},
		{"wider than the network", dualNode("a", "10.0.0.0/8", "fd00:244:0:1::/64", "192.168.0.1", "fd00:192::1"), `node "a": podCIDR 10.0.0.0/8 is outside the network 10.244.0.0/16`, 1},
		{"no IPv6 address", dualNode("a", "10.244.1.0/24", "fd00:244:0:1::/64", "192.168.0.1", ""), `node "a" has a podCIDR but no address of IPv6`, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := split([]node.Node{tt.own}, "a", dualStack(netconf.VXLAN))
			if errText(err) != tt.want || len(d.Locals) != tt.locals {
				t.Errorf("%v with %d families, want %q with %d", err, len(d.Locals), tt.want, tt.locals)
			}
		})
	}
}

func TestFindUplink(t *testing.T) {
	links := []rtnl.Link{{Name: "lo"}, {Name: "eth0", MTU: 1500}, {Name: "eth1", MTU: 9000}}
	addr := func(link, prefix string) rtnl.Addr {
		return rtnl.Addr{Link: link, Prefix: netip.MustParsePrefix(prefix)}
	}
	route := func(dst, link string, metric uint32) rtnl.Route {
		return rtnl.Route{Dst: netip.MustParsePrefix(dst), Link: link, Priority: metric}
	}
	own := []rtnl.Addr{addr("lo", "127.0.0.1/8"), addr("eth1", "192.168.0.1/24"), addr("eth1", "fd00:192::1/64"), addr("eth0", "10.0.0.5/24"), addr("eth0", "fe80::1/64"), addr("eth0", "fd00:10::5/64")}
	translated := append([]rtnl.Addr{addr("lo", "127.0.0.1/8")}, own[3:]...)
	for _, tt := range []struct {
		name, iface  string
		addrs        []rtnl.Addr
		routes       []rtnl.Route
		uplink, want string
		local        string
	}{
		{"by the node's address", "", own, []rtnl.Route{route("0.0.0.0/0", "eth0", 0)}, "eth1", "", "[192.168.0.1 fd00:192::1]"},
		{"named", "eth0", own, nil, "eth0", "", "[10.0.0.5 fd00:10::5]"},
		{"by the default route", "", translated, []rtnl.Route{route("::/0", "eth1", 1), route("0.0.0.0/0", "eth1", 200), route("0.0.0.0/0", "eth0", 100)}, "eth0", "", "[10.0.0.5 fd00:10::5]"},
		{"named but gone", "eth7", own, nil, "", `no uplink (yet): none of eth7 is here`, ""},
		{"nothing", "", translated, nil, "", "no device has an address of this node ([192.168.0.1 fd00:192::1]), and there is no default route; name one with --iface", ""},
		{"no address", "eth0", translated[:2], nil, "eth0", "uplink eth0 has no IPv6 address (yet)", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := split([]node.Node{nodeA()}, "a", dualStack(netconf.VXLAN))
			if err != nil {
				t.Fatal(err)
			}
			k := &fakeKernel{links: links, addrs: tt.addrs, routes: tt.routes}
			var u Uplink
			if tt.iface != "" {
				u.Ifaces = []string{tt.iface}
			}
			d, err = New(Options{Uplink: u, Kernel: k}).findUplink(t.Context(), d)
			if errText(err) != tt.want || d.Uplink.Name != tt.uplink {
				t.Fatalf("uplink %q, error %v, want %q and %q", d.Uplink.Name, err, tt.uplink, tt.want)
			}
			if err != nil {
				return
			}
			if got := "[" + d.Locals[0].Addr.String() + " " + d.Locals[1].Addr.String() + "]"; got != tt.local {
				t.Errorf("sends from %s, want %s", got, tt.local)
			}
		})
	}
}

func TestPodMTU(t *testing.T) {
	for _, tt := range []struct {
		backend            string
		v6                 bool
		uplink, configured int
		want               int
	}{
		{netconf.VXLAN, false, 1500, 0, 1450},
		{netconf.VXLAN, true, 1500, 0, 1430}, // one MTU per pod link: the smaller of the two tunnels
		{netconf.VXLAN, true, 9000, 0, 8930},
		{netconf.VXLAN, true, 1500, 1400, 1400},
		{netconf.VXLAN, true, 1500, 1500, 1430}, // more than fits is not taken
		{netconf.HostGW, true, 1500, 0, 1500},
		{netconf.Alloc, true, 1500, 0, 1500},
	} {
		c := dualStack(tt.backend)
		c.Backend.MTU = tt.configured
		if !tt.v6 {
			c.Networks = c.Networks[:1]
		}
		d, err := split([]node.Node{nodeA()}, "a", c)
		if err != nil {
			t.Fatal(err)
		}
		d.Uplink.MTU = tt.uplink
		if got := d.PodMTU(); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

func TestEachPeer(t *testing.T) {
	d, err := split([]node.Node{
		nodeA(),
		dualNode("b", "10.244.2.0/24", "fd00:244:0:2::/64", "192.168.0.2", "fd00:192::2"),
		dualNode("c", "10.244.3.0/24", "", "192.168.0.3", ""),
		dualNode("d", "10.250.4.0/24", "fd00:244:0:4::/64", "192.168.0.4", ""),
		dualNode("e", "10.244.5.0/24", "", "10.244.9.9", ""),
	}, "a", dualStack(netconf.VXLAN))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	notes := eachPeer(d, func(p peer) { got = append(got, p.name+" "+p.podCIDR.String()+" "+p.addr.String()) })
	if diff := cmp.Diff([]string{"b 10.244.2.0/24 192.168.0.2", "b fd00:244:0:2::/64 fd00:192::2", "c 10.244.3.0/24 192.168.0.3"}, got); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		`node "d": podCIDR 10.250.4.0/24 is outside the network 10.244.0.0/16`,
		`node "d": has a podCIDR but no address of IPv6`,
		`node "e": address 10.244.9.9 is inside the pods' network 10.244.0.0/16`,
	}, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}
