// Overlay connects this node to a peer by VXLAN and heals what anyone removes, until Ctrl-C. It prints what it would do; with -apply it does it.
//
//	ip netns add demo && ip -n demo link add up0 type veth peer name far0 && ip -n demo addr add 192.168.1.11/24 dev up0
//	ip -n demo link set up0 up && ip -n demo link set far0 up
//	ip netns exec demo go run ./examples/overlay -uplink up0 -apply
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/signal"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

func main() {
	uplink := flag.String("uplink", "eth0", "device that carries the tunnel")
	local := flag.String("local", "192.168.1.11", "this node's address on it")
	apply := flag.Bool("apply", false, "do it, in the current network namespace")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	kernel, err := rtnl.Open(rtnl.Options{})
	check(err)
	defer kernel.Close()

	want := vxlan.Config{
		Underlay: *uplink,
		Endpoints: []vxlan.Endpoint{{Local: netip.MustParseAddr(*local), PodCIDR: netip.MustParsePrefix("10.244.1.0/24"),
			MAC: vxlan.MACFor("node-a", "podnet.1")}},
		Peers: []vxlan.Peer{{Name: "node-b", PodCIDR: netip.MustParsePrefix("10.244.2.0/24"),
			Addr: netip.MustParseAddr("192.168.1.12"), MAC: vxlan.MACFor("node-b", "podnet.1")}},
	}
	overlay := vxlan.New(kernel, vxlan.Options{})
	if !*apply {
		plan, err := overlay.Plan(ctx, want)
		check(err)
		fmt.Print(plan)
		return
	}
	look := make(chan struct{}, 1) // an event only says "look again"
	look <- struct{}{}
	go func() {
		err := kernel.Watch(ctx, rtnl.Groups{Links: true, Routes: true, Neighs: true}, func(e rtnl.Event) {
			if want.Interested(e) {
				select {
				case look <- struct{}{}:
				default:
				}
			}
		})
		if !errors.Is(err, context.Canceled) {
			log.Print(err)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look:
			done, err := overlay.Apply(ctx, want)
			fmt.Print(done)
			if err != nil {
				log.Print(err)
			}
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
