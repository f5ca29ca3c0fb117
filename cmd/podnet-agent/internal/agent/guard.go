package agent

import (
	"fmt"
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
	present := make(map[any]bool, 5*len(nodes))
	for _, n := range nodes {
		present[n.Name] = true
		for _, p := range n.PodCIDRs {
			present[p] = true
		}
		for _, a := range n.Addresses {
			present[a] = true
		}
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
	use = append(make([]node.Node, 0, len(nodes)+len(gone)), nodes...)
	for _, n := range gone {
		if !replaced(n, present) {
			use = append(use, n)
		}
	}
	g.last = use
	return use, fmt.Sprintf("%d of %d peers disappeared at once: kept for %v, in case that is a fault", len(gone), peers, g.hold), left
}

// replaced reports whether another node has what n had: nobody waits for n then.
func replaced(n node.Node, present map[any]bool) bool {
	for _, p := range n.PodCIDRs {
		if present[p] {
			return true
		}
	}
	for _, a := range n.Addresses {
		if present[a] {
			return true
		}
	}
	return false
}
