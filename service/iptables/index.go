package iptables

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/service"
)

const (
	// bucket is how many addresses are looked through one after the other.
	bucket = 32
	// maxDepth bounds how deep chains lead to chains: a kernel with nf_tables follows 16 jumps (NFT_JUMP_STACK_SIZE).
	maxDepth = 8
)

// index holds rules by address, in chains that a packet finds its way through in few steps: instead of one list of all addresses, which kube-proxy has, a tree of chains with sixteen ways each.
// The tree's form depends on the addresses alone, and a change writes only the chains on its way.
type index struct {
	table *table
	name  func(netip.Prefix) string // of the chain for a part of the address space
	match func(netip.Prefix) string // what leads there
	root  netip.Prefix

	rules  map[netip.Addr][]owned
	sorted []netip.Addr
	dirty  map[netip.Addr]struct{}
	chains map[netip.Prefix][]netip.Prefix // those that exist, with those that they lead to
}

// owned are rules of a Service for an address. Last ones stand behind those of all Services; the same ones of several Services stand there once.
type owned struct {
	owner service.Name
	last  bool
	rules []string
}

func newIndex(t *table, root netip.Prefix, name, match func(netip.Prefix) string) *index {
	return &index{
		table: t, name: name, match: match, root: root,
		rules: map[netip.Addr][]owned{}, dirty: map[netip.Addr]struct{}{}, chains: map[netip.Prefix][]netip.Prefix{},
	}
}

// empty reports whether there is no rule, and so no chain.
func (x *index) empty() bool { return len(x.rules) == 0 }

func (x *index) add(a netip.Addr, o owned) {
	x.rules[a] = append(x.rules[a], o)
	x.dirty[a] = struct{}{}
}

// remove takes away what a Service has for an address.
func (x *index) remove(a netip.Addr, owner service.Name) {
	left := slices.DeleteFunc(x.rules[a], func(o owned) bool { return o.owner == owner })
	if len(left) == 0 {
		delete(x.rules, a)
	} else {
		x.rules[a] = left
	}
	x.dirty[a] = struct{}{}
}

// flush brings what changed into the table.
func (x *index) flush() {
	if len(x.dirty) == 0 {
		return
	}
	dirty := make([]netip.Addr, 0, len(x.dirty))
	for a := range x.dirty {
		dirty = append(dirty, a)
	}
	slices.SortFunc(dirty, netip.Addr.Compare)
	x.sort(dirty)
	clear(x.dirty)
	x.build(x.root, x.sorted, dirty, 0)
}

// sort brings the changed addresses into the sorted list, or out of it.
func (x *index) sort(dirty []netip.Addr) {
	if len(dirty) > len(x.sorted)/8 {
		x.sorted = x.sorted[:0]
		for a := range x.rules {
			x.sorted = append(x.sorted, a)
		}
		slices.SortFunc(x.sorted, netip.Addr.Compare)
		return
	}
	for _, a := range dirty {
		i, there := slices.BinarySearchFunc(x.sorted, a, netip.Addr.Compare)
		switch _, want := x.rules[a]; {
		case want && !there:
			x.sorted = slices.Insert(x.sorted, i, a)
		case !want && there:
			x.sorted = slices.Delete(x.sorted, i, i+1)
		}
	}
}

// build makes the chain for the addresses in p, of which some changed.
func (x *index) build(p netip.Prefix, addrs, dirty []netip.Addr, depth int) {
	old, there := x.chains[p]
	switch {
	case len(addrs) == 0:
		x.cut(p)
		return
	case there && len(dirty) == 0:
		return
	}
	var groups []group
	if len(addrs) > bucket && depth < maxDepth {
		groups = split(addrs)
	}
	for _, c := range old { // before others are built: they may take over what stands below
		if !slices.ContainsFunc(groups, func(g group) bool { return g.prefix == c }) {
			x.cut(c)
		}
	}
	var next []netip.Prefix
	b := body{note: p.String()}
	for _, g := range groups {
		x.build(g.prefix, g.addrs, inside(dirty, g.prefix), depth+1)
		next = append(next, g.prefix)
		b.rules = append(b.rules, x.match(g.prefix)+" -g "+x.name(g.prefix))
	}
	if groups == nil {
		for _, a := range addrs {
			b.rules = append(b.rules, x.of(a)...)
		}
	}
	x.chains[p] = next
	x.table.touch(x.name(p), service.Name{}, b)
}

// of returns the rules of an address.
func (x *index) of(a netip.Addr) []string {
	all := x.rules[a]
	if len(all) == 1 {
		return all[0].rules
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b owned) int {
		switch {
		case a.last == b.last:
			return slices.Compare(a.rules, b.rules)
		case a.last:
			return 1
		}
		return -1
	})
	all = slices.CompactFunc(all, func(a, b owned) bool { return a.last == b.last && slices.Equal(a.rules, b.rules) })
	var rules []string
	for _, o := range all {
		rules = append(rules, o.rules...)
	}
	return rules
}

// cut removes a chain and those below it.
func (x *index) cut(p netip.Prefix) {
	below, there := x.chains[p]
	if !there {
		return
	}
	delete(x.chains, p)
	x.table.drop(x.name(p))
	for _, c := range below {
		x.cut(c)
	}
}

type group struct {
	prefix netip.Prefix
	addrs  []netip.Addr
}

// split divides sorted addresses by the four bits behind those that they have in common; what all have in common takes no chain.
func split(addrs []netip.Addr) []group {
	bits := common(addrs[0], addrs[len(addrs)-1])/4*4 + 4
	var groups []group
	for len(addrs) > 0 {
		p := netip.PrefixFrom(addrs[0], bits).Masked()
		g := inside(addrs, p)
		groups = append(groups, group{p, g})
		addrs = addrs[len(g):]
	}
	return groups
}

// common returns how many leading bits two addresses share.
func common(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		for bit := range 8 {
			if (x[i]^y[i])&(0x80>>bit) != 0 {
				return i*8 + bit
			}
		}
	}
	return len(x) * 8
}

// inside returns those of sorted addresses that the prefix holds.
func inside(addrs []netip.Addr, p netip.Prefix) []netip.Addr {
	first, _ := slices.BinarySearchFunc(addrs, p.Addr(), netip.Addr.Compare)
	rest := addrs[first:]
	n, _ := slices.BinarySearchFunc(rest, p, func(a netip.Addr, p netip.Prefix) int {
		if p.Contains(a) {
			return -1
		}
		return 1
	})
	return rest[:n]
}

// A node port is looked up as an address 0.PROTOCOL.PORT, so that ports too are found in a tree.
func portAddr(protocol service.Protocol, port uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{0, byte(protocol), byte(port >> 8), byte(port)})
}

// matchPorts returns what leads to a part of the ports. The upper half of the protocol's number tells those that there are.
func matchPorts(p netip.Prefix) string {
	b := p.Addr().As4()
	if p.Bits() <= 16 {
		for _, protocol := range protocols() {
			if byte(protocol)>>4 == b[1]>>4 {
				return "-p " + protoName(protocol)
			}
		}
	}
	low := int(b[2])<<8 | int(b[3])
	return fmt.Sprintf("-p %s --dport %d:%d", protoName(service.Protocol(b[1])), low, low|(1<<(32-p.Bits())-1))
}
