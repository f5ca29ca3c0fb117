package service

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// held is a slice as a Tracker holds it. It does not change, but for gone.
type held struct {
	Slice
	wrong []netip.Addr // addresses that may not be endpoints
	gone  bool         // replaced or deleted
}

func hold(s Slice) *held {
	h := &held{Slice: s}
	for i := range s.Endpoints {
		if a := s.Endpoints[i].Addr; unicast(a) != "" {
			h.wrong = append(h.wrong, a)
		}
	}
	return h
}

// target is an endpoint with the port of the Service's port at hand.
type target struct {
	*Endpoint
	addr  netip.AddrPort
	local bool
	from  *held
}

// endpointSlices are the slices of a Service, and what is remembered of their order.
type endpointSlices struct {
	slices []*held
	orders map[orderOf]*order // nil: nothing is
}

// targets returns the endpoints of a port in one family, sorted and each once. An address that stands in two slices is taken from the one where it does not terminate:
// an endpoint moves from slice to slice, and a new pod may get the address of one that ends. The list is not the caller's to change.
func (e endpointSlices) targets(f *faults, node Node, port Port, family Family) []target {
	of := orderOf{port.Name, port.Protocol, family}
	for _, s := range e.slices {
		for _, a := range s.wrong {
			if FamilyOf(a) == family && len(of.ports(s)) > 0 {
				f.endpoint(a)
			}
		}
	}
	o := e.orders[of]
	if o == nil {
		o = &order{}
		if e.orders != nil {
			e.orders[of] = o
		}
	}
	o.update(of, node, e.slices)
	return once(o.sorted)
}

// orderOf is what a list of targets is for.
type orderOf struct {
	port     string
	protocol Protocol
	family   Family
}

// ports returns the port numbers that a slice has for it.
func (of orderOf) ports(s *held) []uint16 {
	var found []uint16
	for _, p := range s.Ports {
		if p.Name == of.port && p.Protocol == of.protocol && p.Port != 0 {
			found = append(found, p.Port)
		}
	}
	return found
}

// order is a sorted list of the targets in some slices. An address may stand in it more than once.
type order struct {
	sorted []target
	slices map[*held]struct{}
}

// update makes it the order of these slices. Only those that are new are sorted.
func (o *order) update(of orderOf, node Node, slices []*held) {
	fresh := o.fresh(of, node, slices)
	if o.sorted == nil {
		o.sorted = fresh
		return
	}
	all := make([]target, 0, len(o.sorted)+len(fresh))
	for i := range o.sorted {
		t := &o.sorted[i]
		if t.from.gone {
			continue
		}
		for len(fresh) > 0 && fresh[0].compare(t) < 0 {
			all, fresh = append(all, fresh[0]), fresh[1:]
		}
		all = append(all, *t)
	}
	o.sorted = append(all, fresh...)
}

// fresh returns the sorted targets of the slices that are not in the order yet, and takes note of them.
func (o *order) fresh(of orderOf, node Node, slices []*held) []target {
	known := make(map[*held]struct{}, len(slices))
	var news []*held
	n := 0
	for _, s := range slices {
		known[s] = struct{}{}
		if _, ok := o.slices[s]; !ok {
			news = append(news, s)
			n += len(of.ports(s)) * len(s.Endpoints)
		}
	}
	o.slices = known
	all := make([]target, 0, n)
	for _, s := range news {
		for _, port := range of.ports(s) {
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				if FamilyOf(e.Addr) != of.family || len(s.wrong) > 0 && unicast(e.Addr) != "" {
					continue
				}
				all = append(all, target{Endpoint: e, addr: netip.AddrPortFrom(e.Addr, port), local: node.Name != "" && e.Node == node.Name, from: s})
			}
		}
	}
	return sorted(all)
}

// sorted sorts targets of one family. Numbers are sorted instead of the targets themselves: to compare and to move addresses takes most of the time that 100,000 endpoints need.
func sorted(all []target) []target {
	if slices.IsSortedFunc(all, func(a, b target) int { return a.compare(&b) }) {
		return all
	}
	type place struct {
		hi, lo uint64 // the address
		at     int    // before
	}
	places := make([]place, len(all))
	for i := range all {
		b := all[i].addr.Addr().As16()
		places[i] = place{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), i}
	}
	slices.SortFunc(places, func(a, b place) int {
		switch {
		case a.hi != b.hi:
			return cmp.Compare(a.hi, b.hi)
		case a.lo != b.lo:
			return cmp.Compare(a.lo, b.lo)
		}
		return all[a.at].compare(&all[b.at])
	})
	out := make([]target, len(all))
	for i, p := range places {
		out[i] = all[p.at]
	}
	return out
}

// compare orders targets by address and port. Among equal ones, the best comes first, whatever the order of the slices: the one that does not terminate, then the one with the better
// conditions.
func (t *target) compare(o *target) int {
	if c := t.addr.Compare(o.addr); c != 0 {
		return c
	}
	return cmp.Or(t.rank()-o.rank(), cmp.Compare(t.ForNodes, o.ForNodes), cmp.Compare(t.ForZones, o.ForZones))
}

func (t *target) rank() int {
	r := 0
	for weight, bad := range [...]bool{!t.local, t.NotServing, t.NotReady, t.Terminating} {
		if bad {
			r += 1 << weight
		}
	}
	return r
}

// once returns the first of each address and port; the list itself, if that is all.
func once(list []target) []target {
	same := func(a, b target) bool { return a.addr == b.addr }
	for i := range list {
		if i > 0 && same(list[i-1], list[i]) {
			return slices.CompactFunc(slices.Clone(list), same)
		}
	}
	return list
}
