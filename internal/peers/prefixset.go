package peers

import (
	"net/netip"
	"slices"
)

// prefixSet finds overlaps among prefixes in as many map look-ups as there are different prefix lengths: two or three in a cluster,
// however many nodes it has. The zero prefixSet is empty.
type prefixSet struct {
	families [2]prefixFamily
	hint     int // how many members to expect
}

type prefixFamily struct {
	lengths []int // ascending
	owners  map[netip.Prefix]string
	inside  map[netip.Prefix]netip.Prefix // a range of one of lengths -> a longer member in it
}

func (s *prefixSet) of(p netip.Prefix) *prefixFamily {
	f := &s.families[familyIndex(p.Addr())]
	if f.owners == nil {
		f.owners, f.inside = make(map[netip.Prefix]string, s.hint), map[netip.Prefix]netip.Prefix{}
	}
	return f
}

// insert adds p, which must be masked.
func (s *prefixSet) insert(p netip.Prefix, owner string) {
	f := s.of(p)
	f.addLength(p.Bits())
	f.owners[p] = owner
	f.cover(p)
}

// overlap returns a member that overlaps p, and whose it is.
func (s *prefixSet) overlap(p netip.Prefix) (netip.Prefix, string, bool) {
	f := s.of(p)
	f.addLength(p.Bits())
	for _, bits := range f.lengths {
		if bits > p.Bits() {
			break
		}
		outer := netip.PrefixFrom(p.Addr(), bits).Masked()
		if owner, ok := f.owners[outer]; ok {
			return outer, owner, true
		}
	}
	if inner, ok := f.inside[p]; ok {
		return inner, f.owners[inner], true
	}
	return netip.Prefix{}, "", false
}

// addLength makes bits one of the lengths that inside is kept for.
func (f *prefixFamily) addLength(bits int) {
	at, known := slices.BinarySearch(f.lengths, bits)
	if known {
		return
	}
	f.lengths = slices.Insert(f.lengths, at, bits)
	for p := range f.owners {
		if p.Bits() > bits {
			f.coverAt(p, bits)
		}
	}
}

func (f *prefixFamily) cover(p netip.Prefix) {
	for _, bits := range f.lengths {
		if bits >= p.Bits() {
			break
		}
		f.coverAt(p, bits)
	}
}

// coverAt enters p as a member inside its range of length bits. Of several the lowest stays, so that what is reported does not depend
// on the order of a map.
func (f *prefixFamily) coverAt(p netip.Prefix, bits int) {
	outer := netip.PrefixFrom(p.Addr(), bits).Masked()
	if known, ok := f.inside[outer]; !ok || p.Addr().Less(known.Addr()) {
		f.inside[outer] = p
	}
}
