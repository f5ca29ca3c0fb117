package rtnltest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// cluster is a two-node cluster on one segment: node-1 and node-2, each with a bridge and one pod, joined by vxlan in both families.
func cluster(tb testing.TB) *rtnltest.Kernel {
	k := rtnltest.NewKernel()
	for i := 1; i <= 2; i++ {
		other := 3 - i
		node, pod := k.Netns(fmt.Sprintf("node-%d", i)), k.Netns(fmt.Sprintf("pod-%d", i))
		node.AddUplink("eth0", k.Segment("lan"), prefix(fmt.Sprintf("192.168.0.%d/24", i)), prefix(fmt.Sprintf("2001:db8::%d/64", i)))
		write(tb, node, `
			sysctl -w net/ipv4/ip_forward=1
			sysctl -w net/ipv6/conf/all/forwarding=1
			link add cni0 up mtu 1450 address 0a:58:00:00:00:0%[1]d type bridge
			addr add 10.244.%[1]d.1/24 dev cni0
			addr add fd00:10:244:%[1]d::1/64 dev cni0 nodad
			link add veth0 up mtu 1450 master cni0 type veth peer eth0 address 0a:58:00:00:01:0%[1]d netns pod-%[1]d
			link add flannel.1 up address 0e:00:00:00:00:0%[1]d type vxlan id 1 local 192.168.0.%[1]d dev eth0 dstport 8472 nolearning
			addr add 10.244.%[1]d.0/32 dev flannel.1
			addr add fd00:10:244:%[1]d::/128 dev flannel.1 nodad
			neigh add 10.244.%[2]d.0 lladdr 0e:00:00:00:00:0%[2]d dev flannel.1 nud permanent
			neigh add fd00:10:244:%[2]d:: lladdr 0e:00:00:00:00:0%[2]d dev flannel.1 nud permanent
			fdb add 0e:00:00:00:00:0%[2]d dev flannel.1 dst 192.168.0.%[2]d self permanent
			route add 10.244.%[2]d.0/24 via 10.244.%[2]d.0 dev flannel.1 proto 112 onlink
			route add fd00:10:244:%[2]d::/64 via fd00:10:244:%[2]d:: dev flannel.1 proto 112 onlink
		`, i, other)
		write(tb, pod, `
			link set eth0 up
			addr add 10.244.%[1]d.2/24 dev eth0
			addr add fd00:10:244:%[1]d::2/64 dev eth0 nodad
			route add 0.0.0.0/0 via 10.244.%[1]d.1
			route add ::/0 via fd00:10:244:%[1]d::1
		`, i)
	}
	return k
}

func write(tb testing.TB, n *rtnltest.FakeNetns, text string, args ...any) {
	tb.Helper()
	plan, err := rtnltest.ParsePlan(fmt.Sprintf(text, args...))
	if err != nil {
		tb.Fatal(err)
	}
	if errs := n.Write(tb.Context(), plan); errs != nil {
		tb.Fatal(errors.Join(errs...))
	}
}

func TestWalk(t *testing.T) {
	tests := []struct {
		name   string
		before string // changes on node-1
		packet rtnltest.Packet
		end    string // where it is delivered
		lost   string // or the error
		mtu    int
	}{
		{name: "own address", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.1.2")}, end: "pod-1 eth0"},
		{name: "loopback", packet: rtnltest.Packet{From: "pod-1", Dst: ip("127.0.0.1")}, end: "pod-1 lo"},
		{name: "gateway", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.1.1")}, end: "node-1 cni0"},
		{name: "other node's pod", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2")}, end: "pod-2 eth0"},
		{name: "other node's pod, IPv6", packet: rtnltest.Packet{From: "pod-1", Dst: ip("fd00:10:244:2::2")}, end: "pod-2 eth0"},
		{name: "node to pod", packet: rtnltest.Packet{From: "node-1", Dst: ip("10.244.2.2")}, end: "pod-2 eth0"},
		{name: "pod to other node", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.1")}, end: "node-2 flannel.1"},
		{name: "largest", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2"), Size: 1450, DF: true}, end: "pod-2 eth0"},
		{name: "too large for the pod", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2"), Size: 1451, DF: true},
			lost: "netns pod-1, dev eth0: packet of 1451 bytes is too big for MTU 1450", mtu: 1450},
		{name: "too large for the underlay", before: "link set eth0 mtu 1400",
			packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2"), Size: 1450, DF: true},
			lost:   "netns node-1, dev eth0: packet of 1500 bytes is too big for MTU 1400", mtu: 1350},
		{name: "no route", packet: rtnltest.Packet{From: "node-1", Dst: ip("10.99.0.1")}, lost: "no route to 10.99.0.1"},
		{name: "no route at the node", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.99.0.1")}, lost: "netns node-1: no route to 10.99.0.1"},
		{name: "no neighbour entry", before: "neigh del 10.244.2.0 dev flannel.1 nud permanent",
			packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2")}, lost: "dev flannel.1: no neighbour entry for 10.244.2.0"},
		{name: "no forwarding entry", before: "fdb del 0e:00:00:00:00:02 dev flannel.1 dst 192.168.0.2 self permanent",
			packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2")}, lost: "dev flannel.1: no forwarding entry for 0e:00:00:00:00:02"},
		{name: "wrong MAC", before: "neigh replace 10.244.2.0 lladdr 0e:00:00:00:00:99 dev flannel.1 nud permanent\nfdb add 0e:00:00:00:00:99 dev flannel.1 dst 192.168.0.2 self permanent",
			packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2")}, lost: "netns node-2, dev flannel.1: frame is for MAC 0e:00:00:00:00:99, this is 0e:00:00:00:00:02"},
		{name: "no forwarding", before: "sysctl -w net/ipv4/ip_forward=0",
			packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2")}, lost: "netns node-1, dev cni0: 10.244.2.2 is no address of this netns, and forwarding is off (net/ipv4/ip_forward)"},
		{name: "blackhole", before: "route add blackhole 10.66.0.0/16 proto 112",
			packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.66.0.1")}, lost: "route blackhole 10.66.0.0/16 proto 112"},
		{name: "TTL", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.244.2.2"), TTL: 2}, lost: "netns node-2, dev flannel.1: TTL expired"},
		{name: "port down", before: "link set veth0 down", packet: rtnltest.Packet{From: "node-1", Dst: ip("10.244.1.2")}, lost: "no neighbour entry for 10.244.1.2"},
		{name: "foreign source", packet: rtnltest.Packet{From: "pod-1", Src: ip("10.244.1.9"), Dst: ip("10.244.2.2")}, lost: "source 10.244.1.9 is no address of this netns"},
		{name: "routing loop", before: "route add 10.98.0.0/16 via 192.168.0.2", packet: rtnltest.Packet{From: "pod-1", Dst: ip("10.98.0.1")}, lost: "TTL expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := cluster(t)
			write(t, k.Netns("node-2"), "route add 10.98.0.0/16 via 192.168.0.1")
			write(t, k.Netns("node-1"), "%s", tt.before)
			trace, err := k.Walk(tt.packet)
			if tt.lost == "" {
				if end := trace.Netns + " " + trace.Link; err != nil || end != tt.end {
					t.Fatalf("delivered at %q, %v, want %q\n%v", end, err, tt.end, trace)
				}
				return
			}
			var lost *rtnltest.LostError
			if !errors.As(err, &lost) || !strings.Contains(err.Error(), tt.lost) || lost.MTU != tt.mtu {
				t.Errorf("got %v (MTU %d), want %q (MTU %d)\n%v", err, lost.MTU, tt.lost, tt.mtu, trace)
			}
		})
	}
}

// TestWalkRouted sends from a node behind a router: two segments, and tunnels between them.
func TestWalkRouted(t *testing.T) {
	k := rtnltest.NewKernel()
	router, a, b := k.Netns("router"), k.Netns("a"), k.Netns("b")
	router.AddUplink("eth0", k.Segment("left"), prefix("192.168.1.254/24"))
	router.AddUplink("eth1", k.Segment("right"), prefix("192.168.2.254/24"))
	write(t, router, "sysctl -w net/ipv4/ip_forward=1")
	a.AddUplink("eth0", k.Segment("left"), prefix("192.168.1.1/24"))
	b.AddUplink("eth0", k.Segment("right"), prefix("192.168.2.1/24"))
	write(t, a, "route add 0.0.0.0/0 via 192.168.1.254")
	write(t, b, "route add 0.0.0.0/0 via 192.168.2.254")
	trace, err := k.Walk(rtnltest.Packet{From: "a", Dst: ip("192.168.2.1")})
	if err != nil || trace.Netns != "b" || trace.TTL != 63 || trace.Src != ip("192.168.1.1") {
		t.Fatalf("%+v, %v", trace, err)
	}
	k.RemoveNetns("router")
	if _, err := k.Walk(rtnltest.Packet{From: "a", Dst: ip("192.168.2.1")}); err == nil || !strings.Contains(err.Error(), "no neighbour entry for 192.168.1.254") {
		t.Fatal(err)
	}
}
