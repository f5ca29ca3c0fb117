package peers

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func TestCheckPodCIDR(t *testing.T) {
	for _, good := range []string{"10.244.1.0/24", "fd00:10:244:1::/64", "10.0.0.0/8", "100.64.3.7/32"} {
		if err := CheckPodCIDR(prefix(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"10.244.1.1/24":      "has host bits; want 10.244.1.0/24",
		"0.0.0.0/0":          "whole address space",
		"::/0":               "whole address space",
		"127.0.0.0/8":        "want unicast",
		"169.254.0.0/16":     "want unicast",
		"224.0.0.0/4":        "want unicast",
		"ff00::/8":           "want unicast",
		"fe80::/10":          "want unicast",
		"0.0.0.0/8":          "want unicast",
		"::ffff:10.0.0.0/96": "want plain IPv4",
	} {
		p := prefix(bad)
		err := CheckPodCIDR(p)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), p.String()) {
			t.Errorf("%s: got %v, want an error with the value and %q", bad, err, want)
		}
	}
	if err := CheckPodCIDR(netip.Prefix{}); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("zero prefix: got %v", err)
	}
}

func TestCheckAddr(t *testing.T) {
	for _, good := range []string{"192.168.1.1", "2001:db8::1", "fd00::1"} {
		if err := CheckAddr(addr(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "fd00::1%eth0", "::ffff:1.2.3.4", "255.255.255.255"} {
		if err := CheckAddr(addr(bad)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: got %v, want an error with the value", bad, err)
		}
	}
	if err := CheckAddr(netip.Addr{}); err == nil {
		t.Error("zero address accepted")
	}
}

// TestClaims hears peers in the order of their names; each may only claim what nobody has.
func TestClaims(t *testing.T) {
	c := NewClaims(12, []netip.Prefix{prefix("10.244.0.0/16"), prefix("192.168.0.0/16"), prefix("fd00::/8")})
	c.Own(addr("192.168.1.1"), prefix("10.244.0.0/24"))
	for _, step := range []struct{ name, cidr, addr, want string }{
		{"a", "10.244.1.0/24", "192.168.1.2", ""},
		{"b", "10.244.1.0/24", "192.168.1.3", `PodCIDR 10.244.1.0/24: overlaps 10.244.1.0/24 of peer "a"`},
		{"c", "10.244.1.128/25", "192.168.1.3", `PodCIDR 10.244.1.128/25: overlaps 10.244.1.0/24 of peer "a"`},
		{"d", "10.244.0.0/16", "192.168.1.3", `PodCIDR 10.244.0.0/16: overlaps 10.244.0.0/24 of this node`},
		{"e", "10.244.2.0/24", "192.168.1.2", `Addr 192.168.1.2: is that of peer "a"`},
		{"f", "10.244.2.0/24", "192.168.1.1", `Addr 192.168.1.1: is that of this node`},
		{"g", "192.168.0.0/16", "172.16.0.1", `PodCIDR 192.168.0.0/16: holds the address 192.168.1.1 of this node`},
		{"h", "10.244.3.0/24", "10.244.3.9", `PodCIDR 10.244.3.0/24: holds Addr 10.244.3.9 of the same peer`},
		{"i", "10.244.3.0/24", "10.244.1.9", `Addr 10.244.1.9: is inside PodCIDR 10.244.1.0/24 of peer "a"`},
		{"j", "10.244.3.0/24", "fd00::1", `PodCIDR 10.244.3.0/24: want the address family of Addr fd00::1`},
		{"k", "fd00:1::/64", "fd00::1", `Addr fd00::1: this node has no endpoint of that address family`},
		{"l", "10.245.3.0/24", "192.168.1.3", `PodCIDR 10.245.3.0/24: want a part of the cluster's pod ranges [10.244.0.0/16 192.168.0.0/16 fd00::/8]`},
		{"m", "10.244.0.0/15", "192.168.1.3", `PodCIDR 10.244.0.0/15: want a part of the cluster's pod ranges [10.244.0.0/16 192.168.0.0/16 fd00::/8]`},
		{"z", "10.244.3.0/24", "192.168.1.3", ""},
	} {
		err := c.Accept(step.name, prefix(step.cidr), addr(step.addr))
		if got := fmt.Sprint(err); err == nil && step.want != "" || err != nil && got != step.want {
			t.Errorf("%s: got %v, want %q", step.name, err, step.want)
		}
	}
}

// TestPrefixSetAgainstOracle compares with looking at every pair.
func TestPrefixSetAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var set prefixSet
		var members []netip.Prefix
		for range 120 {
			a := netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(256)), byte(r.IntN(256))})
			p := netip.PrefixFrom(a, 8+r.IntN(25)).Masked()
			_, owner, got := set.overlap(p)
			want := false
			for _, m := range members {
				want = want || m.Overlaps(p)
			}
			if got != want {
				t.Fatalf("overlap(%s) = %v (%s), want %v; members %v", p, got, owner, want, members)
			}
			if !got {
				set.insert(p, p.String())
				members = append(members, p)
			}
		}
	}
}

func TestReach(t *testing.T) {
	routes := []rtnl.Route{
		{Dst: prefix("0.0.0.0/0"), Gateway: addr("192.168.1.254"), Link: "eth0"},
		{Dst: prefix("192.168.1.0/24"), Link: "eth0", Protocol: rtnl.ProtocolKernel},
		{Dst: prefix("192.168.1.128/25"), Gateway: addr("192.168.1.253"), Link: "eth0"},
		{Dst: prefix("192.168.2.0/24"), Link: "eth1", Protocol: rtnl.ProtocolKernel},
		{Dst: prefix("192.168.1.66/32"), Type: rtnl.Blackhole},
		{Dst: prefix("192.168.1.7/32"), Gateway: addr("192.168.1.9"), Link: "eth0", Protocol: rtnl.ProtocolVXLAN},
		{Dst: prefix("172.16.0.0/16"), Link: "eth1", Priority: 100},
		{Dst: prefix("172.16.0.0/16"), Link: "eth0", Priority: 50},
		{Dst: prefix("2001:db8::/64"), Link: "eth0", Priority: 256},
	}
	reach := NewReach(routes, rtnl.ProtocolVXLAN)
	for a, want := range map[string]string{
		"192.168.1.7":     "",
		"172.16.3.3":      "",
		"2001:db8::7":     "",
		"192.168.1.200":   "is behind the gateway 192.168.1.253",
		"8.8.8.8":         "is behind the gateway 192.168.1.254",
		"192.168.2.9":     "is not on the segment of eth0",
		"192.168.1.66":    "blocked by",
		"2001:db8:0:1::7": "no route to it",
	} {
		err := reach.OnLink(addr(a), "eth0")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), a)) {
			t.Errorf("OnLink(%s) = %v, want %q", a, err, want)
		}
	}
}

func TestDiffRoutes(t *testing.T) {
	const own = rtnl.ProtocolHostGW
	route := func(dst, via string, p rtnl.Protocol) rtnl.Route {
		return rtnl.Route{Dst: prefix(dst), Gateway: addr(via), Link: "eth0", Protocol: p}.Canonical()
	}
	metric := func(r rtnl.Route, m uint32) rtnl.Route { r.Priority = m; return r }
	want := []rtnl.Route{route("10.1.0.0/24", "192.168.0.1", own), route("10.2.0.0/24", "192.168.0.2", own)}
	for _, c := range []struct {
		name          string
		have          []rtnl.Route
		write, delete string
		taken         string
	}{
		{"nothing there", nil, "route add 10.1.0.0/24 via 192.168.0.1 dev eth0 proto 113\nroute add 10.2.0.0/24 via 192.168.0.2 dev eth0 proto 113\n", "", ""},
		{"all there", want, "", "", ""},
		{
			"another gateway: in place",
			[]rtnl.Route{route("10.1.0.0/24", "192.168.0.9", own), want[1]},
			"route replace 10.1.0.0/24 via 192.168.0.1 dev eth0 proto 113\n", "", "",
		},
		{
			"a stale one",
			append([]rtnl.Route{route("10.3.0.0/24", "192.168.0.3", own)}, want...),
			"", "route del 10.3.0.0/24 via 192.168.0.3 dev eth0 proto 113\n", "",
		},
		{
			"ours with another metric",
			append([]rtnl.Route{metric(want[0], 7)}, want...),
			"", "route del 10.1.0.0/24 via 192.168.0.1 dev eth0 proto 113 metric 7\n", "",
		},
		{
			"two copies, one as wanted",
			append([]rtnl.Route{route("10.1.0.0/24", "192.168.0.9", own)}, want...),
			"", "route del 10.1.0.0/24 via 192.168.0.9 dev eth0 proto 113\n", "",
		},
		{
			"two copies, none as wanted",
			[]rtnl.Route{route("10.1.0.0/24", "192.168.0.8", own), route("10.1.0.0/24", "192.168.0.9", own), want[1]},
			"route replace 10.1.0.0/24 via 192.168.0.1 dev eth0 proto 113\n",
			"route del 10.1.0.0/24 via 192.168.0.8 dev eth0 proto 113\nroute del 10.1.0.0/24 via 192.168.0.9 dev eth0 proto 113\n", "",
		},
		{
			"someone else's in the way",
			[]rtnl.Route{route("10.1.0.0/24", "192.168.0.9", rtnl.ProtocolStatic), want[1]},
			"", "", `PodCIDR 10.1.0.0/24: has a route of another owner already: "route 10.1.0.0/24 via 192.168.0.9 dev eth0 proto static"; it is kept, remove it to let pods through`,
		},
		{
			"the other backend's: taken over in place",
			[]rtnl.Route{route("10.1.0.0/24", "10.1.0.0", rtnl.ProtocolVXLAN), want[1], route("10.3.0.0/24", "10.3.0.0", rtnl.ProtocolVXLAN)},
			"route replace 10.1.0.0/24 via 192.168.0.1 dev eth0 proto 113\n", "", "",
		},
		{
			"someone else's behind ours",
			[]rtnl.Route{metric(route("10.1.0.0/24", "192.168.0.9", rtnl.ProtocolStatic), 100), want[1]},
			"route add 10.1.0.0/24 via 192.168.0.1 dev eth0 proto 113\n", "", "",
		},
		{"someone else's elsewhere", append([]rtnl.Route{route("10.9.0.0/24", "192.168.0.9", rtnl.ProtocolStatic)}, want...), "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := DiffRoutes(want, c.have, own)
			taken := ""
			if d.Taken[0] != nil {
				taken = d.Taken[0].Error()
			}
			got := []string{d.Write.String(), d.Delete.String(), taken}
			if diff := cmp.Diff([]string{c.write, c.delete, c.taken}, got); diff != "" {
				t.Errorf("write, delete, taken (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUplink(t *testing.T) {
	links := []rtnl.Link{{Name: "eth0", Up: rtnl.On}, {Name: "eth1", Up: rtnl.Off}}
	for link, want := range map[string]string{"eth0": "<nil>", "eth1": "underlay eth1: is down; what is there is kept until it is up", "eth2": "underlay eth2: no such device; what is there is kept until it appears"} {
		if _, err := Uplink(links, link); fmt.Sprint(err) != want {
			t.Errorf("%s: got %v, want %s", link, err, want)
		}
	}
}
