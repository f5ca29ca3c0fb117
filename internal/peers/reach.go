package peers

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

// Reach tells how the main routing table gets to an address: the longest prefix, and of those the lowest metric. One dump answers for every
// peer, where asking the kernel (ip route get) would take a system call each.
type Reach struct {
	routes  map[netip.Prefix]rtnl.Route
	lengths [2][]int // descending
}

// NewReach reads routes, without those of protocol own.
func NewReach(routes []rtnl.Route, own rtnl.Protocol) *Reach {
	r := &Reach{routes: map[netip.Prefix]rtnl.Route{}}
	for _, route := range routes {
		if route.Protocol == own {
			continue
		}
		known, ok := r.routes[route.Dst]
		if ok && known.Priority <= route.Priority {
			continue
		}
		r.routes[route.Dst] = route
		lengths := &r.lengths[familyIndex(route.Dst.Addr())]
		if bits := route.Dst.Bits(); !slices.Contains(*lengths, bits) {
			*lengths = append(*lengths, bits)
		}
	}
	for i := range r.lengths {
		slices.SortFunc(r.lengths[i], func(a, b int) int { return b - a })
	}
	return r
}

// To returns the route to addr.
func (r *Reach) To(addr netip.Addr) (rtnl.Route, bool) {
	for _, bits := range r.lengths[familyIndex(addr)] {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if route, ok := r.routes[prefix]; ok {
			return route, true
		}
	}
	return rtnl.Route{}, false
}

// OnLink returns nil if addr is on link's own segment: the kernel goes there over link, without a gateway. Else it says why not.
func (r *Reach) OnLink(addr netip.Addr, link string) error {
	route, ok := r.To(addr)
	switch {
	case !ok:
		return fmt.Errorf("address %s: no route to it; want one on the segment of %s", addr, link)
	case route.Type != rtnl.Unicast:
		return fmt.Errorf("address %s: blocked by %q", addr, route)
	case route.Gateway.IsValid():
		return fmt.Errorf("address %s: is behind the gateway %s (%q); want one on the segment of %s", addr, route.Gateway, route, link)
	case route.Link != link:
		return fmt.Errorf("address %s: is not on the segment of %s (%q)", addr, link, route)
	}
	return nil
}
