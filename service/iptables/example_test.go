package iptables_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"strings"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
)

// A virtual address in front of two servers, without Kubernetes. With iptables.Tools instead of the fake, packets find their way.
func Example() {
	kernel := &iptablestest.Kernel{} // &iptables.Tools{} is the real one
	proxy := service.New(iptables.New(kernel, iptables.Options{}), service.Options{})
	web := service.Name{Name: "web"}
	_, err := proxy.Apply(context.Background(), service.Config{
		Services: []service.Service{{
			Name:       web,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("192.0.2.80")},
			Ports:      []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}},
		}},
		Endpoints: map[service.Name][]service.Slice{web: {{
			Ports:     []service.EndpointPort{{Name: "http", Protocol: service.TCP, Port: 8080}},
			Endpoints: []service.Endpoint{{Addr: netip.MustParseAddr("10.0.0.1")}, {Addr: netip.MustParseAddr("10.0.0.2")}},
		}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(kernel.Dump()) {
		if strings.Contains(line, "DNAT --to") || strings.Contains(line, "192.0.2.80 -p") {
			fmt.Print(line)
		}
	}
	// Output:
	// -A PODNET-SVC-C-ZSF6F73OIB5I3RR -m comment --comment "podnet-5b478b4de7fa5d00-2 web:http" -m statistic --mode random --probability 0.5000000000 -p tcp -j DNAT --to-destination 10.0.0.1:8080
	// -A PODNET-SVC-C-ZSF6F73OIB5I3RR -p tcp -j DNAT --to-destination 10.0.0.2:8080
	// -A PODNET-SVC-V-5FUBRWQPPEJHDJW -m comment --comment "podnet-c41b8464826e3e25-1 0.0.0.0/0" -d 192.0.2.80 -p tcp --dport 80 -j PODNET-SVC-C-ZSF6F73OIB5I3RR
}
