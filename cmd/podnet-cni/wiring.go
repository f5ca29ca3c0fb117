package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

// anySubnet is documentation space (RFC 5737).
var anySubnet = netip.MustParsePrefix("192.0.2.0/24")

// podConfig says what addresses are handed out.
func (c config) podConfig() ipam.PodConfig {
	var out ipam.PodConfig
	for _, s := range c.rangeSets {
		var set []ipam.Range
		for _, r := range s.ranges {
			ir := ipam.Range{Subnet: r.subnet, Gateway: r.gateway}
			if r.startSet {
				ir.Start = r.start
			}
			if r.endSet {
				ir.End = r.end
			}
			set = append(set, ir)
		}
		out.RangeSets = append(out.RangeSets, set)
	}
	return out
}

// request returns the addresses that this call asks for.
func (c config) request() ipam.Request {
	var r ipam.Request
	for _, s := range c.rangeSets {
		if s.request.IsValid() {
			r.Addrs = append(r.Addrs, s.request)
		}
	}
	return r
}

// bridgeConfig returns the pod bridge, with the gateways of all ranges: which of them the first pod needs is chance.
func (c config) bridgeConfig() bridge.Config {
	b := bridge.Config{Name: c.bridge, MTU: c.mtu, ForceAddress: c.forceAddress}
	if !c.gateway {
		return b
	}
	for _, s := range c.rangeSets {
		for _, r := range s.ranges {
			if gw := netip.PrefixFrom(r.gateway, r.subnet.Bits()); !slices.Contains(b.Gateways, gw) {
				b.Gateways = append(b.Gateways, gw)
			}
		}
	}
	return b
}

// masqConfig returns the rules for all pods of the network on this node. They do not change from pod to pod, so only the first ADD writes any.
func (c config) masqConfig() masq.Config {
	m := masq.Config{ClusterCIDRs: c.networks, NonMasquerade: c.nonMasquerade}
	for _, s := range c.rangeSets {
		for _, r := range s.ranges {
			if !slices.Contains(m.PodCIDRs, r.subnet) {
				m.PodCIDRs = append(m.PodCIDRs, r.subnet)
			}
		}
	}
	return m
}

func (c config) masqOptions() masq.Options {
	o := masq.Options{Name: masqName(c.name)}
	switch c.masqBackend {
	case "nftables":
		o.Backend = masq.NFTables
	case "iptables":
		o.Backend = masq.IPTables
	}
	return o
}

// masqName keeps the networks' rules apart, and apart from those of the agent.
func masqName(network string) string { return "cni " + network }

// vethConfig returns the link of a pod that has these addresses.
func (c config) vethConfig(addrs []ipam.Address) veth.Config {
	v := veth.Config{Bridge: c.bridge, MTU: c.mtu, MAC: c.mac, Hairpin: c.hairpin}
	for _, a := range addrs {
		v.Addrs = append(v.Addrs, a.Prefix)
	}
	if v.MAC.IsZero() {
		v.MAC, v.Quiet = c.derivedMAC(addrs)
	}
	for _, r := range c.podRoutes(addrs) {
		v.Routes = append(v.Routes, r.kernel(gatewayOf(addrs)))
	}
	return v
}

// derivedMAC returns a MAC that is a function of one of the pod's addresses, IPv4 first, and whether no neighbour can know another of its addresses under
// another MAC: those come from ranges so large that round robin does not get to the same address twice.
func (c config) derivedMAC(addrs []ipam.Address) (mac rtnl.MAC, known bool) {
	from := max(0, slices.IndexFunc(addrs, func(a ipam.Address) bool { return a.Prefix.Addr().Is4() }))
	known = true
	for i, s := range c.rangeSets {
		if i != from {
			known = known && !s.request.IsValid() && !slices.ContainsFunc(s.ranges, reuses)
		}
	}
	return veth.MACFor(addrs[from].Prefix.Addr()), known
}

// reuses reports whether an address of the range may be handed out a second time while somebody remembers the first.
func reuses(r addrRange) bool {
	return r.subnet.Addr().BitLen()-r.subnet.Bits() < 32 || r.startSet || r.endSet
}

// gatewayOf returns the function that finds the gateway of a family: that of the first address.
func gatewayOf(addrs []ipam.Address) func(netip.Addr) netip.Addr {
	return func(family netip.Addr) netip.Addr {
		for _, a := range addrs {
			if a.Prefix.Addr().Is4() == family.Is4() {
				return a.Gateway
			}
		}
		return netip.Addr{}
	}
}

// podRoutes returns the configured routes, and the default routes if the bridge is to be the default gateway.
func (c config) podRoutes(addrs []ipam.Address) []route {
	routes := slices.Clone(c.routes)
	if !c.defaultGateway {
		return routes
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(routes, func(r route) bool { return r.isDefault(a.Prefix.Addr()) }) {
			routes = append(routes, route{dst: defaultRoute(a.Prefix.Addr()), gw: a.Gateway})
		}
	}
	return routes
}

func defaultRoute(family netip.Addr) netip.Prefix {
	if family.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// rehearse validates what the concerns will be asked to do, with addresses such as the pod may get, so that every fault
// is known before the first write.
func (c config) rehearse() error {
	var addrs []ipam.Address
	for _, s := range c.rangeSets {
		r := s.ranges[0]
		ip := r.start
		for ip == r.gateway || slices.ContainsFunc(c.routes, func(rt route) bool { return rt.gw == ip }) {
			ip = ip.Next()
		}
		addrs = append(addrs, ipam.Address{Prefix: netip.PrefixFrom(ip, r.subnet.Bits()), Gateway: r.gateway})
	}
	if _, err := ipam.NewPodAllocator(ipam.NewMemoryStore(), c.podConfig()); err != nil {
		return fmt.Errorf("ipam: %w", err)
	}
	if err := c.bridgeConfig().Validate(); err != nil {
		return err
	}
	if c.masq {
		if err := c.masqConfig().Validate(); err != nil {
			return fmt.Errorf("ipMasq: %w", err)
		}
	}
	return c.vethConfig(addrs).Validate()
}

// ownerOf names the holder of a lease and a link.
func ownerOf(containerID, ifname string) ipam.Owner {
	return ipam.Owner{ContainerID: containerID, Ifname: ifname}
}

// vethOptions names the same to package veth. Without netns the link can only be removed.
func vethOptions(o ipam.Owner, netns string) veth.Options {
	if netns != "" {
		netns = filepath.Clean(netns)
	}
	return veth.Options{ContainerID: o.ContainerID, Ifname: o.Ifname, Netns: netns}
}

var _ kernel = (*rtnl.Conn)(nil)
