package bridge_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// The node's bridge with a gateway address per family. A real program passes an *rtnl.Conn instead of the fake kernel's namespace.
func Example() {
	ctx := context.Background()
	node := rtnltest.NewKernel().Netns("node")
	r := bridge.New(node, bridge.Options{})
	want := bridge.Config{
		Name:     "cni0",
		Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24"), netip.MustParsePrefix("fd00:1::1/64")},
		MTU:      1450,
	}

	did, err := r.Apply(ctx, want)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(did)

	again, err := r.Apply(ctx, want)
	fmt.Println("again:", len(again), "changes,", err)

	// Somebody takes the address away; Plan only tells.
	p, _ := rtnltest.ParsePlan("addr del 10.244.1.1/24 dev cni0")
	node.Write(ctx, p)
	drift, err := r.Plan(ctx, want)
	fmt.Print("drift: ", drift)
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// link add cni0 up address d6:6c:a1:45:15:8e alias "podnet:bridge" type bridge
	// link set cni0 mtu 1450
	// sysctl -w net/ipv6/conf/cni0/accept_ra=0
	// sysctl -w net/ipv4/ip_forward=1
	// sysctl -w net/ipv4/conf/cni0/forwarding=1
	// sysctl -w net/ipv6/conf/cni0/accept_dad=0
	// sysctl -w net/ipv6/conf/all/forwarding=1
	// sysctl -w net/ipv6/conf/cni0/forwarding=1
	// addr add 10.244.1.1/24 dev cni0
	// addr add fd00:1::1/64 dev cni0 nodad
	// again: 0 changes, <nil>
	// drift: addr add 10.244.1.1/24 dev cni0
}

// The zero Config removes the bridges that podnet made, and no others.
func ExampleReconciler_Apply_cleanup() {
	ctx := context.Background()
	node := rtnltest.NewKernel().Netns("node")
	p, _ := rtnltest.ParsePlan("link add docker0 type bridge")
	node.Write(ctx, p)
	r := bridge.New(node, bridge.Options{})
	if _, err := r.Apply(ctx, bridge.Config{Name: "cni0"}); err != nil {
		fmt.Println(err)
	}
	did, err := r.Apply(ctx, bridge.Config{})
	fmt.Print(did)
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// link del cni0
}
