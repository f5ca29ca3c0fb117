package service_test

import (
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
)

// A Service with one endpoint here and one elsewhere: what a node does with it.
func Example() {
	t := service.NewTracker()
	t.SetNode(service.Node{Name: "node-a", LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}}})
	web := service.Name{Namespace: "default", Name: "web"}
	t.SetService(service.Service{
		Name: web, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ExternalPolicy: service.Local,
		Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}},
	})
	t.SetSlice(web, "", service.Slice{
		Ports: []service.EndpointPort{{Name: "http", Protocol: service.TCP, Port: 8080}},
		Endpoints: []service.Endpoint{
			{Addr: netip.MustParseAddr("10.244.0.5"), Node: "node-a"},
			{Addr: netip.MustParseAddr("10.244.1.7"), Node: "node-b"},
		},
	})
	for _, planned := range t.Take() {
		for _, port := range planned.Program.Ports {
			for _, f := range port.Frontends {
				fmt.Println(f, "pod:", f.Pod.Action, "host:", f.Host.Action, "remote:", f.Remote.Action, f.Remote.Masquerade)
			}
			fmt.Println(len(port.Cluster), "in the cluster,", port.Local[0].Addr, "here")
		}
	}
	// Output:
	// ClusterIP 10.96.0.10:80 pod: cluster host: cluster remote: cluster true
	// NodePort 30080 pod: cluster host: cluster remote: local false
	// 2 in the cluster, 10.244.0.5:8080 here
}
