// Podlink connects a pod's network namespace to a bridge, as a CNI plugin would. It prints what it would do; with -apply it does it.
//
//	ip netns add demo && ip netns add pod
//	ip netns exec demo go run ./examples/podlink -pod /run/netns/pod -apply
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/netip"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

func main() {
	podNetns := flag.String("pod", "", "path of the pod's network namespace")
	apply := flag.Bool("apply", false, "do it, in the current network namespace and the pod's")
	flag.Parse()
	ctx := context.Background()
	host, err := rtnl.Open(rtnl.Options{})
	check(err)
	defer host.Close()
	pod, err := rtnl.Open(rtnl.Options{Netns: *podNetns})
	check(err)
	defer pod.Close()

	br := bridge.Config{Name: "demo0", Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.7.1/24")}}
	link := veth.Config{
		Bridge: br.Name,
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.244.7.2/24")},
		Routes: []rtnl.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.244.7.1")}},
	}
	bridges := bridge.New(host, bridge.Options{})
	links := veth.New(host, pod, veth.Options{ContainerID: "demo", Ifname: "eth0", Netns: *podNetns})

	brPlan, err := bridges.Plan(ctx, br)
	check(err)
	linkPlan, err := links.Plan(ctx, link)
	check(err)
	fmt.Printf("%s%s", brPlan, linkPlan)
	if *apply {
		_, err = bridges.Apply(ctx, br)
		check(err)
		_, err = links.Apply(ctx, link)
		check(err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
