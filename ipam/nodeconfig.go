package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// maxBlockBits bounds the number of blocks in a range. kube-controller-manager stops at 16 bits, for its bitmap is there whole.
const maxBlockBits = 62

const (
	defaultMaskIPv4 = 24
	defaultMaskIPv6 = 64
)

// Validate reports every fault of the configuration, each as a [*ConfigError].
func (c NodeConfig) Validate() error {
	c = c.withDefaults()
	var v faults
	if c.MaskSizeIPv4 < 8 || c.MaskSizeIPv4 > 30 {
		v.add("maskSizeIPv4", c.MaskSizeIPv4, "want 8 to 30")
	}
	if c.MaskSizeIPv6 < 16 || c.MaskSizeIPv6 > 126 {
		v.add("maskSizeIPv6", c.MaskSizeIPv6, "want 16 to 126")
	}
	if c.Quarantine < 0 {
		v.add("quarantine", c.Quarantine, "want 0 or more")
	}
	if len(c.ClusterCIDRs) == 0 {
		v.add("clusterCIDRs", "[]", "want at least one CIDR")
	}
	for i, p := range c.ClusterCIDRs {
		c.validateRange(fmt.Sprintf("clusterCIDRs[%d]", i), p, c.ClusterCIDRs[:i], &v)
	}
	for i, p := range c.Occupied {
		if why := faultOfPrefix(p); why != "" {
			v.add(fmt.Sprintf("occupied[%d]", i), p, "%s", why)
		}
	}
	return v.err()
}

func (c NodeConfig) validateRange(field string, p netip.Prefix, others []netip.Prefix, v *faults) {
	if why := faultOfPrefix(p); why != "" {
		v.add(field, p, "%s", why)
		return
	}
	switch mask := c.maskSize(p); {
	case p.Bits() > mask:
		v.add(field, p, "want /%d or larger, for blocks of that size are cut from it", mask)
	case mask-p.Bits() > maxBlockBits:
		v.add(field, p, "want /%d or smaller, for blocks of /%d", mask-maxBlockBits, mask)
	}
	for _, q := range others {
		if q.IsValid() && p.Overlaps(q) {
			v.add(field, p, "overlaps %s", q)
		}
	}
}

func (c NodeConfig) withDefaults() NodeConfig {
	if c.MaskSizeIPv4 == 0 {
		c.MaskSizeIPv4 = defaultMaskIPv4
	}
	if c.MaskSizeIPv6 == 0 {
		c.MaskSizeIPv6 = defaultMaskIPv6
	}
	c.ClusterCIDRs = slices.Clone(c.ClusterCIDRs)
	c.Occupied = slices.Clone(c.Occupied)
	return c
}

// maskSize returns the length of the blocks that are cut from p.
func (c NodeConfig) maskSize(p netip.Prefix) int {
	if p.Addr().Is4() {
		return c.MaskSizeIPv4
	}
	return c.MaskSizeIPv6
}

// blockRange is a cluster CIDR as a row of blocks. Blocks in use by nodes are bits; what covers many blocks at once, occupied
// ranges and adopted blocks of a larger size, are walls: sorted intervals that do not overlap.
type blockRange struct {
	prefix netip.Prefix
	mask   int
	base   u128
	busy   bitmap
	walls  []wall
	next   uint64 // where round robin goes on
}

// wall is an interval of blocks, both ends included, that several holders may need: it goes when the last of them goes.
type wall struct {
	first, last uint64
	fixed       bool // occupied by configuration
}

func newBlockRange(p netip.Prefix, mask int, occupied []netip.Prefix) *blockRange {
	r := &blockRange{prefix: p, mask: mask, base: toU128(p.Addr()), busy: newBitmap(1 << (mask - p.Bits()))}
	for _, o := range occupied {
		if o.Overlaps(p) {
			first, last := r.span(o)
			r.walls = append(r.walls, wall{first, last, true})
		}
	}
	return r
}

// span returns the first and the last block that p touches, for a p that overlaps the range.
func (r *blockRange) span(p netip.Prefix) (first, last uint64) {
	if p.Bits() <= r.prefix.Bits() {
		return 0, r.busy.size - 1
	}
	width := r.prefix.Addr().BitLen() - r.mask
	at := func(a netip.Addr) uint64 { return toU128(a).sub(r.base).shr(width).lo }
	return at(p.Addr()), at(lastAddr(p))
}

// block returns the i-th block.
func (r *blockRange) block(i uint64) netip.Prefix {
	n := u128{0, i}.shl(r.prefix.Addr().BitLen() - r.mask)
	a := r.base.add(n.lo)
	a.hi += n.hi
	return netip.PrefixFrom(a.addr(r.prefix.Addr().Is4()), r.mask)
}

// pick returns the next free block of the round.
func (r *blockRange) pick() (uint64, bool) {
	if i, ok := r.pickIn(r.next, r.busy.size); ok {
		return i, true
	}
	return r.pickIn(0, r.next)
}

func (r *blockRange) pickIn(from, to uint64) (uint64, bool) {
	for {
		i, ok := r.busy.nextClear(from, to)
		if !ok {
			return 0, false
		}
		w := r.wallAt(i)
		if w == nil {
			return i, true
		}
		from = w.last + 1
	}
}

// wallAt returns a wall around i. There are few walls: one per occupied range and per adopted block of an unusual size.
func (r *blockRange) wallAt(i uint64) *wall {
	for k := range r.walls {
		if w := &r.walls[k]; w.first <= i && i <= w.last {
			return w
		}
	}
	return nil
}

// walled counts the blocks inside of walls: all of them, and those of occupied ranges.
func (r *blockRange) walled() (all, fixed uint64) {
	return countBlocks(r.walls), countBlocks(slices.DeleteFunc(slices.Clone(r.walls), func(w wall) bool { return !w.fixed }))
}

func countBlocks(walls []wall) uint64 {
	sorted := slices.Clone(walls)
	slices.SortFunc(sorted, func(a, b wall) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	n, next := uint64(0), uint64(0) // next: the first block not yet counted
	for _, w := range sorted {
		if first := max(w.first, next); w.last >= first {
			n += w.last - first + 1
			next = w.last + 1
		}
	}
	return n
}
