package veth_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/veth"
)

// A pod gets its link, and loses it when its namespace is gone already. A real program passes two *rtnl.Conn instead of the fake kernel's
// namespaces, one opened in the pod's.
func Example() {
	ctx := context.Background()
	kernel := rtnltest.NewKernel()
	host, pod := kernel.Netns("host"), kernel.Netns("pod1")
	p, _ := rtnltest.ParsePlan("link add cni0 up type bridge")
	host.Write(ctx, p)

	owner := veth.Options{ContainerID: "3f2a", Ifname: "eth0", Netns: "/run/netns/pod1"}
	did, err := veth.New(host, pod, owner).Apply(ctx, veth.Config{
		Bridge: "cni0",
		MTU:    1450,
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.244.1.2/24"), netip.MustParsePrefix("fd00:1::2/64")},
		Routes: []rtnl.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.244.1.1")},
			{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00:1::1")},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(did)

	did, err = veth.New(host, nil, veth.Options{ContainerID: "3f2a", Ifname: "eth0"}).Apply(ctx, veth.Config{})
	fmt.Print(did)
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// host: link add veth2dfee894d10 up mtu 1450 address 8e:b6:6d:86:cc:d2 alias "podnet:veth 3f2a eth0" master cni0 hairpin off type veth peer eth0 address 86:77:98:52:4a:35 netns /run/netns/pod1
	// pod: sysctl -w net/ipv6/conf/eth0/accept_ra=0
	// pod: sysctl -w net/ipv4/conf/eth0/arp_notify=1
	// pod: sysctl -w net/ipv6/conf/eth0/keep_addr_on_down=1
	// pod: sysctl -w net/ipv6/conf/eth0/ndisc_notify=1
	// pod: link set eth0 up
	// pod: addr add 10.244.1.2/24 dev eth0
	// pod: addr add fd00:1::2/64 dev eth0 nodad
	// pod: route add 0.0.0.0/0 via 10.244.1.1 dev eth0 proto static
	// pod: route add ::/0 via fd00:1::1 dev eth0 proto static metric 1024
	// pod: link set eth0 address 86:77:98:52:4a:35
	// host: link del veth2dfee894d10
}

// Whose link is it? After a crash or a reboot the host ends tell.
func ExampleParseMark() {
	fmt.Println(veth.ParseMark("podnet:veth 3f2a eth0"))
	fmt.Println(veth.ParseMark("somebody else's"))
	// Output:
	// 3f2a eth0 true
	//   false
}
