package main

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestUplinkFollowed changes the uplink of a running agent: its name, its state, its address, and which device it is.
func TestUplinkFollowed(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	if _, err := exec.LookPath("ip"); err != nil {
		rtnltest.Lacking(t, err.Error())
	}
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	a.start("--iface-regex", `^192\.168\.1\.`, "--resync", "1h") // by events alone
	b.start("--iface-can-reach", "192.168.1.1", "--resync", "1h")
	a.waitReady()
	b.waitReady()
	wantReach(t, a, b)
	ip := func(n *testNode, args string) {
		t.Helper()
		if err := n.ns.Do(func() error { return exec.Command("ip", strings.Fields(args)...).Run() }); err != nil {
			t.Fatalf("ip %s: %v", args, err)
		}
	}
	vtep := func(n *testNode) rtnl.Link {
		l, err := n.conn.Link(t.Context(), "podnet.1")
		if err != nil {
			return rtnl.Link{}
		}
		return l
	}
	follows := func(what string, is func() bool) {
		t.Helper()
		start := time.Now()
		if !poll(patience, func() bool { code, _ := a.get("/readyz"); return code == 200 && is() }) {
			_, body := a.get("/readyz")
			t.Fatalf("%s is not followed: %v\n%s", what, vtep(a), body)
		}
		t.Logf("%s: followed after %v", what, time.Since(start).Round(time.Millisecond))
		wantReach(t, a, b)
		wantReach(t, b, a)
	}

	ip(a, "link set eth0 name lan0")
	follows("another name", func() bool { return vtep(a).VXLAN.Underlay == "lan0" })

	ip(a, "link set lan0 down")
	if !poll(patience, func() bool { code, _ := a.get("/readyz"); return code != 200 }) {
		t.Error("an uplink that is down is not reported")
	}
	ip(a, "link set lan0 up")
	ip(a, "addr replace fd00:192::1/64 dev lan0 nodad") // the kernel drops IPv6 addresses of a device that goes down
	follows("down and up", func() bool { return vtep(a).Up == rtnl.On })

	ip(a, "link set lan0 mtu 1400")
	follows("another MTU", func() bool { return vtep(a).MTU == 1350 })

	a.describeAs(strings.Replace(a.descriptor(), "192.168.1.1'", "192.168.1.101'", 1))
	ip(a, "addr add 192.168.1.101/24 dev lan0")
	ip(a, "addr del 192.168.1.1/24 dev lan0")
	ip(a, "addr replace 192.168.1.101/24 dev lan0") // deleting the first address of a subnet deletes the others, unless promote_secondaries is on
	follows("another address", func() bool { return vtep(a).VXLAN.Local == netip.MustParseAddr("192.168.1.101") })

	// Another device: the addresses move there.
	mustWrite(t, c.fabric.Conn(t),
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "second", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth9", PeerNetns: a.ns.Path()}}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "second", Master: "br0"}})
	ip(a, "addr flush dev lan0")
	ip(a, "link set lan0 down")
	ip(a, "link set eth9 up")
	ip(a, "addr add 192.168.1.101/24 dev eth9")
	ip(a, "addr add fd00:192::1/64 dev eth9 nodad")
	ip(b, "neigh flush dev eth0")
	follows("another device", func() bool { return vtep(a).VXLAN.Underlay == "eth9" && vtep(a).MTU == 1450 })
}
