package vxlan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

const (
	// nexthopsAbove is where nexthop objects have begun to win clearly. On Linux 6.18 an IPv4 route to a gateway of its own on one device
	// takes 18 us among 500, 22 among 1,000, 33 among 2,000, 68 among 5,000 and 243 among 20,000, for the kernel finds the gateways by a
	// hash that leaves the gateway out; a nexthop and a route through it take 19 us together, at any number.
	nexthopsAbove = 2000

	// nexthopBase is where our IDs begin: the protocol number in the upper byte, far from the kernel's own, which count from 1, and from
	// those of routing daemons.
	nexthopBase = uint32(rtnl.ProtocolVXLAN) << 24
)

// nexthopPool hands out IDs that nobody uses, whoever made the others.
type nexthopPool struct {
	unsupported bool
	have        []rtnl.Nexthop
	used        map[uint32]bool // made when the first ID is needed: in the steady state none is
	next        uint32
}

func newNexthopPool(have snapshot) *nexthopPool {
	return &nexthopPool{unsupported: have.noNexthops, have: have.nexthops, next: nexthopBase}
}

func (p *nexthopPool) take() uint32 {
	if p.used == nil {
		p.used = make(map[uint32]bool, len(p.have))
		for _, n := range p.have {
			p.used[n.ID] = true
		}
	}
	for p.used[p.next] {
		p.next++
	}
	p.used[p.next] = true
	return p.next
}

// nexthopDiff is a tableDiff, and the ID for each gateway; none if routes are to name their gateways themselves.
type nexthopDiff struct {
	tableDiff
	ids map[netip.Addr]uint32
}

// plan decides whether the peers' routes go through nexthop objects, and plans those. Having begun with them it stays with them down to half
// the threshold, so that a cluster of just that size does not change all its routes with every node that comes and goes. An
// object that is there is used whatever its ID; it is never changed, only added and deleted.
func (p *nexthopPool) plan(device string, want []Peer, have []rtnl.Nexthop, above int) nexthopDiff {
	d := nexthopDiff{ids: map[netip.Addr]uint32{}}
	if above >= 0 && !p.unsupported && (len(want) > above || len(have) > 0 && len(want) > above/2) {
		there := make(map[netip.Addr]uint32, len(have))
		for _, h := range have {
			if h != nexthopTo(h.Gateway, device, h.ID) {
				continue
			}
			if known, ok := there[h.Gateway]; !ok || h.ID < known {
				there[h.Gateway] = h.ID
			}
		}
		for _, peer := range want {
			gateway := peer.PodCIDR.Addr()
			id, ok := there[gateway]
			if !ok {
				id = p.take()
				d.write = append(d.write, rtnl.Change{Verb: rtnl.Add, Object: nexthopTo(gateway, device, id)})
			}
			d.ids[gateway] = id
		}
	}
	var stale []rtnl.Nexthop
	for _, h := range have {
		if d.ids[h.Gateway] != h.ID {
			stale = append(stale, h)
		}
	}
	slices.SortFunc(stale, func(a, b rtnl.Nexthop) int { return cmp.Compare(a.ID, b.ID) })
	d.del = deletions(stale)
	return d
}

func nexthopTo(gateway netip.Addr, device string, id uint32) rtnl.Nexthop {
	return rtnl.Nexthop{ID: id, Gateway: gateway, Link: device, Onlink: true, Protocol: rtnl.ProtocolVXLAN}
}
