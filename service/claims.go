package service

import (
	"cmp"
	"net/netip"
	"slices"
)

// claim is what only one Service can have: an address and port, or a NodePort of a family.
type claim struct {
	addr     netip.Addr
	port     uint16
	protocol Protocol
	family   Family
}

func claimOf(p PortProgram, f Frontend) claim {
	return claim{f.Addr, f.Port, p.Protocol, p.Family}
}

// claimant is a Service that wants it.
type claimant struct {
	name     Name
	internal bool // as its ClusterIP
	created  int64
}

// compare orders claimants: the first has the claim. It does not depend on who came first to this node, so all nodes agree.
func (c claimant) compare(d claimant) int {
	if c.internal != d.internal {
		if c.internal {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(c.created, d.created), c.name.compare(d.name))
}

// claims are who wants what. Nearly everything is wanted by one Service only, so who waits stands apart.
type claims struct {
	owners  map[claim]claimant
	waiting map[claim][]claimant
	of      map[Name][]claim
}

func newClaims() claims {
	return claims{owners: map[claim]claimant{}, waiting: map[claim][]claimant{}, of: map[Name][]claim{}}
}

func (c *claims) owner(k claim) Name { return c.owners[k].name }

// set replaces what a Service wants, and returns the other Services that won or lost something by it.
func (c *claims) set(n Name, created int64, p Program) (others []Name) {
	want := map[claim]claimant{}
	for _, port := range p.Ports {
		for _, f := range port.Frontends {
			want[claimOf(port, f)] = claimant{n, f.Kind == ClusterIP, created}
		}
	}
	had := c.of[n]
	delete(c.of, n)
	for _, k := range had {
		if _, still := want[k]; !still {
			others = append(others, c.change(k, n, nil)...)
		}
	}
	for k, w := range want {
		others = append(others, c.change(k, n, &w)...)
		c.of[n] = append(c.of[n], k)
	}
	return others
}

// change replaces or, with nil, removes n among those who want k.
func (c *claims) change(k claim, n Name, as *claimant) (others []Name) {
	before, owned := c.owners[k]
	waiting := c.waiting[k]
	if as != nil && len(waiting) == 0 && (!owned || before.name == n) { // the usual case
		c.owners[k] = *as
		return nil
	}
	all := keep(append([]claimant{before}, waiting...), func(w claimant) bool { return w.name != n && w != claimant{} })
	if as != nil {
		all = append(all, *as)
		slices.SortFunc(all, claimant.compare)
	}
	delete(c.owners, k)
	delete(c.waiting, k)
	if len(all) > 0 {
		c.owners[k] = all[0]
	}
	if len(all) > 1 {
		c.waiting[k] = all[1:]
	}
	if after := c.owner(k); after != before.name {
		for _, other := range []Name{before.name, after} {
			if other != n && other != (Name{}) {
				others = append(others, other)
			}
		}
	}
	return others
}
