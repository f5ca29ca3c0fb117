// Package rtnltest holds what tests need in place of a kernel: a fake one, the contract that it keeps with the real one, and fresh
// network namespaces of the real one.
//
// [Kernel] is a fake kernel with several network namespaces. [Kernel.Netns] hands out one of them, with the methods of [rtnl.Conn], so
// it fits where a package wants its own Kernel interface:
//
//	k := rtnltest.NewKernel()
//	node := k.Netns("node-a")
//	node.AddUplink("eth0", k.Segment("lan"), netip.MustParsePrefix("192.168.0.1/24"))
//	r := hostgw.New(node, hostgw.Options{})
//	if _, err := r.Apply(ctx, want); err != nil {
//		t.Fatal(err)
//	}
//	golden(t, node.Dump())               // iproute2 syntax, sorted
//	node.ResetCounts()
//	_, _ = r.Apply(ctx, want)
//	if c := node.Counts(); c.Changes != 0 {
//		t.Errorf("wrote %d objects in the steady state", c.Changes)
//	}
//
// The fake is as strict as the kernel: it gives the same errno, and removes what depends on a removed object (a link's addresses, routes
// and neighbours, the other end of a veth pair, a vxlan device on its underlay, the routes of a nexthop object, ...). What it does
// not model is EOPNOTSUPP, never silent success. It has no clock: duplicate address detection ends with [Kernel.FinishDAD].
//
// [Kernel.Walk] sends a packet through the state: source selection, longest prefix, neighbours, bridges, veth pairs, vxlan
// tunnels to other namespaces, forwarding, TTL, MTU. It tells each hop, or why the packet was lost.
//
// [FailEach] runs a test once for every call that can fail:
//
//	rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
//		k := rtnltest.NewKernel()
//		r := hostgw.New(k.Netns("node-a"), hostgw.Options{})
//		f.Arm(k) // call 1, 2, 3, ... from here fails
//		_, err := r.Apply(ctx, want)
//		f.Check(t, err) // it must have been reported
//		if _, err := r.Apply(ctx, want); err != nil {
//			t.Fatal(err) // and the next Apply must converge
//		}
//	})
//
// Kernel.Fault is the hook below it; it also serves to log calls, or to play an actor who writes to the kernel at a bad moment.
//
// What it owns: nothing outside of the process, except the namespaces that [NewNetns] makes; they are removed when the test ends.
//
// Failure: every refusal is an [*rtnl.Error], as from the real kernel. Privileges and kernel: the fake needs none and builds on every
// platform; [NewNetns] needs root on Linux, see [RequireKernel]. The facts were measured on Linux 6.18.
//
// Concurrency: a Kernel may be used by several goroutines. It is deterministic for a single one.
package rtnltest
