package peers

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

// Routes is how the routes of one protocol get from what is there to what is wanted.
type Routes struct {
	Write  rtnl.Plan       // adds and replacements
	Delete rtnl.Plan       // what is no longer wanted, for after Write
	Taken  map[int]*Refuse // index in want -> someone else's route that is in its place; nothing is planned for it
}

// Refuse is an error that names a route of another owner in the place of a wanted one.
type Refuse struct {
	Wanted, Found rtnl.Route
}

func (e *Refuse) Error() string {
	return fmt.Sprintf("PodCIDR %s: has a route of another owner already: %q; it is kept, remove it to let pods through", e.Wanted.Dst, e.Found)
}

// DiffRoutes compares the wanted routes, all of them canonical, of protocol own and each to a destination of its own, with those of the same
// family in the main table. A route whose key (destination and metric) is there is replaced in place, never deleted and added again. A
// route of another protocol is never touched; where its metric is not above the wanted one's, it is in the way. Those of podnet's other
// backend are taken over in place: a node changes from one backend to the other without a moment in which it has no route.
func DiffRoutes(want, have []rtnl.Route, own rtnl.Protocol) Routes {
	d := Routes{Taken: map[int]*Refuse{}}
	index := make(map[netip.Prefix]int, len(want))
	for i, w := range want {
		index[w.Dst] = i
	}
	type found struct {
		exact bool
		mine  int // how many of ours have its key, exact or not
	}
	there := make([]found, len(want))
	for _, h := range have {
		i, ok := index[h.Dst]
		switch {
		case !ok:
		case (h.Protocol == own || sibling(h.Protocol)) && h.Priority == want[i].Priority:
			there[i].mine++
			there[i].exact = there[i].exact || h == want[i]
		case h.Protocol != own && !sibling(h.Protocol) && h.Priority <= want[i].Priority:
			if known := d.Taken[i]; known == nil || h.Priority < known.Found.Priority {
				d.Taken[i] = &Refuse{Wanted: want[i], Found: h}
			}
		}
	}
	for i, w := range want {
		if there[i].exact || d.Taken[i] != nil {
			continue
		}
		verb := rtnl.Add
		if there[i].mine > 0 {
			verb = rtnl.Replace
		}
		d.Write = append(d.Write, rtnl.Change{Verb: verb, Object: w})
	}
	var stale []rtnl.Route
	for _, h := range have {
		if h.Protocol != own {
			continue
		}
		if i, ok := index[h.Dst]; ok && h.Priority == want[i].Priority {
			// One that is as wanted stays; one that is replaced is gone already. Of several under one key (someone appended a copy) nobody
			// knows which one the kernel replaces: all are deleted, and the one that is gone by then is forgiven.
			replaced := !there[i].exact && there[i].mine == 1 && d.Taken[i] == nil
			if h == want[i] || replaced {
				continue
			}
		}
		stale = append(stale, h)
	}
	slices.SortFunc(stale, func(a, b rtnl.Route) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()), cmp.Compare(a.Priority, b.Priority))
	})
	for _, h := range stale {
		d.Delete = append(d.Delete, rtnl.Change{Verb: rtnl.Delete, Object: h})
	}
	return d
}

// sibling reports whether routes of protocol p are podnet's, whichever backend wrote them.
func sibling(p rtnl.Protocol) bool { return p == rtnl.ProtocolVXLAN || p == rtnl.ProtocolHostGW }

// OfFamily returns the routes of one address family. They are not to be changed: if they stand together in routes, as in every dump, they
// are a part of it. A copy of 5,000 is 1 MB.
func OfFamily(routes []rtnl.Route, family rtnl.Family) []rtnl.Route {
	is := func(r rtnl.Route) bool { return rtnl.FamilyOf(r.Dst.Addr()) == family }
	first := slices.IndexFunc(routes, is)
	if first < 0 {
		return nil
	}
	of := routes[first:]
	end := slices.IndexFunc(of, func(r rtnl.Route) bool { return !is(r) })
	if end < 0 {
		return of
	}
	if of, rest := of[:end:end], of[end:]; !slices.ContainsFunc(rest, is) {
		return of
	}
	return slices.DeleteFunc(slices.Clone(of), func(r rtnl.Route) bool { return !is(r) })
}

// Uplink returns why link cannot carry traffic to peers: it is missing or down.
func Uplink(links []rtnl.Link, link string) (rtnl.Link, error) {
	for _, l := range links {
		if l.Name != link {
			continue
		}
		if l.Up == rtnl.Off {
			return l, fmt.Errorf("underlay %s: is down; what is there is kept until it is up", link)
		}
		return l, nil
	}
	return rtnl.Link{}, fmt.Errorf("underlay %s: no such device; what is there is kept until it appears", link)
}
