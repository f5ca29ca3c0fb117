package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/rtnl"
)

// plan is where the thinking is; it is pure. Families are planned one after the other, and what is wrong in one does not touch the other.
func plan(want Config, have snapshot, o Options) (rtnl.Plan, error) {
	var faults []error
	var underlay rtnl.Link
	if !want.isZero() {
		var err error
		if underlay, err = peers.Uplink(have.links, want.Underlay); err != nil {
			return nil, fmt.Errorf("vxlan: %w", err)
		}
		want = want.withDefaults()
	}
	accepted, refused := want.acceptPeers()
	faults = append(faults, refused...)

	var p rtnl.Plan
	gone := map[string]bool{} // devices that are deleted, and with them what hangs on them
	for _, l := range have.links {
		if l.Kind == rtnl.KindVXLAN && l.Alias == Alias && !want.hasDevice(l.Name) {
			gone[l.Name] = true
			p = append(p, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: l.Name}})
		}
	}
	pool := newNexthopPool(have)
	var reach *peers.Reach
	if want.DirectRouting {
		reach = peers.NewReach(have.routes, rtnl.ProtocolVXLAN)
	}
	for _, family := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		f := familyPlan{config: want, family: family, peers: accepted[family], reach: reach, options: o, pool: pool}
		if e := want.endpoint(family); e != nil {
			var err error
			if f.vtep, err = planDevice(want, *e, underlay, have, o.KernelRelease); err != nil {
				faults = append(faults, err)
				continue
			}
			if f.vtep.fault != nil {
				faults = append(faults, f.vtep.fault)
			}
			f.device = e.Device
			gone[e.Device] = f.vtep.emptied
		}
		changes, conflicts := f.plan(have, gone)
		p = append(p, changes...)
		faults = append(faults, conflicts...)
	}
	return p, errors.Join(faults...)
}

func (c Config) hasDevice(name string) bool {
	for _, e := range c.Endpoints {
		if e.Device == name {
			return true
		}
	}
	return false
}

// familyPlan plans one address family.
type familyPlan struct {
	config  Config
	family  rtnl.Family
	device  string // "" = no endpoint of this family: nothing is wanted
	vtep    devicePlan
	peers   []Peer
	reach   *peers.Reach // nil = no DirectRouting
	options Options
	pool    *nexthopPool
}

// plan orders the writes so that no packet finds half a peer. A route comes after the neighbour and FDB entry that it leads to, or the
// kernel would begin to ask for the peer's MAC by ARP, through a tunnel that does not carry broadcasts. Deletions come last and the other
// way round.
func (f *familyPlan) plan(have snapshot, gone map[string]bool) (rtnl.Plan, []error) {
	routesHave, nexthopsHave := f.mine(have, gone)
	on := have.devices[f.device]
	if gone[f.device] {
		on = device{}
	}
	tunnelled := f.peers
	if f.reach != nil {
		tunnelled = make([]Peer, 0, len(f.peers))
	}
	routes := make([]rtnl.Route, 0, len(f.peers))
	for _, p := range f.peers {
		if f.reach != nil && f.reach.OnLink(p.Addr, f.config.Underlay) == nil {
			routes = append(routes, rtnl.Route{Dst: p.PodCIDR, Gateway: p.Addr, Link: f.config.Underlay, Protocol: rtnl.ProtocolVXLAN}.Canonical())
			continue
		}
		routes = append(routes, rtnl.Route{Dst: p.PodCIDR, Gateway: p.PodCIDR.Addr(), Link: f.device, Onlink: true, Protocol: rtnl.ProtocolVXLAN}.Canonical())
		if f.reach != nil {
			tunnelled = append(tunnelled, p)
		}
	}
	above := f.options.NexthopsAbove
	if f.family == rtnl.IPv6 {
		above = -1 // an IPv6 route takes 10 us among 500 or 20,000 (Linux 6.18): a nexthop object would double that
	}
	nexthops := f.pool.plan(f.device, tunnelled, nexthopsHave, above)
	for i, r := range routes {
		if id := nexthops.ids[r.Gateway]; id != 0 && r.Onlink {
			routes[i] = rtnl.Route{Dst: r.Dst, Nexthop: id, Protocol: rtnl.ProtocolVXLAN}.Canonical()
		}
	}
	fdb := diffFDB(f.device, tunnelled, on.fdb)
	neighs := diffNeighs(f.device, tunnelled, on.neighs, f.vtep.unneighboured)
	routeDiff := peers.DiffRoutes(routes, routesHave, rtnl.ProtocolVXLAN)
	stones := steppingStones(routeDiff.Write, routesHave)

	var p rtnl.Plan
	for _, changes := range []rtnl.Plan{
		f.vtep.changes, fdb.write, neighs.write, nexthops.write, stones.write, routeDiff.Write,
		stones.del, routeDiff.Delete, nexthops.del, neighs.del, fdb.del, f.vtep.after,
	} {
		p = append(p, changes...)
	}
	var faults []error
	for i, peer := range f.peers {
		if taken := routeDiff.Taken[i]; taken != nil {
			faults = append(faults, &PeerError{Peer: peer.Name, Err: taken})
		}
	}
	return p, faults
}

// steppingStones lets the kernel accept onlink IPv6 routes whose gateway some other route leads to through another device: it would
// refuse them (EINVAL, "invalid gateway or device mismatch", Linux 6.18). That is so where a live route over the underlay is to be replaced by one
// through the tunnel, and where someone has a wider route. A route to the gateway alone, there for just that moment, satisfies it.
func steppingStones(writes rtnl.Plan, have []rtnl.Route) (d tableDiff) {
	var reach *peers.Reach
	for _, c := range writes {
		r, ok := c.Object.(rtnl.Route)
		if !ok || !r.Onlink || r.Gateway.Is4() {
			continue
		}
		if reach == nil {
			reach = peers.NewReach(have, rtnl.ProtocolUnspec)
		}
		found, ok := reach.To(r.Gateway)
		if !ok || found.Dst.Bits() == 0 || found.Type != rtnl.Unicast || found.Link == r.Link {
			continue
		}
		stone := rtnl.Route{Dst: netip.PrefixFrom(r.Gateway, r.Gateway.BitLen()), Link: r.Link, Protocol: rtnl.ProtocolVXLAN}.Canonical()
		d.write = append(d.write, rtnl.Change{Verb: rtnl.Replace, Object: stone})
		d.del = append(d.del, rtnl.Change{Verb: rtnl.Delete, Object: stone})
	}
	return d
}

// mine returns the routes and nexthops of this family that will be there when the devices in gone are.
func (f *familyPlan) mine(have snapshot, gone map[string]bool) ([]rtnl.Route, []rtnl.Nexthop) {
	goneIDs := map[uint32]bool{}
	nexthops := make([]rtnl.Nexthop, 0, len(have.nexthops))
	for _, n := range have.nexthops {
		switch {
		case gone[n.Link]:
			goneIDs[n.ID] = true
		case n.Protocol == rtnl.ProtocolVXLAN && (rtnl.FamilyOf(n.Gateway) == f.family || !n.Gateway.IsValid() && f.family == rtnl.IPv4):
			nexthops = append(nexthops, n)
		}
	}
	routes := peers.OfFamily(have.routes, f.family)
	goes := func(r rtnl.Route) bool { return gone[r.Link] || goneIDs[r.Nexthop] }
	if slices.ContainsFunc(routes, goes) {
		routes = slices.DeleteFunc(slices.Clone(routes), goes)
	}
	return routes, nexthops
}
