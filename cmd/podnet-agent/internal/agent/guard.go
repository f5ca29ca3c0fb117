package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
)

// guardFrom is the number of peers from which the guard looks: fewer go away together in ordinary work.
const guardFrom = 4

// guard holds peers back that disappear all at once: an empty directory (a mount that is gone, a broken export) or an empty list is more
// often a fault than a wish. More than half of the peers have to be gone for the whole hold before they are let go.
type guard struct {
	hold  time.Duration // 0 = off
	last  []node.Node   // what was returned last
	since time.Time     // when more than half went; zero: they did not
}

// filter returns the nodes to work with. If some are held back, it says so, and how long still.
func (g *guard) filter(now time.Time, nodes []node.Node, own string) (use []node.Node, note string, left time.Duration) {
	if len(nodes) > 0 && len(nodes) == len(g.last) && &nodes[0] == &g.last[0] {
		return nodes, "", 0 // the very snapshot of the last pass, as in most passes
	}
	present := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		present[n.Name] = true
	}
	var gone []node.Node
	peers := 0
	for _, n := range g.last {
		if n.Name == own {
			continue
		}
		peers++
		if !present[n.Name] {
			gone = append(gone, n)
		}
	}
	if 2*len(gone) > peers {
		taken := claimed(nodes)
		gone = slices.DeleteFunc(gone, func(n node.Node) bool { return replaced(n, taken) })
	}
	if g.hold == 0 || peers < guardFrom || 2*len(gone) <= peers {
		g.last, g.since = nodes, time.Time{}
		return nodes, "", 0
	}
	if g.since.IsZero() {
		g.since = now
	}
	left = g.hold - now.Sub(g.since)
	if left <= 0 {
		g.last, g.since = nodes, time.Time{}
		return nodes, "", 0
	}
	use = slices.Concat(nodes, gone)
	g.last = use
	return use, fmt.Sprintf("%d of %d peers disappeared at once: kept for %v, in case that is a fault", len(gone), peers, g.hold), left
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
