package rtnltest_test

import (
	"net/netip"
	"testing"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }

func TestFakeNode(t *testing.T) {
	k := rtnltest.NewKernel()
	node := k.Netns("node-a")
	k.Netns("pod")
	node.AddUplink("eth0", k.Segment("lan"), prefix("192.168.0.1/24"))
	mac := rtnl.MAC{2, 0, 0, 0, 0, 1}
	plan := rtnl.Plan{
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge, MAC: mac, MTU: 1450, Up: rtnl.On, Alias: "podnet:bridge"}},
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "v0", Kind: rtnl.KindVeth, Up: rtnl.On, Master: "cni0", Hairpin: rtnl.On,
			Veth: rtnl.Veth{Peer: "eth0", PeerNetns: "/run/netns/pod"}}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "cni0", Prefix: prefix("10.1.0.1/24")}},
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "vx", Kind: rtnl.KindVXLAN, Up: rtnl.On, MAC: mac,
			VXLAN: rtnl.VXLAN{VNI: 1, Local: ip("192.168.0.1"), Underlay: "eth0", Learning: rtnl.Off}}},
		{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "vx", IP: ip("10.2.0.0"), MAC: mac, Permanent: true}},
		{Verb: rtnl.Add, Object: rtnl.FDB{Link: "vx", MAC: rtnl.MAC{2, 0, 0, 0, 0, 3}, Dst: ip("192.168.0.9")}},
		{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("10.2.0.0/24"), Gateway: ip("10.2.0.0"), Link: "vx", Onlink: true, Protocol: 112, MTU: 1300}},
		{Verb: rtnl.Add, Object: rtnl.Nexthop{ID: 7, Gateway: ip("10.2.0.0"), Link: "vx", Onlink: true, Protocol: 112}},
		{Verb: rtnl.Add, Object: rtnl.Route{Dst: prefix("10.3.0.0/24"), Nexthop: 7, Protocol: 112}},
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}},
	}
	if errs := node.Write(t.Context(), plan); errs != nil {
		t.Fatal(errs)
	}
	t.Log("\n" + k.Dump())
}
