package conntrack_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

// A name service has lost one of its two endpoints. A client that always sends from the same port would talk to it for ever.
func Example() {
	kernel := &conntracktest.Kernel{} // conntrack.Conn{} is the real one
	kernel.Track(
		conntracktest.UDP("10.244.1.2:5000", "10.96.0.10:53", "10.244.2.3:53"),
		conntracktest.UDP("10.244.1.7:5000", "10.96.0.10:53", "10.244.2.4:53"),
	)
	dns := conntrack.Frontend{
		Addr:    netip.MustParseAddrPort("10.96.0.10:53"),
		Serving: []netip.AddrPort{netip.MustParseAddrPort("10.244.2.4:53")},
	}
	flows := conntrack.New(kernel, conntrack.Options{})
	done, err := flows.Apply(context.Background(), conntrack.Config{Frontends: []conntrack.Frontend{dns}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(done)
	fmt.Print("left: ", kernel.Dump())
	// Output:
	// delete udp src=10.244.1.2 dst=10.96.0.10 sport=5000 dport=53 src=10.244.2.3 dst=10.244.1.2 sport=53 dport=5000
	// left: udp src=10.244.1.7 dst=10.96.0.10 sport=5000 dport=53 src=10.244.2.4 dst=10.244.1.7 sport=53 dport=5000
}
