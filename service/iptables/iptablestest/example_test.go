package iptablestest_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
	"github.com/podnet/podnet/service/servicetest"
)

// A program that keeps Services is tested without root: send a packet through what it wrote, before and after somebody flushed the table.
func Example() {
	ctx := context.Background()
	kernel := &iptablestest.Kernel{}
	proxy := service.New(iptables.New(kernel, iptables.Options{}), service.Options{})
	dns := service.Name{Namespace: "kube-system", Name: "dns"}
	proxy.SetService(service.Service{
		Name: dns, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Ports: []service.Port{{Protocol: service.UDP, Port: 53}},
	})
	proxy.SetSlice(dns, "dns-1", service.Slice{
		Ports: []service.EndpointPort{{Protocol: service.UDP, Port: 53}}, Endpoints: []service.Endpoint{{Addr: netip.MustParseAddr("10.244.2.3")}},
	})
	query := servicetest.Packet{From: netip.MustParseAddr("10.244.1.2"), To: netip.MustParseAddr("10.96.0.10"), Port: 53, Protocol: service.UDP, In: "cni0"}
	ask := func() {
		_, err := proxy.Sync(ctx)
		verdict, _ := kernel.Lookup(query)
		fmt.Println(verdict, err)
	}
	ask()
	kernel.Flush(service.IPv4, "nat")
	ask()          // nobody has looked
	proxy.Resync() // Run does it when Watch tells
	ask()
	// Output:
	// 10.244.2.3:53 <nil>
	// REJECT <nil>
	// 10.244.2.3:53 <nil>
}
