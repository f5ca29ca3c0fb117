package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/netip"

	"github.com/podnet/podnet/ipam"
)

// From the cluster's CIDRs to a node's podCIDRs to a pod's addresses.
func Example() {
	nodes, err := ipam.NewNodeAllocator(ipam.NodeConfig{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
		Occupied:     []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := nodes.Occupy("node-a", []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")}); err != nil {
		log.Fatal(err)
	}
	podCIDRs, err := nodes.Allocate("node-b")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("node-b", podCIDRs)

	var config ipam.PodConfig
	for _, p := range podCIDRs {
		config.RangeSets = append(config.RangeSets, []ipam.Range{{Subnet: p}})
	}
	pods, err := ipam.NewPodAllocator(ipam.NewMemoryStore(), config)
	if err != nil {
		log.Fatal(err)
	}
	addresses, err := pods.Allocate(context.Background(), ipam.Owner{ContainerID: "4f2a", Ifname: "eth0"}, ipam.Request{})
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range addresses {
		fmt.Println("pod", a.Prefix, "via", a.Gateway)
	}
	// Output:
	// node-b [10.244.2.0/24 fd00:10:244:1::/64]
	// pod 10.244.2.2/24 via 10.244.2.1
	// pod fd00:10:244:1::2/64 via fd00:10:244:1::1
}

// Garbage collection, as CNI's GC verb does it.
func ExamplePodAllocator_Retain() {
	ctx := context.Background()
	pods, err := ipam.NewPodAllocator(ipam.NewMemoryStore(), ipam.PodConfig{
		RangeSets: [][]ipam.Range{{{Subnet: netip.MustParsePrefix("10.244.1.0/24")}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	alive, lost := ipam.Owner{ContainerID: "alive", Ifname: "eth0"}, ipam.Owner{ContainerID: "lost", Ifname: "eth0"}
	for _, o := range []ipam.Owner{alive, lost} {
		if _, err := pods.Allocate(ctx, o, ipam.Request{}); err != nil {
			log.Fatal(err)
		}
	}
	released, err := pods.Retain(ctx, []ipam.Owner{alive})
	if err != nil {
		log.Fatal(err)
	}
	_, err = pods.Lookup(ctx, lost)
	fmt.Println(released, errors.Is(err, fs.ErrNotExist))
	// Output: [lost/eth0] true
}

// A static address that somebody else has.
func ExampleInUseError() {
	ctx := context.Background()
	pods, err := ipam.NewPodAllocator(ipam.NewMemoryStore(), ipam.PodConfig{
		RangeSets: [][]ipam.Range{{{Subnet: netip.MustParsePrefix("10.244.1.0/24")}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	want := ipam.Request{Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.77")}}
	for _, id := range []string{"first", "second"} {
		_, err = pods.Allocate(ctx, ipam.Owner{ContainerID: id, Ifname: "eth0"}, want)
	}
	fmt.Println(err)
	// Output: allocate address: address 10.244.1.77 is in use by first/eth0
}
