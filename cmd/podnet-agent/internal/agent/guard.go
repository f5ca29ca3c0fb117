package agent

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
)

// guardFrom is the number of peers from which the guard looks: fewer go away together in ordinary work.
const guardFrom = 4

// guard holds peers back that disappear together: an empty directory (a mount that is gone, a broken export), an empty list, or somebody deleting
// one Node after the other is more often a fault than a wish. If more than half of the peers go within the hold, all of these are kept, and only
// let go when they have been gone for another one.
type guard struct {
	hold  time.Duration // 0 = off
	last  []node.Node   // what was returned last
	went  map[string]departure
	since time.Time // when more than half were gone; zero: they are not
}

// departure is a peer that is gone since a while ago, shorter than the hold.
type departure struct {
	node node.Node
	at   time.Time
}

// filter returns the nodes to work with. If some are held back, it says so, and how long still.
func (g *guard) filter(now time.Time, nodes []node.Node, own string) (use []node.Node, note string, left time.Duration) {
	if len(nodes) > 0 && len(nodes) == len(g.last) && &nodes[0] == &g.last[0] {
		return nodes, "", 0 // the very snapshot of the last pass, as in most passes
	}
	peers := g.compare(now, nodes, own)
	all := peers + len(g.went)
	if 2*len(g.went) > all {
		taken := claimed(nodes)
		maps.DeleteFunc(g.went, func(_ string, d departure) bool { return replaced(d.node, taken) })
		all = peers + len(g.went)
	}
	if g.hold == 0 || all < guardFrom || 2*len(g.went) <= all {
		g.last, g.since = nodes, time.Time{}
		return nodes, "", 0
	}
	if g.since.IsZero() {
		g.since = now
	}
	left = g.hold - now.Sub(g.since)
	if left <= 0 {
		g.last, g.since, g.went = nodes, time.Time{}, nil
		return nodes, "", 0
	}
	use = append(make([]node.Node, 0, len(nodes)+len(g.went)), nodes...)
	for _, name := range slices.Sorted(maps.Keys(g.went)) {
		use = append(use, g.went[name].node)
	}
	g.last = use
	return use, fmt.Sprintf("%d of %d peers disappeared at once: kept for %v, in case that is a fault", len(g.went), all, g.hold), left
}

// compare finds out which peers went since the last look, forgets those that went long ago or came back, and counts those that are there.
func (g *guard) compare(now time.Time, nodes []node.Node, own string) (peers int) {
	present := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		present[n.Name] = true
		if n.Name != own {
			peers++
		}
	}
	for name, d := range g.went {
		if present[name] || g.since.IsZero() && now.Sub(d.at) >= g.hold {
			delete(g.went, name)
		}
	}
	for _, n := range g.last {
		if _, known := g.went[n.Name]; n.Name == own || present[n.Name] || known {
			continue
		}
		if g.went == nil {
			g.went = map[string]departure{}
		}
		g.went[n.Name] = departure{n, now}
	}
	return peers
}

// claimed returns the podCIDRs and addresses of nodes.
func claimed(nodes []node.Node) map[any]bool {
	taken := make(map[any]bool, 4*len(nodes))
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			taken[p] = true
		}
		for _, a := range n.Addresses {
			taken[a] = true
		}
	}
	return taken
}

// replaced reports whether another node has what n had: nobody waits for n then.
func replaced(n node.Node, taken map[any]bool) bool {
	for _, p := range n.PodCIDRs {
		if taken[p] {
			return true
		}
	}
	for _, a := range n.Addresses {
		if taken[a] {
			return true
		}
	}
	return false
}
