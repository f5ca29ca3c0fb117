package ipvstest_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
)

// The fake refuses what the kernel refuses.
func Example() {
	k := ipvstest.NewIPVS()
	key := ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.MustParseAddrPort("10.96.0.1:443")}
	add := ipvs.Change{Verb: ipvs.AddServer, Key: key, Settings: ipvs.Settings{Scheduler: "rr"}}
	for _, err := range k.Write(context.Background(), []ipvs.Change{add, add, {Verb: ipvs.DeleteReal, Key: key, Real: netip.MustParseAddrPort("10.244.0.1:6443")}}) {
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// ipvsadm -A -t 10.96.0.1:443 -s rr: file exists
	// ipvsadm -d -t 10.96.0.1:443 -r 10.244.0.1:6443: no such file or directory
}
