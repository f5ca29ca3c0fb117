package nft

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/service"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden shows what small states become. The files are also the documentation of the rules.
func TestGolden(t *testing.T) {
	web := service.Service{
		Name: service.Name{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")},
		Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}},
	}
	here := service.Endpoint{Addr: netip.MustParseAddr("10.244.0.5"), Node: "here"}
	there := service.Endpoint{Addr: netip.MustParseAddr("10.244.1.7"), Node: "there"}
	here6 := service.Endpoint{Addr: netip.MustParseAddr("fd00:244::5"), Node: "here"}
	ports := []service.EndpointPort{{Name: "http", Protocol: service.TCP, Port: 8080}}
	node := service.Node{Name: "here", LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:244::/64")}}}

	four := web
	four.ClusterIPs = web.ClusterIPs[:1]
	sticky := four
	sticky.Affinity = 3 * time.Hour
	edge := four
	edge.ExternalPolicy, edge.LoadBalancerIPs = service.Local, []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	edge.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	edge.Ports = []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}}
	for name, c := range map[string]service.Config{
		"cluster-ip": {Node: node, Services: []service.Service{four}, Endpoints: map[service.Name][]service.Slice{web.Name: {{Ports: ports, Endpoints: []service.Endpoint{here, there}}}}},
		"affinity":   {Node: service.Node{}, Services: []service.Service{sticky}, Endpoints: map[service.Name][]service.Slice{web.Name: {{Ports: ports, Endpoints: []service.Endpoint{here, there}}}}},
		"edge":       {Node: node, Services: []service.Service{edge}, Endpoints: map[service.Name][]service.Slice{web.Name: {{Ports: ports, Endpoints: []service.Endpoint{here, there}}}}},
		"dual-stack": {Node: node, Services: []service.Service{web}, Endpoints: map[service.Name][]service.Slice{web.Name: {{Ports: ports, Endpoints: []service.Endpoint{here, here6}}}}},
		"nobody":     {Node: service.Node{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}, Services: []service.Service{four}},
	} {
		t.Run(name, func(t *testing.T) {
			k := &nfnltest.Kernel{}
			if _, err := service.New(New(k.Open(), Options{}), service.Options{}).Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(k.Dump()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), k.Dump()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
