package rtnltest_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// A node with an uplink gets a pod bridge and a route to the pods of a peer.
func ExampleKernel() {
	k := rtnltest.NewKernel()
	node := k.Netns("node-a")
	node.AddUplink("eth0", k.Segment("lan"), netip.MustParsePrefix("192.168.0.1/24"))

	errs := node.Write(context.Background(), rtnl.Plan{
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge, MAC: rtnl.MAC{0x0a, 0x58, 10, 244, 0, 1}, Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "cni0", Prefix: netip.MustParsePrefix("10.244.0.1/24")}},
		{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("10.244.1.0/24"), Gateway: netip.MustParseAddr("192.168.0.2"),
			Protocol: rtnl.ProtocolHostGW}},
		{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Gateway: netip.MustParseAddr("192.168.9.2"),
			Protocol: rtnl.ProtocolHostGW}},
	})
	for _, err := range errs {
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Print(node.Dump())
	// Output:
	// route add 10.244.2.0/24 via 192.168.9.2 proto 113: network is unreachable (Nexthop has invalid gateway)
	// link cni0 up mtu 1500 address 0a:58:0a:f4:00:01 type bridge no-carrier
	// link eth0 up mtu 1500 address 26:2e:35:00:14:6b
	// addr 10.244.0.1/24 dev cni0
	// addr 192.168.0.1/24 dev eth0
	// route 10.244.0.0/24 dev cni0 proto kernel scope link src 10.244.0.1
	// route 10.244.1.0/24 via 192.168.0.2 dev eth0 proto 113
	// route 192.168.0.0/24 dev eth0 proto kernel scope link src 192.168.0.1
}

// Two nodes on one segment, the second without a route back to the first one's pods.
func ExampleKernel_Walk() {
	k := rtnltest.NewKernel()
	for name, addr := range map[string]string{"node-a": "192.168.0.1/24", "node-b": "192.168.0.2/24"} {
		k.Netns(name).AddUplink("eth0", k.Segment("lan"), netip.MustParsePrefix(addr))
	}
	pods, err := rtnltest.ParsePlan(`
		link add cni0 up address 0a:58:0a:f4:00:01 type bridge
		addr add 10.244.0.1/24 dev cni0
	`)
	if err != nil {
		fmt.Println(err)
	}
	if errs := k.Netns("node-a").Write(context.Background(), pods); errs != nil {
		fmt.Println(errs)
	}

	to, back := netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("10.244.0.1")
	trace, err := k.Walk(rtnltest.Packet{From: "node-a", Src: back, Dst: to})
	fmt.Print(trace)
	fmt.Println(trace.Netns, err)
	_, err = k.Walk(rtnltest.Packet{From: "node-b", Dst: back})
	fmt.Println(err)
	// Output:
	// node-a eth0: send 10.244.0.1 > 192.168.0.2 via 192.168.0.2 lladdr 72:7f:a2:9c:ce:b8
	// node-b eth0: deliver 10.244.0.1 > 192.168.0.2
	// node-b <nil>
	// lost in netns node-b: no route to 10.244.0.1
}
