package hostgw

import (
	"context"
	"errors"
	"fmt"

	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/rtnl"
)

// snapshot is what the kernel has, of what matters to a Config.
type snapshot struct {
	links  []rtnl.Link
	routes []rtnl.Route // the whole main table: others' routes decide what is on-link, and may be in the way; if nothing is wanted, our own
}

func (r *Reconciler) read(ctx context.Context, want Config) (s snapshot, err error) {
	if !want.isZero() {
		if s.links, err = r.kernel.Links(ctx); err != nil {
			return s, fmt.Errorf("hostgw: read links: %w", err)
		}
	}
	var only rtnl.RouteFilter
	if want.isZero() { // a backend that is not in use would read 10,000 routes of the other one at every look, a quarter of the CPU time of a pass
		only.Protocol = rtnl.ProtocolHostGW
	}
	if s.routes, err = r.kernel.Routes(ctx, only); err != nil {
		return s, fmt.Errorf("hostgw: read routes: %w", err)
	}
	return s, nil
}

// plan is where the thinking is; it is pure.
func plan(want Config, have snapshot) (rtnl.Plan, error) {
	if !want.isZero() {
		if _, err := peers.Uplink(have.links, want.Underlay); err != nil {
			return nil, fmt.Errorf("hostgw: %w", err)
		}
	}
	accepted, faults := want.acceptPeers()
	var reach *peers.Reach
	if len(want.Peers) > 0 {
		reach = peers.NewReach(have.routes, rtnl.ProtocolHostGW)
	}
	var p rtnl.Plan
	for _, family := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		var routes []rtnl.Route
		var names []string
		for _, peer := range accepted[family] {
			if err := reach.OnLink(peer.Addr, want.Underlay); err != nil {
				faults = append(faults, &PeerError{Peer: peer.Name, Err: err})
				continue
			}
			routes = append(routes, rtnl.Route{Dst: peer.PodCIDR, Gateway: peer.Addr, Link: want.Underlay, Protocol: rtnl.ProtocolHostGW}.Canonical())
			names = append(names, peer.Name)
		}
		d := peers.DiffRoutes(routes, peers.OfFamily(have.routes, family), rtnl.ProtocolHostGW)
		p = append(append(p, d.Write...), d.Delete...)
		for i, name := range names {
			if taken := d.Taken[i]; taken != nil {
				faults = append(faults, &PeerError{Peer: name, Err: taken})
			}
		}
	}
	return p, errors.Join(faults...)
}

// Interested reports whether e may concern c, so that a loop need not look again at each pod's veth. What it misses (someone else's route
// to a pod range) the loop's next look finds. Our own writes are events as well: the look they cause finds nothing to do.
func (c Config) Interested(e rtnl.Event) bool {
	onUnderlay := e.Link != "" && e.Link == c.Underlay
	switch e.Object {
	case "link", "addr":
		// A deleted device may have no name any more.
		return e.Overflow || onUnderlay || e.Link == "" && e.Deleted
	case "route":
		return e.Overflow || onUnderlay || e.Protocol == rtnl.ProtocolHostGW
	}
	return e.Overflow
}
