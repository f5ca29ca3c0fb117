package kubenode

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

// ranked is a node with what decides when two claim the same: the older one has it, whatever their names. All agents decide alike, and
// nothing changes for a node because a younger one comes or goes.
type ranked struct {
	node    node.Node
	created int64 // seconds since 1970; Kubernetes keeps no finer time
	uid     string
}

func byAge(a, b *ranked) int {
	return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.uid, b.uid), cmp.Compare(a.node.Name, b.node.Name))
}

// conflict is two nodes that claim the same.
type conflict struct {
	loser, winner string
	what          string
}

func (c conflict) String() string {
	return fmt.Sprintf("node %q: %s of the older node %q", c.loser, c.what, c.winner)
}

// settle returns the nodes that can work together, by name, and who had to give way. It sorts all. This node always stays: its pods are here. Others that
// claim what is its are left out even if they are older: routing that elsewhere would cut off the pods of this node. That it should give way then is
// for its condition to say.
func (c *claims) settle(all []*ranked, own string) (nodes []node.Node, conflicts []conflict) {
	slices.SortFunc(all, byAge)
	c.reset(all)
	ownAge := -1
	if ownAge = slices.IndexFunc(all, func(r *ranked) bool { return r.node.Name == own }); ownAge >= 0 {
		c.enter(all[ownAge].node)
	}
	kept := all[:0]
	for i, r := range all {
		if i == ownAge {
			kept = append(kept, r)
			continue
		}
		winner, what, ok := c.find(r.node)
		switch {
		case !ok:
			c.enter(r.node)
			kept = append(kept, r)
		case winner == own && i < ownAge:
			conflicts = append(conflicts, conflict{loser: own, winner: r.node.Name, what: what})
		default:
			conflicts = append(conflicts, conflict{loser: r.node.Name, winner: winner, what: what})
		}
	}
	slices.SortFunc(kept, func(a, b *ranked) int { return cmp.Compare(a.node.Name, b.node.Name) })
	nodes = make([]node.Node, len(kept))
	for i, r := range kept {
		nodes[i] = r.node
	}
	return nodes, conflicts
}

// claims holds who has which podCIDR, address and VTEP MAC. The zero claims works.
type claims struct {
	cidrs   map[netip.Prefix]string // podCIDRs
	within  map[netip.Prefix]string // prefixes of the lengths in use that hold a podCIDR
	lengths [2][]int                // of podCIDRs, by family
	addrs   map[netip.Addr]string
	macs    map[macKey]string
}

// macKey: the two families have a VTEP each.
type macKey struct {
	family rtnl.Family
	mac    rtnl.MAC
}

// reset forgets all but the room that it took.
func (c *claims) reset(all []*ranked) {
	if c.cidrs == nil {
		c.cidrs, c.within = make(map[netip.Prefix]string, len(all)), map[netip.Prefix]string{}
		c.addrs, c.macs = make(map[netip.Addr]string, len(all)), map[macKey]string{}
	}
	clear(c.cidrs)
	clear(c.within)
	clear(c.addrs)
	clear(c.macs)
	c.lengths = [2][]int{}
	for _, r := range all {
		for _, p := range r.node.PodCIDRs {
			if l := &c.lengths[index(p.Addr())]; !slices.Contains(*l, p.Bits()) {
				*l = append(*l, p.Bits())
			}
		}
	}
}

func index(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// find returns who has what n claims.
func (c *claims) find(n node.Node) (who, what string, ok bool) {
	for _, p := range n.PodCIDRs {
		if who, ok = c.within[p]; ok {
			return who, fmt.Sprintf("podCIDR %v holds that", p), true
		}
		for _, bits := range c.lengths[index(p.Addr())] {
			if bits > p.Bits() {
				continue
			}
			if who, ok = c.cidrs[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
				return who, fmt.Sprintf("podCIDR %v is that", p), true
			}
		}
	}
	for _, a := range n.Addresses {
		if who, ok = c.addrs[a]; ok {
			return who, fmt.Sprintf("address %v is that", a), true
		}
	}
	for _, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		if mac := n.MAC(f); !mac.IsZero() && n.PodCIDR(f).IsValid() {
			if who, ok = c.macs[macKey{f, mac}]; ok {
				return who, fmt.Sprintf("VTEP MAC %v is that", mac), true
			}
		}
	}
	return "", "", false
}

func (c *claims) enter(n node.Node) {
	for _, p := range n.PodCIDRs {
		c.cidrs[p] = n.Name
		for _, bits := range c.lengths[index(p.Addr())] {
			if bits < p.Bits() {
				c.within[netip.PrefixFrom(p.Addr(), bits).Masked()] = n.Name
			}
		}
	}
	for _, a := range n.Addresses {
		c.addrs[a] = n.Name
	}
	for _, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		if mac := n.MAC(f); !mac.IsZero() && n.PodCIDR(f).IsValid() {
			c.macs[macKey{f, mac}] = n.Name
		}
	}
}
