// Hostgw routes the pods of a peer on the same segment through that peer. It prints what it would do; with -apply it does it.
//
//	ip netns exec demo go run ./examples/hostgw -uplink up0 -apply
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/netip"

	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/rtnl"
)

func main() {
	uplink := flag.String("uplink", "eth0", "device on whose segment the peers are")
	local := flag.String("local", "192.168.1.11", "this node's address on it")
	apply := flag.Bool("apply", false, "do it, in the current network namespace")
	flag.Parse()
	kernel, err := rtnl.Open(rtnl.Options{})
	check(err)
	defer kernel.Close()

	want := hostgw.Config{
		Underlay:  *uplink,
		Endpoints: []hostgw.Endpoint{{Local: netip.MustParseAddr(*local), PodCIDR: netip.MustParsePrefix("10.244.1.0/24")}},
		Peers: []hostgw.Peer{{Name: "node-b", PodCIDR: netip.MustParsePrefix("10.244.2.0/24"),
			Addr: netip.MustParseAddr("192.168.1.12")}},
	}
	routes := hostgw.New(kernel, hostgw.Options{})
	run := routes.Plan
	if *apply {
		run = routes.Apply
	}
	plan, err := run(context.Background(), want)
	check(err)
	if plan.Empty() {
		fmt.Println("nothing to do")
	}
	fmt.Print(plan)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
