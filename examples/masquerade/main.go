// Masquerade gives pod traffic that leaves the cluster the node's address. It prints what it would do; with -apply it does it.
//
//	ip netns exec demo go run ./examples/masquerade -apply
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/netip"

	"github.com/podnet/podnet/masq"
)

func main() {
	apply := flag.Bool("apply", false, "do it, in the current network namespace")
	flag.Parse()
	want := masq.Config{
		PodCIDRs:      []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		ClusterCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		NonMasquerade: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, // the office knows the way to the pods
	}
	rules := masq.New(&masq.Netfilter{}, masq.Options{})
	run := rules.Plan
	if *apply {
		run = rules.Apply
	}
	plan, err := run(context.Background(), want)
	if err != nil {
		log.Fatal(err)
	}
	if plan.Empty() {
		fmt.Println("nothing to do")
	}
	fmt.Print(plan)
}
