package vxlan

import (
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
)

var families = []rtnl.Family{rtnl.IPv4, rtnl.IPv6}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func macOf(node int, family rtnl.Family) rtnl.MAC {
	return rtnl.MAC{0x0a, byte(family), 0, byte(node >> 16), byte(node >> 8), byte(node)}
}

// nodeOf is node n in one family: n1 has 192.168.0.1 and 10.244.1.0/24, and 2001:db8::1 and fd00:10:244:1::/64.
func nodeOf(n int, family rtnl.Family) Peer {
	p := Peer{Name: fmt.Sprintf("n%d", n), MAC: macOf(n, family)}
	if family == rtnl.IPv4 {
		p.Addr = netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)})
		p.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24)
		return p
	}
	p.Addr = addr(fmt.Sprintf("2001:db8::%x", n))
	p.PodCIDR = prefix(fmt.Sprintf("fd00:10:244:%x::/64", n))
	return p
}

// cluster returns the Config of each of size nodes n1, n2, ..., in both families.
func cluster(size int) []Config {
	configs := make([]Config, size)
	for i := range configs {
		c := Config{Underlay: "eth0"}
		for n := 1; n <= size; n++ {
			for _, family := range families {
				p := nodeOf(n, family)
				if n == i+1 {
					c.Endpoints = append(c.Endpoints, Endpoint{Local: p.Addr, PodCIDR: p.PodCIDR, MAC: p.MAC})
				} else {
					c.Peers = append(c.Peers, p)
				}
			}
		}
		configs[i] = c
	}
	return configs
}

// manyPeers is an IPv4 node with n peers.
func manyPeers(n int) Config {
	own := nodeOf(1, rtnl.IPv4)
	own.PodCIDR = prefix("10.0.0.0/24")
	c := Config{Underlay: "eth0", Endpoints: []Endpoint{{Local: own.Addr, PodCIDR: own.PodCIDR, MAC: own.MAC}}}
	for i := 1; i <= n; i++ {
		c.Peers = append(c.Peers, Peer{
			Name:    fmt.Sprintf("node-%05d", i),
			PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24),
			Addr:    netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}),
			MAC:     rtnl.MAC{0x0a, 14, 0, byte(i >> 16), byte(i >> 8), byte(i)},
		})
	}
	return c
}
