package masq_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/masq/masqtest"
)

func Example() {
	ctx := context.Background()
	kernel := &masqtest.Kernel{} // outside of tests: &masq.Netfilter{}
	config := masq.Config{
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	}
	rules := masq.New(kernel, masq.Options{})
	if _, err := rules.Apply(ctx, config); err != nil {
		log.Fatal(err)
	}

	kernel.Flush() // somebody runs "nft flush ruleset"
	repair, err := rules.Apply(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(repair)

	pod := netip.MustParseAddr("10.244.1.2")
	for _, dst := range []string{"10.244.2.2", "192.0.2.1"} {
		fmt.Println("pod to", dst, "-", kernel.Lookup(masqtest.Packet{Src: pod, Dst: netip.MustParseAddr(dst)}))
	}
	// Output:
	// add table ip podnet-masq
	// delete table ip podnet-masq
	// table ip podnet-masq {
	// 	chain postrouting {
	// 		type nat hook postrouting priority srcnat; policy accept;
	// 		meta mark & 0x4000 == 0x4000 return comment "podnet a8ae08d4e7e4 1/7 rule 1: marked, the service proxy masquerades"
	// 		ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return comment "podnet a8ae08d4e7e4 2/7 rule 2: local pod to cluster, keep pod address"
	// 		ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return comment "podnet a8ae08d4e7e4 3/7 rule 3: cluster to local pod, keep pod address"
	// 		ip daddr 10.244.1.0/24 return comment "podnet a8ae08d4e7e4 4/7 rule 4: outside to local pod, keep client address"
	// 		ip saddr 10.244.0.0/16 ip daddr { 10.244.0.0/16, 224.0.0.0/4 } return comment "podnet a8ae08d4e7e4 5/7 rule 5: cluster to cluster, multicast or exception, keep"
	// 		ip saddr 10.244.0.0/16 masquerade fully-random comment "podnet a8ae08d4e7e4 6/7 rule 5: cluster to outside, take node address"
	// 		ip daddr 10.244.0.0/16 masquerade fully-random comment "podnet a8ae08d4e7e4 7/7 rule 6: node to remote pod, reply through the tunnel"
	// 	}
	// }
	// pod to 10.244.2.2 - return
	// pod to 192.0.2.1 - masquerade fully-random
}
