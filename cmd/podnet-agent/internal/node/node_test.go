package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestValidate(t *testing.T) {
	good := Node{Name: "node-a", PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:0:1::/64"), Addresses: addrs("192.168.1.11", "fd00:192::11")}
	for _, tt := range []struct {
		name   string
		change func(*Node)
		want   string
	}{
		{"good", func(*Node) {}, ""},
		{"one family", func(n *Node) { n.PodCIDRs, n.Addresses = n.PodCIDRs[:1], n.Addresses[:1] }, ""},
		{"no name", func(n *Node) { n.Name = "" }, `name "": want 1 to 253 lower case letters, digits, '-' and '.', with a letter or digit at both ends`},
		{"path in name", func(n *Node) { n.Name = "../x" }, `name "../x": want 1 to 253 lower case letters, digits, '-' and '.', with a letter or digit at both ends`},
		{"long name", func(n *Node) { n.Name = strings.Repeat("a", 254) }, `name "` + strings.Repeat("a", 32) + `...": want 1 to 253 lower case letters, digits, '-' and '.', with a letter or digit at both ends`},
		{"no podCIDR", func(n *Node) { n.PodCIDRs = nil }, "podCIDRs: none: want one CIDR per family, such as 10.244.1.0/24"},
		{"no address", func(n *Node) { n.Addresses = nil }, "addresses: none: want one address per family, such as 192.168.1.11"},
		{"host bits", func(n *Node) { n.PodCIDRs = prefixes("10.244.1.1/24") }, `podCIDRs[0] "10.244.1.1/24": has host bits: want 10.244.1.0/24`},
		{"everything", func(n *Node) { n.PodCIDRs = prefixes("0.0.0.0/0") }, `podCIDRs[0] "0.0.0.0/0": unspecified: want unicast addresses of a network`},
		{"too large", func(n *Node) { n.PodCIDRs = prefixes("10.0.0.0/7") }, `podCIDRs[0] "10.0.0.0/7": want a prefix length of 8 to 30`},
		{"too small", func(n *Node) { n.PodCIDRs = prefixes("10.0.0.0/31") }, `podCIDRs[0] "10.0.0.0/31": want a prefix length of 8 to 30`},
		{"v6 too small", func(n *Node) { n.PodCIDRs = prefixes("fd00::/127") }, `podCIDRs[0] "fd00::/127": want a prefix length of 16 to 126`},
		{"multicast", func(n *Node) { n.PodCIDRs = prefixes("239.0.0.0/24") }, `podCIDRs[0] "239.0.0.0/24": multicast: want unicast addresses of a network`},
		{"link-local", func(n *Node) { n.PodCIDRs = prefixes("fe80::/64") }, `podCIDRs[0] "fe80::/64": link-local: want unicast addresses of a network`},
		{"loopback", func(n *Node) { n.PodCIDRs = prefixes("127.1.0.0/24") }, `podCIDRs[0] "127.1.0.0/24": loopback: want unicast addresses of a network`},
		{"mapped", func(n *Node) { n.PodCIDRs = prefixes("::ffff:10.0.0.0/120") }, `podCIDRs[0] "::ffff:10.0.0.0/120": IPv4-mapped IPv6: want unicast addresses of a network`},
		{"two of a family", func(n *Node) { n.PodCIDRs = prefixes("10.1.0.0/24", "10.2.0.0/24") }, `podCIDRs[1] "10.2.0.0/24": the second of IPv4: want at most one per family`},
		{"two addresses", func(n *Node) { n.Addresses = addrs("192.0.2.1", "192.0.2.2") }, `addresses[1] "192.0.2.2": the second of IPv4: want at most one per family`},
		{"address 0.0.0.0", func(n *Node) { n.Addresses = addrs("0.0.0.0") }, `addresses[0] "0.0.0.0": unspecified: want unicast addresses of a network`},
		{"broadcast", func(n *Node) { n.Addresses = addrs("255.255.255.255") }, `addresses[0] "255.255.255.255": of the reserved network 240.0.0.0/4: want unicast addresses of a network`},
		{"zone", func(n *Node) { n.Addresses = addrs("fe80::1%eth0") }, `addresses[0] "fe80::1%eth0": not an address: want one such as 192.168.1.11 or fd00:192::11`},
		{"address in podCIDR", func(n *Node) { n.Addresses = addrs("10.244.1.7") }, `addresses[0] "10.244.1.7": lies in the node's own podCIDR 10.244.1.0/24: want an address of the underlay`},
		{"multicast MAC", func(n *Node) { n.VTEPMAC = rtnl.MAC{1} }, `vtepMAC "01:00:00:00:00:00": a multicast address: want a unicast one, such as 02:00:0a:f4:01:00`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := good
			tt.change(&n)
			got := ""
			if err := n.Validate(); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}
