package ipvs_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
)

// A virtual address in front of two servers, on a fake kernel. The real one is from Open.
func Example() {
	node := ipvstest.NewNode()
	services := service.New(ipvs.New(node.Kernel(), ipvs.Options{Scheduler: "wlc"}), service.Options{})
	name := service.Name{Namespace: "default", Name: "web"}
	report, err := services.Apply(context.Background(), service.Config{
		Services: []service.Service{{
			Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Ports: []service.Port{{Protocol: service.TCP, Port: 80}},
		}},
		Endpoints: map[service.Name][]service.Slice{name: {{
			Ports:     []service.EndpointPort{{Protocol: service.TCP, Port: 8080}},
			Endpoints: []service.Endpoint{{Addr: netip.MustParseAddr("192.0.2.1")}, {Addr: netip.MustParseAddr("192.0.2.2")}},
		}}},
	})
	fmt.Println(report.Services, err)
	fmt.Print(ipvstest.Dump(context.Background(), node.IPVS))
	// Output:
	// 1 <nil>
	// -A -t 10.96.0.10:80 -s wlc
	// -a -t 10.96.0.10:80 -r 192.0.2.1:8080 -m -w 1
	// -a -t 10.96.0.10:80 -r 192.0.2.2:8080 -m -w 1
}
