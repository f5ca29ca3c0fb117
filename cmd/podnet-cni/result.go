package main

import (
	"net/netip"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/rtnl"
)

// podInterface is where the pod's interface stands in a result.
const podInterface = 2

// attachment is what ADD made.
type attachment struct {
	bridge, host, pod rtnl.Link
	netns             string
	addrs             []ipam.Address
}

// result returns what ADD says: the bridge, the link's two ends, the addresses and the routes, in the order of the bridge plugin.
func (c config) result(a attachment) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion, DNS: c.dns}
	for _, l := range []rtnl.Link{a.bridge, a.host, a.pod} {
		r.Interfaces = append(r.Interfaces, &current.Interface{Name: l.Name, Mac: l.MAC.String(), Mtu: l.MTU})
	}
	r.Interfaces[podInterface].Sandbox = a.netns
	for _, addr := range a.addrs {
		ip := &current.IPConfig{Interface: current.Int(podInterface), Address: ipNet(addr.Prefix)}
		if addr.Gateway.IsValid() {
			ip.Gateway = addr.Gateway.AsSlice()
		}
		r.IPs = append(r.IPs, ip)
	}
	for _, route := range c.podRoutes(a.addrs) {
		r.Routes = append(r.Routes, route.result())
	}
	return r
}

// resultAddrs returns the addresses that a result gives to an interface of the sandbox. Those of other interfaces were added by chained plugins.
func resultAddrs(r *current.Result, ifname, netns string) []netip.Prefix {
	var out []netip.Prefix
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) {
			if of := r.Interfaces[*i]; of.Name != ifname || of.Sandbox != netns {
				continue
			}
		}
		if p, ok := prefixOf(ip.Address.IP, ip.Address.Mask); ok {
			out = append(out, p)
		}
	}
	return out
}

// hasRoute reports whether a result holds a route to dst.
func hasRoute(r *current.Result, dst netip.Prefix) bool {
	for _, route := range r.Routes {
		if p, ok := prefixOf(route.Dst.IP, route.Dst.Mask); ok && p == dst {
			return true
		}
	}
	return false
}

// prefixOf converts from the types of the CNI library.
func prefixOf(ip, mask []byte) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	bits := 0
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, bits), ok && bits <= a.BitLen()
}
