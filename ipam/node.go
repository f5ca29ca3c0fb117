package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// NodeConfig says what a [NodeAllocator] hands out.
type NodeConfig struct {
	// ClusterCIDRs are the ranges that are cut into node blocks, of one family or of both. The order of the families is the order of
	// a node's podCIDRs. Ranges of one family are used one after the other.
	ClusterCIDRs []netip.Prefix
	MaskSizeIPv4 int            // length of an IPv4 block; 0 means 24
	MaskSizeIPv6 int            // length of an IPv6 block; 0 means 64
	Occupied     []netip.Prefix // never handed out: service CIDRs, the nodes' own networks
	// Quarantine is how long a released block is kept back, because routes to it may still be around; only the node that released it
	// gets it back earlier. 0 means none; five minutes is a good value where routes are programmed in a cloud.
	Quarantine time.Duration
}

// NodeStats are the figures of one cluster CIDR. Capacity saturates.
type NodeStats struct {
	ClusterCIDR netip.Prefix
	MaskSize    int
	Capacity    uint64 // blocks that are not occupied
	Used        uint64 // held by nodes
	Quarantined uint64 // released, and not to be reused yet
}

// NodeAllocator hands out podCIDRs to nodes. Make it with [NewNodeAllocator].
type NodeAllocator struct {
	mu         sync.Mutex
	config     NodeConfig
	ranges     []*blockRange
	nodes      map[string][]netip.Prefix
	blocks     map[netip.Prefix]string // whose they are
	unusual    []netip.Prefix          // those of blocks that are not of the configured size
	quarantine []released              // in the order of release
}

// released is a node that let its blocks go.
type released struct {
	node   string
	blocks []netip.Prefix
	at     time.Time
}

// NewNodeAllocator validates cfg.
func NewNodeAllocator(cfg NodeConfig) (*NodeAllocator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("node allocator: %w", err)
	}
	cfg = cfg.withDefaults()
	a := &NodeAllocator{config: cfg, nodes: make(map[string][]netip.Prefix), blocks: make(map[netip.Prefix]string)}
	for _, p := range cfg.ClusterCIDRs {
		a.ranges = append(a.ranges, newBlockRange(p, cfg.maskSize(p), cfg.Occupied))
	}
	return a, nil
}

// Allocate gives the node one block per family, or none at all. A node that has its blocks gets them again, and one whose blocks are in
// quarantine gets those.
func (a *NodeAllocator) Allocate(node string) ([]netip.Prefix, error) {
	if err := validNode(node); err != nil {
		return nil, fmt.Errorf("allocate podCIDR: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if have := a.nodes[node]; have != nil {
		return slices.Clone(have), nil
	}
	a.endQuarantine(time.Now())
	if blocks := a.back(node); blocks != nil {
		return slices.Clone(blocks), nil
	}
	var got []netip.Prefix
	for _, is4 := range a.families() {
		r, i, err := a.pick(is4)
		if err != nil {
			for _, p := range got { // all families or none
				a.free(p)
			}
			return nil, fmt.Errorf("allocate podCIDR for node %s: %w", node, err)
		}
		r.busy.set(i)
		r.next = i + 1
		got = append(got, r.block(i))
	}
	a.give(node, got)
	return slices.Clone(got), nil
}

// families returns the families of the pool, true for IPv4, in the order of the configuration.
func (a *NodeAllocator) families() []bool {
	var is4 []bool
	for _, r := range a.ranges {
		if !slices.Contains(is4, r.prefix.Addr().Is4()) {
			is4 = append(is4, r.prefix.Addr().Is4())
		}
	}
	return is4
}

func (a *NodeAllocator) pick(is4 bool) (*blockRange, uint64, error) {
	e := &ExhaustedError{}
	for _, r := range a.ranges {
		if r.prefix.Addr().Is4() != is4 {
			continue
		}
		if i, ok := r.pick(); ok {
			return r, i, nil
		}
		st := a.stats(r)
		e.Used, e.Quarantined, e.Capacity = e.Used+st.Used, e.Quarantined+st.Quarantined, e.Capacity+st.Capacity
		if e.Range != "" {
			e.Range += ","
		}
		e.Range += fmt.Sprintf("%s by /%d", r.prefix, r.mask)
	}
	return nil, 0, e
}

// back takes a node's blocks out of quarantine, if they are there and nothing else came over them.
func (a *NodeAllocator) back(node string) []netip.Prefix {
	i := slices.IndexFunc(a.quarantine, func(q released) bool { return q.node == node })
	if i < 0 {
		return nil
	}
	blocks := a.quarantine[i].blocks
	if len(blocks) != len(a.families()) { // an adopted node may have had fewer
		return nil
	}
	for _, p := range blocks {
		if a.heldBy(p, node) != "" {
			return nil
		}
	}
	a.quarantine = slices.Delete(a.quarantine, i, i+1)
	a.give(node, blocks)
	return blocks
}

func (a *NodeAllocator) give(node string, blocks []netip.Prefix) {
	a.nodes[node] = blocks
	for _, p := range blocks {
		a.blocks[p] = node
	}
}

// Occupy adopts the blocks that a node already has, all of them or none. Blocks of another size than configured are adopted as they are; what
// another block would share with them is not handed out. A block that overlaps one of another node is a [*DuplicateError]; one
// that lies outside the ranges is a [*NotInRangeError]. Both are of this node alone: others can be adopted. A block in an occupied range, or in quarantine, is adopted.
func (a *NodeAllocator) Occupy(node string, podCIDRs []netip.Prefix) error {
	if err := validNode(node); err != nil {
		return fmt.Errorf("adopt podCIDRs: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.mayOccupy(node, podCIDRs); err != nil {
		return fmt.Errorf("adopt podCIDRs of node %s: %w", node, err)
	}
	if a.nodes[node] != nil {
		return nil // mayOccupy found them equal
	}
	if i := slices.IndexFunc(a.quarantine, func(q released) bool { return q.node == node }); i >= 0 {
		if q := a.quarantine[i]; slices.Equal(q.blocks, podCIDRs) { // it never left
			a.quarantine = slices.Delete(a.quarantine, i, i+1)
			a.give(node, q.blocks)
			return nil
		}
	}
	for _, p := range podCIDRs {
		for _, r := range a.ranges {
			if !r.prefix.Overlaps(p) {
				continue
			}
			if first, last := r.span(p); p.Bits() == r.mask {
				if !r.busy.set(first) {
					a.leaveQuarantine(p)
				}
			} else {
				r.walls = append(r.walls, wall{first, last, false})
				a.unusual = append(a.unusual, p)
			}
		}
	}
	a.give(node, slices.Clone(podCIDRs))
	return nil
}

func (a *NodeAllocator) mayOccupy(node string, podCIDRs []netip.Prefix) error {
	var v faults
	if len(podCIDRs) == 0 || len(podCIDRs) > 2 {
		v.add("podCIDRs", len(podCIDRs), "want one CIDR per family")
	}
	for i, p := range podCIDRs {
		field := fmt.Sprintf("podCIDRs[%d]", i)
		if why := faultOfPrefix(p); why != "" {
			v.add(field, p, "%s", why)
		} else if i > 0 && podCIDRs[0].Addr().Is4() == p.Addr().Is4() {
			v.add(field, p, "want one CIDR per family")
		}
	}
	if err := v.err(); err != nil {
		return err
	}
	if have := a.nodes[node]; have != nil && !slices.Equal(have, podCIDRs) {
		return &ConfigError{"podCIDRs", fmt.Sprint(podCIDRs), fmt.Sprintf("node has %v: release it first", have)}
	} else if have != nil {
		return nil
	}
	for _, p := range podCIDRs {
		if !slices.ContainsFunc(a.ranges, func(r *blockRange) bool { return r.prefix.Bits() <= p.Bits() && r.prefix.Contains(p.Addr()) }) {
			return &NotInRangeError{p.Addr(), fmt.Sprintf("of podCIDR %s is outside every cluster CIDR", p)}
		}
		if other := a.heldBy(p, node); other != "" {
			theirs := netip.Prefix{}
			for _, q := range a.nodes[other] {
				if q.Overlaps(p) {
					theirs = q
				}
			}
			return &DuplicateError{node, other, p, theirs}
		}
	}
	return nil
}

// heldBy returns the name of another node with a block that overlaps p, "" if there is none.
func (a *NodeAllocator) heldBy(p netip.Prefix, node string) string {
	if other, ok := a.blocks[p]; ok && other != node {
		return other
	}
	if p.Bits() == a.config.maskSize(p) { // only a block of another size can overlap it without being equal
		for _, q := range a.unusual {
			if other := a.blocks[q]; q.Overlaps(p) && other != "" && other != node {
				return other
			}
		}
		return ""
	}
	for q, other := range a.blocks {
		if q.Overlaps(p) && other != node {
			return other
		}
	}
	return ""
}

// Release puts the node's blocks into quarantine and returns them. A node without blocks is no error.
func (a *NodeAllocator) Release(node string) []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	blocks := a.nodes[node]
	if blocks == nil {
		return nil
	}
	now := time.Now()
	delete(a.nodes, node)
	for _, p := range blocks {
		delete(a.blocks, p)
	}
	a.quarantine = append(a.quarantine, released{node, blocks, now})
	a.endQuarantine(now)
	return slices.Clone(blocks)
}

// endQuarantine frees the blocks whose time is over.
func (a *NodeAllocator) endQuarantine(now time.Time) {
	n := 0
	for ; n < len(a.quarantine) && now.Sub(a.quarantine[n].at) >= a.config.Quarantine; n++ {
		for _, p := range a.quarantine[n].blocks {
			a.free(p)
		}
	}
	a.quarantine = slices.Delete(a.quarantine, 0, n)
}

// leaveQuarantine forgets that a block was released: another node has adopted it.
func (a *NodeAllocator) leaveQuarantine(p netip.Prefix) {
	for i := range a.quarantine {
		q := &a.quarantine[i]
		q.blocks = slices.DeleteFunc(slices.Clone(q.blocks), func(b netip.Prefix) bool { return b == p })
	}
}

// free makes a block available.
func (a *NodeAllocator) free(p netip.Prefix) {
	for _, r := range a.ranges {
		if !r.prefix.Overlaps(p) {
			continue
		}
		first, last := r.span(p)
		if p.Bits() == r.mask {
			r.busy.clear(first)
			continue
		}
		if i := slices.Index(r.walls, wall{first, last, false}); i >= 0 {
			r.walls = slices.Delete(r.walls, i, i+1)
		}
		if i := slices.Index(a.unusual, p); i >= 0 {
			a.unusual = slices.Delete(a.unusual, i, i+1)
		}
	}
}

// Lookup returns the node's blocks, nil if it has none.
func (a *NodeAllocator) Lookup(node string) []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.nodes[node])
}

// AddRange adds a cluster CIDR to the live pool, of a family that the pool has: nodes that have their blocks never get another family.
func (a *NodeAllocator) AddRange(clusterCIDR netip.Prefix) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var v faults
	a.config.validateRange("clusterCIDR", clusterCIDR, a.config.ClusterCIDRs, &v)
	if v.err() == nil && !slices.Contains(a.families(), clusterCIDR.Addr().Is4()) {
		v.add("clusterCIDR", clusterCIDR, "want a family that the pool has")
	}
	if err := v.err(); err != nil {
		return fmt.Errorf("add range: %w", err)
	}
	a.config.ClusterCIDRs = append(a.config.ClusterCIDRs, clusterCIDR)
	a.ranges = append(a.ranges, newBlockRange(clusterCIDR, a.config.maskSize(clusterCIDR), a.config.Occupied))
	return nil
}

// Stats returns the figures of each range in the order of configuration.
func (a *NodeAllocator) Stats() []NodeStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endQuarantine(time.Now())
	all := make([]NodeStats, len(a.ranges))
	for i, r := range a.ranges {
		all[i] = a.stats(r)
	}
	return all
}

func (a *NodeAllocator) stats(r *blockRange) NodeStats {
	walled, fixed := r.walled()
	st := NodeStats{ClusterCIDR: r.prefix, MaskSize: r.mask, Capacity: r.busy.size - fixed}
	for _, q := range a.quarantine {
		for _, p := range q.blocks {
			if r.prefix.Overlaps(p) {
				first, last := r.span(p)
				st.Quarantined += last - first + 1
			}
		}
	}
	taken := r.busy.used + walled - fixed
	st.Used = taken - min(st.Quarantined, taken)
	return st
}
