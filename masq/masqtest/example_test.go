package masqtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/masq/masqtest"
)

// A program that keeps rules with masq is tested without root: break the kernel, and see that the next Apply mends it.
func Example() {
	ctx := context.Background()
	kernel := &masqtest.Kernel{}
	rules := masq.New(kernel, masq.Options{})
	want := masq.Config{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	packet := masqtest.Packet{Src: netip.MustParseAddr("10.244.1.2"), Dst: netip.MustParseAddr("192.0.2.1")}

	kernel.Fault(func(c masqtest.Call) error {
		if c.Method == "Set" {
			return errors.New("the disk is full")
		}
		return nil
	})
	_, err := rules.Apply(ctx, want)
	fmt.Println(err != nil, kernel.Lookup(packet))

	kernel.Fault(nil)
	_, err = rules.Apply(ctx, want)
	fmt.Println(err, kernel.Lookup(packet))
	// Output:
	// true return
	// <nil> masquerade fully-random
}
