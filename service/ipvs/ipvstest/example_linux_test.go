package ipvstest_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
)

// A dataplane on the fake takes over what is there.
func Example() {
	node := ipvstest.NewNode()
	d := ipvs.New(node.Kernel(), ipvs.Options{})
	p := service.Program{Name: service.Name{Name: "web"}, Ports: []service.PortProgram{{
		Protocol: service.UDP, Family: service.IPv4,
		Frontends: []service.Frontend{{Kind: service.ClusterIP, Addr: netip.MustParseAddr("10.96.0.10"), Port: 53}},
		Cluster:   []service.Backend{{Addr: netip.MustParseAddrPort("10.244.0.5:53")}},
	}}}
	if _, err := d.Observe(context.Background()); err != nil {
		fmt.Println(err)
	}
	if _, err := d.Apply(context.Background(), service.Delta{Full: true, Set: []service.Program{p}}); err != nil {
		fmt.Println(err)
	}
	fmt.Print(ipvstest.Dump(context.Background(), node.IPVS))
	// Output:
	// -A -u 10.96.0.10:53 -s rr
	// -a -u 10.96.0.10:53 -r 10.244.0.5:53 -m -w 1
}
