package rtnltest

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

// route is a route in the table: canonical, its devices resolved.
type route struct {
	rtnl.Route
	dev       *device  // nil: blackhole, unreachable, or by a nexthop object
	nh        *nexthop // nil: none
	own       bool     // IPv4: the gateway is an address of ours
	connected bool     // made by the kernel for an address
}

// out returns the device that the route leads to; nil if none.
func (r *route) out() *device {
	if r.nh != nil {
		return r.nh.dev
	}
	return r.dev
}

// via returns the gateway; invalid if the destination is on the link. A gateway that was an address of ours when the route was made means
// the same (6.18).
func (r *route) via() netip.Addr {
	switch {
	case r.nh != nil && r.nh.own, r.own:
		return netip.Addr{}
	case r.nh != nil:
		return r.nh.Gateway
	}
	return r.Gateway
}

// leadsTo reports whether the kernel has the route on that device: IPv6 routes that discard are on lo.
func (r *route) leadsTo(d *device) bool {
	return r.out() == d || d.Name == "lo" && r.Type != rtnl.Unicast && r.Dst.Addr().Is6()
}

type fibKey struct {
	table uint32
	dst   netip.Prefix
}

type fibTable struct {
	table uint32
	v6    bool
}

// fib holds the routes of a namespace by table and destination, and by which lengths of prefix occur, for the longest match.
type fib struct {
	routes  map[fibKey][]*route // by metric
	lengths map[fibTable]*[129]int32
	sources map[netip.Addr]int // routes with that preferred source
}

func newFIB() fib {
	return fib{routes: make(map[fibKey][]*route), lengths: make(map[fibTable]*[129]int32), sources: make(map[netip.Addr]int)}
}

// at returns the routes to one destination, by metric.
func (f *fib) at(table uint32, dst netip.Prefix) []*route { return f.routes[fibKey{table, dst}] }

// insertRoute puts a route behind those with the same or a lower metric.
func (n *FakeNetns) insertRoute(r *route) {
	f := &n.fib
	key := fibKey{r.Table, r.Dst}
	list := f.routes[key]
	i, _ := slices.BinarySearchFunc(list, r.Priority, func(have *route, p uint32) int {
		if have.Priority <= p {
			return -1
		}
		return 1
	})
	f.routes[key] = slices.Insert(list, i, r)
	t := fibTable{r.Table, r.Dst.Addr().Is6()}
	if f.lengths[t] == nil {
		f.lengths[t] = new([129]int32)
	}
	f.lengths[t][r.Dst.Bits()]++
	n.countRoute(r, 1)
	n.emitRoute(r, false)
}

// removeRoute takes a route out of the table; the kernel does not tell about all of them.
func (n *FakeNetns) removeRoute(r *route, tell bool) {
	f := &n.fib
	key := fibKey{r.Table, r.Dst}
	list := f.routes[key]
	if i := slices.Index(list, r); len(list) > 1 {
		f.routes[key] = slices.Delete(list, i, i+1)
	} else {
		delete(f.routes, key)
	}
	f.lengths[fibTable{r.Table, r.Dst.Addr().Is6()}][r.Dst.Bits()]--
	n.countRoute(r, -1)
	if tell {
		n.emitRoute(r, true)
	}
}

// countRoute keeps the indexes by device, nexthop object and source.
func (n *FakeNetns) countRoute(r *route, by int) {
	if r.dev != nil {
		r.dev.routes += by
	}
	if r.nh != nil {
		if by > 0 {
			r.nh.users[r] = struct{}{}
		} else {
			delete(r.nh.users, r)
		}
	}
	if r.Src.IsValid() {
		n.fib.sources[r.Src] += by
		if n.fib.sources[r.Src] == 0 {
			delete(n.fib.sources, r.Src)
		}
	}
}

func (n *FakeNetns) emitRoute(r *route, deleted bool) {
	if len(n.watchers) == 0 {
		return
	}
	e := rtnl.Event{Object: "route", Deleted: deleted, Protocol: r.Protocol}
	if d := r.out(); d != nil {
		e.Link = d.Name
	}
	n.emit(e)
}

// removeRoutes removes every route that matches, in the order of the table.
func (n *FakeNetns) removeRoutes(tell bool, matches func(*route) bool) {
	var doomed []*route
	for _, list := range n.fib.routes {
		for _, r := range list {
			if matches(r) {
				doomed = append(doomed, r)
			}
		}
	}
	slices.SortFunc(doomed, compareRoutes)
	for _, r := range doomed {
		n.removeRoute(r, tell)
	}
}

// flushIPv4Routes removes the IPv4 routes out of a device. Routes of scope host stay unless all go.
func (d *device) flushIPv4Routes(all bool) {
	if d.routes == 0 {
		return
	}
	d.ns.removeRoutes(false, func(r *route) bool {
		return r.dev == d && r.Dst.Addr().Is4() && (all || r.Scope != rtnl.ScopeHost)
	})
}

func (d *device) flushIPv6Routes() {
	if d.routes == 0 && d.Name != "lo" {
		return
	}
	d.ns.removeRoutes(true, func(r *route) bool { return r.nh == nil && r.Dst.Addr().Is6() && r.leadsTo(d) })
}

// dropSource removes the IPv4 routes whose preferred source is no longer ours.
func (n *FakeNetns) dropSource(ip netip.Addr) {
	if n.fib.sources[ip] > 0 {
		n.removeRoutes(false, func(r *route) bool { return r.Src == ip && r.Type != rtnl.Local })
	}
}

// forgetSource clears the preferred source of IPv6 routes that is no longer ours; the routes stay. Not so if they use a nexthop object, or
// if the address went with its device (6.18).
func (n *FakeNetns) forgetSource(ip netip.Addr) {
	if n.fib.sources[ip] == 0 {
		return
	}
	for _, list := range n.fib.routes {
		for _, r := range list {
			if r.Src == ip && r.nh == nil {
				n.countRoute(r, -1)
				r.Src = netip.Addr{}
				n.countRoute(r, 1)
			}
		}
	}
}

func compareRoutes(a, b *route) int {
	return cmp.Or(
		cmp.Compare(a.Table, b.Table),
		cmp.Compare(a.Dst.Addr().BitLen(), b.Dst.Addr().BitLen()),
		a.Dst.Addr().Compare(b.Dst.Addr()),
		cmp.Compare(a.Dst.Bits(), b.Dst.Bits()),
		cmp.Compare(a.Priority, b.Priority),
		cmp.Compare(a.Link, b.Link),
	)
}

// selectRoutes answers a dump.
func (n *FakeNetns) selectRoutes(f rtnl.RouteFilter) ([]rtnl.Route, *refusal) {
	if f.Table == 0 {
		f.Table = rtnl.TableMain
	}
	var link *device
	if f.Link != "" {
		var r *refusal
		if link, r = n.device(f.Link); r != nil {
			return nil, r
		}
	}
	var found []*route
	for key, list := range n.fib.routes {
		if key.table != f.Table || f.Family != rtnl.AnyFamily && f.Family != rtnl.FamilyOf(key.dst.Addr()) {
			continue
		}
		for _, r := range list {
			if (f.Protocol == 0 || f.Protocol == r.Protocol) && (link == nil || r.leadsTo(link)) {
				found = append(found, r)
			}
		}
	}
	slices.SortFunc(found, compareRoutes)
	out := make([]rtnl.Route, len(found))
	for i, r := range found {
		out[i] = r.Route
	}
	return out, nil
}
