package nft_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/nft"
)

// One Service with two endpoints. On a node, nft.Open("") takes the place of the fake kernel.
func Example() {
	kernel := &nfnltest.Kernel{}
	r := service.New(nft.New(kernel.Open(), nft.Options{}), service.Options{})

	name := service.Name{Namespace: "default", Name: "web"}
	want := service.Config{
		Services: []service.Service{{
			Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
			Ports: []service.Port{{Protocol: service.TCP, Port: 80}},
		}},
		Endpoints: map[service.Name][]service.Slice{name: {{
			Ports:     []service.EndpointPort{{Protocol: service.TCP, Port: 8080}},
			Endpoints: []service.Endpoint{{Addr: netip.MustParseAddr("10.244.0.5")}, {Addr: netip.MustParseAddr("10.244.1.7")}},
		}}},
	}
	if _, err := r.Apply(context.Background(), want); err != nil {
		fmt.Println(err)
	}
	again, _ := r.Apply(context.Background(), want)
	fmt.Println("writes of a second Apply:", again.Writes)

	results, err := kernel.Walk(nfnltest.Packet{From: netip.MustParseAddrPort("10.244.0.9:40000"), To: netip.MustParseAddrPort("10.96.0.10:80"), Protocol: uint8(service.TCP)})
	for _, one := range results {
		fmt.Println(one.To, err)
	}
	// Output:
	// writes of a second Apply: 0
	// 10.244.0.5:8080 <nil>
	// 10.244.1.7:8080 <nil>
}
