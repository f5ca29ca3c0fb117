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

type routeKey struct {
	dst      netip.Prefix
	priority uint32
}

// DiffRoutes compares the wanted routes, all of them canonical and of protocol own, with those of the same family in the main table. A
// route whose key (destination and metric) is there is replaced in place, never deleted and added again. A route of another protocol is
// never touched; where its metric is not above the wanted one's, it is in the way.
func DiffRoutes(want, have []rtnl.Route, own rtnl.Protocol) Routes {
	d := Routes{Taken: map[int]*Refuse{}}
	wanted := make(map[rtnl.Route]bool, len(want))
	wantedDst := make(map[netip.Prefix]bool, len(want))
	for _, w := range want {
		wanted[w] = true
		wantedDst[w.Dst] = true
	}
	there := make(map[rtnl.Route]bool, len(want))
	mine := make(map[routeKey]int, len(want)) // how many of ours there are, with or without the wanted content
	foreign := map[netip.Prefix]rtnl.Route{}
	for _, h := range have {
		switch {
		case h.Protocol == own:
			there[h] = wanted[h]
			mine[routeKey{h.Dst, h.Priority}]++
		case wantedDst[h.Dst]:
			if known, ok := foreign[h.Dst]; !ok || h.Priority < known.Priority {
				foreign[h.Dst] = h
			}
		}
	}
	replaced := map[routeKey]bool{}
	for i, w := range want {
		if f, ok := foreign[w.Dst]; ok && f.Priority <= w.Priority {
			d.Taken[i] = &Refuse{Wanted: w, Found: f}
			continue
		}
		key := routeKey{w.Dst, w.Priority}
		switch {
		case there[w]:
		case mine[key] > 0:
			replaced[key] = true
			d.Write = append(d.Write, rtnl.Change{Verb: rtnl.Replace, Object: w})
		default:
			d.Write = append(d.Write, rtnl.Change{Verb: rtnl.Add, Object: w})
		}
	}
	var stale []rtnl.Route
	for _, h := range have {
		key := routeKey{h.Dst, h.Priority}
		// Where one of ours is replaced there is nothing left to delete. Of several under one key (someone appended a copy) nobody knows
		// which one the kernel replaces: all are deleted, and the one that is gone by then is forgiven.
		if h.Protocol != own || there[h] || replaced[key] && mine[key] == 1 {
			continue
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

// OfFamily returns the routes of one address family.
func OfFamily(routes []rtnl.Route, family rtnl.Family) []rtnl.Route {
	var of []rtnl.Route
	for _, r := range routes {
		if rtnl.FamilyOf(r.Dst.Addr()) == family {
			of = append(of, r)
		}
	}
	return of
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
