package ipvs_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
)

// One Service with two endpoints. On a node, ipvs.Open(ipvs.OpenOptions{}) takes the place of the fake kernel.
func Example() {
	node := ipvstest.NewNode()
	r := service.New(ipvs.New(node.Kernel(), ipvs.Options{Scheduler: "wlc"}), service.Options{})

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
	fmt.Print(ipvstest.Dump(context.Background(), node.IPVS))
	// Output:
	// writes of a second Apply: 0
	// -A -t 10.96.0.10:80 -s wlc
	// -a -t 10.96.0.10:80 -r 10.244.0.5:8080 -m -w 1
	// -a -t 10.96.0.10:80 -r 10.244.1.7:8080 -m -w 1
}
