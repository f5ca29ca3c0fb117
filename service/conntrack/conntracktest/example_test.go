package conntracktest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

// A program that cleans flows is tested without root: break the kernel, and see that the next Apply does the work.
func Example() {
	ctx := context.Background()
	kernel := &conntracktest.Kernel{}
	kernel.Track(conntracktest.UDP("10.244.1.2:5000", "10.96.0.10:53", "10.244.2.3:53"))
	flows := conntrack.New(kernel, conntrack.Options{})
	gone := conntrack.Config{Frontends: []conntrack.Frontend{{Addr: netip.MustParseAddrPort("10.96.0.10:53")}}}

	kernel.Fault(func(c conntracktest.Call) error {
		if c.Method == "Delete" {
			return errors.New("no memory")
		}
		return nil
	})
	p, err := flows.Apply(ctx, gone)
	fmt.Println(p.Stale, err)

	kernel.Fault(nil)
	p, err = flows.Apply(ctx, gone)
	fmt.Println(p.Stale, err)
	// Output:
	// 0 conntrack: IPv4: no memory
	// 1 <nil>
}
