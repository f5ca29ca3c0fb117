// Ipam cuts a cluster CIDR into a podCIDR per node, and gives pods addresses of one of them. It needs no privileges: go run ./examples/ipam
package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podnet/podnet/ipam"
)

func main() {
	nodes, err := ipam.NewNodeAllocator(ipam.NodeConfig{ClusterCIDRs: []netip.Prefix{
		netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}})
	if err != nil {
		log.Fatal(err)
	}
	for _, node := range []string{"node-a", "node-b"} {
		podCIDRs, err := nodes.Allocate(node) // one block per family, or none
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(node, podCIDRs)

		var sets [][]ipam.Range // one address of each set per pod
		for _, podCIDR := range podCIDRs {
			sets = append(sets, []ipam.Range{{Subnet: podCIDR}})
		}
		pods, err := ipam.NewPodAllocator(ipam.NewMemoryStore(), ipam.PodConfig{RangeSets: sets})
		if err != nil {
			log.Fatal(err)
		}
		for _, pod := range []string{"web", "db"} {
			addrs, err := pods.Allocate(context.Background(), ipam.Owner{ContainerID: node + "-" + pod, Ifname: "eth0"}, ipam.Request{})
			if err != nil {
				log.Fatal(err)
			}
			for _, a := range addrs {
				fmt.Printf("  %s %s via %s\n", pod, a.Prefix, a.Gateway)
			}
		}
	}
}
