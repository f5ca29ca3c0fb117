package hostgw_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// Two peers; one of them is behind a router and cannot be served without a tunnel.
func Example() {
	kernel := rtnltest.NewKernel() // rtnl.Open(rtnl.Options{}) for the real one
	node := kernel.Netns("n1")
	node.AddUplink("eth0", kernel.Segment("lan"), netip.MustParsePrefix("192.168.1.1/24"))

	done, err := hostgw.New(node, hostgw.Options{}).Apply(context.Background(), hostgw.Config{
		Underlay:  "eth0",
		Endpoints: []hostgw.Endpoint{{Local: netip.MustParseAddr("192.168.1.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24")}},
		Peers: []hostgw.Peer{
			{Name: "n2", PodCIDR: netip.MustParsePrefix("10.244.2.0/24"), Addr: netip.MustParseAddr("192.168.1.2")},
			{Name: "n3", PodCIDR: netip.MustParsePrefix("10.244.3.0/24"), Addr: netip.MustParseAddr("172.16.0.3")},
		},
	})
	fmt.Print(done)
	fmt.Println("error:", err)
	// Output:
	// route add 10.244.2.0/24 via 192.168.1.2 dev eth0 proto 113
	// error: peer "n3": address 172.16.0.3: no route to it; want one on the segment of eth0
}
