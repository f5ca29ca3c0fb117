package servicetest_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// A test of somebody's own controller: what it gives to a Reconciler becomes traffic.
func Example() {
	d := new(servicetest.Dataplane)
	r := service.New(d, service.Options{})
	r.SetNode(service.Node{Name: "node-a", LocalPods: service.LocalPods{Interface: "cni0"}})
	d.SetMachine(servicetest.Machine{Local: []netip.Addr{netip.MustParseAddr("192.168.0.1")}})

	web := service.Name{Namespace: "default", Name: "web"}
	r.SetService(service.Service{
		Name: web, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ExternalPolicy: service.Local,
		Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}},
	})
	r.SetSlice(web, "", service.Slice{
		Ports: []service.EndpointPort{{Name: "http", Protocol: service.TCP, Port: 8080}},
		Endpoints: []service.Endpoint{
			{Addr: netip.MustParseAddr("10.244.0.5"), Node: "node-a"},
			{Addr: netip.MustParseAddr("10.244.1.7"), Node: "node-b"},
		},
	})
	if _, err := r.Sync(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Print(d.Dump())
	for _, p := range []servicetest.Packet{
		{From: netip.MustParseAddr("10.244.0.9"), In: "cni0", To: netip.MustParseAddr("10.96.0.10"), Port: 80, Protocol: service.TCP},
		{From: netip.MustParseAddr("203.0.113.9"), In: "eth0", To: netip.MustParseAddr("192.168.0.1"), Port: 30080, Protocol: service.TCP},
		{From: netip.MustParseAddr("10.244.0.9"), In: "cni0", To: netip.MustParseAddr("10.96.0.10"), Port: 22, Protocol: service.TCP},
	} {
		verdict, _ := d.Lookup(p)
		fmt.Println(p, "=", verdict)
	}
	// Output:
	// default/web
	//   http TCP IPv4
	//     ClusterIP 10.96.0.10:80      pod cluster, host cluster masquerade, remote cluster masquerade
	//     NodePort 30080               pod cluster, host cluster masquerade, remote local
	//     cluster 10.244.0.5:8080* 10.244.1.7:8080
	//     local 10.244.0.5:8080*
	// TCP 10.244.0.9 -> 10.96.0.10:80 in cni0 = 10.244.0.5:8080 10.244.1.7:8080
	// TCP 203.0.113.9 -> 192.168.0.1:30080 in eth0 = 10.244.0.5:8080
	// TCP 10.244.0.9 -> 10.96.0.10:22 in cni0 = REJECT
}
