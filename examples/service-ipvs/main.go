// Service-ipvs puts a virtual address in front of two servers on this host, without Kubernetes: each new connection goes to the one that has the fewest. It prints
// what it would do; with -apply it does it. Routers have to lead packets for the address here. The kernel needs IPVS: go run ./test/vm/run ./examples/service-ipvs has one.
//
//	ip netns exec demo go run ./examples/service-ipvs -apply
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
)

func main() {
	apply := flag.Bool("apply", false, "do it, in the current network namespace")
	flag.Parse()
	if err := run(os.Stdout, *apply); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer, apply bool) error {
	kernel, err := ipvs.Open(ipvs.OpenOptions{}) // or Netns: the path of a network namespace
	if err != nil {
		return err
	}
	defer kernel.Close()
	services := service.New(ipvs.New(kernel, ipvs.Options{Scheduler: "lc"}), service.Options{})

	web, host := service.Name{Name: "web"}, netip.MustParseAddr("192.168.1.11")
	backend := func(port uint16) service.Slice {
		return service.Slice{Ports: []service.EndpointPort{{Protocol: service.TCP, Port: port}}, Endpoints: []service.Endpoint{{Addr: host}}}
	}
	want := service.Config{
		Services: []service.Service{{Name: web, ClusterIPs: []netip.Addr{netip.MustParseAddr("192.168.1.100")},
			Ports: []service.Port{{Protocol: service.TCP, Port: 80}}}},
		Endpoints: map[service.Name][]service.Slice{web: {backend(8080), backend(8081)}},
	}
	if !apply {
		plan, err := services.Plan(context.Background(), want)
		for _, p := range plan.Set {
			fmt.Fprintln(out, p.Name, p.Ports[0].Frontends[0], "->", p.Ports[0].Cluster[0].Addr, p.Ports[0].Cluster[1].Addr)
		}
		return err
	}
	report, err := services.Apply(context.Background(), want)
	fmt.Fprintln(out, report.Writes, "kernel objects written")
	return err
}
