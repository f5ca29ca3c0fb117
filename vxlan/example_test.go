package vxlan_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/vxlan"
)

// A node with two peers: one on its own segment, one behind a router.
func Example() {
	kernel := rtnltest.NewKernel() // rtnl.Open(rtnl.Options{}) for the real one
	node := kernel.Netns("n1")
	node.AddUplink("eth0", kernel.Segment("lan"), netip.MustParsePrefix("192.168.1.1/24"))

	r := vxlan.New(node, vxlan.Options{KernelRelease: "6.1.0"})
	want := vxlan.Config{
		Underlay:      "eth0",
		DirectRouting: true,
		Endpoints: []vxlan.Endpoint{{
			Local:   netip.MustParseAddr("192.168.1.1"),
			PodCIDR: netip.MustParsePrefix("10.244.1.0/24"),
			MAC:     vxlan.MACFor("n1", vxlan.DeviceName(vxlan.DefaultVNI, rtnl.IPv4)),
		}},
		Peers: []vxlan.Peer{
			{Name: "n2", PodCIDR: netip.MustParsePrefix("10.244.2.0/24"), Addr: netip.MustParseAddr("192.168.1.2"), MAC: rtnl.MAC{0x0a, 0, 0, 0, 0, 2}},
			{Name: "n3", PodCIDR: netip.MustParsePrefix("10.244.3.0/24"), Addr: netip.MustParseAddr("172.16.0.3"), MAC: rtnl.MAC{0x0a, 0, 0, 0, 0, 3}},
		},
	}
	done, err := r.Apply(context.Background(), want)
	fmt.Print(done, "error: ", err, "\n")

	again, err := r.Apply(context.Background(), want)
	fmt.Println("again:", len(again), "changes, error:", err)

	// Output:
	// link add podnet.1 mtu 1450 address 3a:08:45:46:6d:8d alias "podnet:vxlan" tx-checksum on type vxlan id 1 local 192.168.1.1 dev eth0 dstport 8472 nolearning
	// sysctl -w net/ipv6/conf/podnet.1/accept_ra=0
	// link set podnet.1 up
	// addr add 10.244.1.0/32 dev podnet.1
	// fdb add 0a:00:00:00:00:03 dev podnet.1 dst 172.16.0.3 self permanent
	// neigh add 10.244.3.0 lladdr 0a:00:00:00:00:03 dev podnet.1 nud permanent
	// route add 10.244.2.0/24 via 192.168.1.2 dev eth0 proto 112
	// route add 10.244.3.0/24 via 10.244.3.0 dev podnet.1 proto 112 onlink
	// error: <nil>
	// again: 0 changes, error: <nil>
}

// Two nodes claim the same pods. The first by name has them, the other is reported, and everyone else is served.
func ExampleConfig_Validate() {
	peer := func(name, podCIDR, addr string, mac byte) vxlan.Peer {
		return vxlan.Peer{Name: name, PodCIDR: netip.MustParsePrefix(podCIDR), Addr: netip.MustParseAddr(addr), MAC: rtnl.MAC{0x0a, 0, 0, 0, 0, mac}}
	}
	err := vxlan.Config{
		Underlay:  "eth0",
		Endpoints: []vxlan.Endpoint{{Local: netip.MustParseAddr("192.168.1.1"), PodCIDR: netip.MustParsePrefix("10.244.1.7/24"), MAC: rtnl.MAC{0x0a, 1}}},
		Peers:     []vxlan.Peer{peer("n3", "10.244.2.0/24", "192.168.1.3", 3), peer("n2", "10.244.2.0/24", "192.168.1.2", 2)},
	}.Validate()
	fmt.Println(err)
	// Output:
	// vxlan: Endpoints[0].PodCIDR 10.244.1.7/24: has host bits; want 10.244.1.0/24
	// peer "n3": PodCIDR 10.244.2.0/24: overlaps 10.244.2.0/24 of peer "n2"
}

func ExampleMTUFor() {
	fmt.Println(vxlan.MTUFor(1500, rtnl.IPv4), vxlan.MTUFor(1500, rtnl.IPv6))
	// Output: 1450 1430
}
