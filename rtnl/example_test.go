package rtnl_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// What is wanted, less what is there, is what is to be written: values are map keys.
func Example() {
	ctx := context.Background()
	kernel := rtnltest.NewKernel().Netns("node-a") // in production: rtnl.Open(rtnl.Options{})
	kernel.Write(ctx, rtnl.Plan{
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "lan"}}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.0.1/24")}},
		{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("10.244.9.0/24"), Gateway: netip.MustParseAddr("192.168.0.9"), Link: "eth0", Protocol: rtnl.ProtocolHostGW}},
	})

	have := make(map[rtnl.Route]bool)
	routes, err := kernel.Routes(ctx, rtnl.RouteFilter{Protocol: rtnl.ProtocolHostGW})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range routes {
		have[r] = true
	}
	var plan rtnl.Plan
	for n := byte(1); n <= 2; n++ {
		want := rtnl.Route{
			Dst:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, n, 0}), 24),
			Gateway: netip.AddrFrom4([4]byte{192, 168, 0, 1 + n}), Link: "eth0", Protocol: rtnl.ProtocolHostGW,
		}.Canonical()
		if !have[want] {
			plan = append(plan, rtnl.Change{Verb: rtnl.Replace, Object: want})
		}
		delete(have, want)
	}
	for r := range have {
		plan = append(plan, rtnl.Change{Verb: rtnl.Delete, Object: r})
	}
	fmt.Print(plan)
	fmt.Println(kernel.Write(ctx, plan))
	// Output:
	// route replace 10.244.1.0/24 via 192.168.0.2 dev eth0 proto 113
	// route replace 10.244.2.0/24 via 192.168.0.3 dev eth0 proto 113
	// route del 10.244.9.0/24 via 192.168.0.9 dev eth0 proto 113
	// []
}

// Each change has its own result, and a failure stops nothing.
func ExampleConn_Write() {
	kernel := rtnltest.NewKernel().Netns("node-a") // in production: rtnl.Open(rtnl.Options{})
	plan := rtnl.Plan{
		{Verb: rtnl.Delete, Object: rtnl.Link{Name: "cni0"}},
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge}},
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge}},
	}
	for i, err := range kernel.Write(context.Background(), plan) {
		fmt.Printf("%s: missing %t, exists %t\n", plan[i], errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist))
	}
	// Output:
	// link del cni0: missing true, exists false
	// link add cni0 type bridge: missing false, exists false
	// link add cni0 type bridge: missing false, exists true
}
