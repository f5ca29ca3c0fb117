package ipam

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"
)

// Validate reports every fault of the configuration, each as a [*ConfigError].
func (c PodConfig) Validate() error {
	_, err := c.compile()
	return err
}

// span is a Range with its defaults filled in, and the bits of its addresses: what is leased, resting, or not for hand-out.
type span struct {
	Range
	first    u128
	busy     bitmap
	excluded uint64 // bits that are never cleared
}

// rangeSet is one set of ranges with the place where round robin goes on.
type rangeSet struct {
	spans  []span
	at     int    // span
	offset uint64 // in that span
	used   uint64 // leased
	rest   restQueue
}

func (s *span) contains(a netip.Addr) bool {
	return a.BitLen() == s.Start.BitLen() && s.Start.Compare(a) <= 0 && a.Compare(s.End) <= 0
}

// offsetOf is exact below the size of the bitmap, and not below it for addresses that the bitmap does not reach.
func (s *span) offsetOf(a netip.Addr) uint64 { return toU128(a).sub(s.first).saturate() }

func (s *span) addrAt(offset uint64) netip.Addr { return s.first.add(offset).addr(s.Start.Is4()) }

func (s *span) capacity() uint64 { return s.busy.size - s.excluded }

func (s *rangeSet) capacity() uint64 {
	sum := uint64(0)
	for i := range s.spans {
		sum += min(s.spans[i].capacity(), math.MaxUint64-sum)
	}
	return sum
}

func (s *rangeSet) String() string {
	var b strings.Builder
	for i := range s.spans {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s-%s", s.spans[i].Start, s.spans[i].End)
	}
	return b.String()
}

// blueprint is a validated PodConfig.
type blueprint struct {
	sets     []rangeSet
	excluded map[netip.Addr]string // inside of the ranges: why it is not for hand-out
	delay    time.Duration
}

func (c PodConfig) compile() (*blueprint, error) {
	v := faults{}
	b := &blueprint{delay: c.ReuseDelay, excluded: make(map[netip.Addr]string)}
	if n := len(c.RangeSets); n == 0 || n > MaxRangeSets {
		v.add("rangeSets", n, "want 1 to %d sets", MaxRangeSets)
	}
	if c.ReuseDelay < 0 {
		v.add("reuseDelay", c.ReuseDelay, "want 0 or more")
	}
	for i, a := range c.Reserved {
		if why := faultOfAddr(a); why != "" {
			v.add(fmt.Sprintf("reserved[%d]", i), a, "%s", why)
		}
	}
	var all []namedRange
	for i, ranges := range c.RangeSets {
		set := rangeSet{spans: make([]span, 0, len(ranges))}
		if len(ranges) == 0 {
			v.add(fmt.Sprintf("rangeSets[%d]", i), "[]", "want at least one range")
		}
		for j, r := range ranges {
			field := fmt.Sprintf("rangeSets[%d][%d]", i, j)
			r, ok := r.complete(field, &v)
			if !ok {
				continue
			}
			if first := ranges[0].Subnet.Addr(); first.IsValid() && first.Is4() != r.Subnet.Addr().Is4() {
				v.add(field+".subnet", r.Subnet, "want the family of rangeSets[%d][0]: a set holds one family", i)
			}
			all = append(all, namedRange{r, field})
			set.spans = append(set.spans, newSpan(r))
		}
		b.sets = append(b.sets, set)
	}
	for i, r := range all {
		for _, q := range all[:i] {
			if r.Start.Compare(q.End) <= 0 && q.Start.Compare(r.End) <= 0 {
				v.add(r.field, fmt.Sprintf("%s-%s", r.Start, r.End), "overlaps %s %s-%s", q.field, q.Start, q.End)
			}
		}
	}
	if v.err() != nil {
		return nil, v.err()
	}
	b.exclude(all, c.Reserved)
	for i := range b.sets {
		if b.sets[i].capacity() == 0 {
			v.add(fmt.Sprintf("rangeSets[%d]", i), b.sets[i].String(), "want an address that is neither gateway nor reserved")
		}
	}
	return b, v.err()
}

type namedRange struct {
	Range
	field string
}

// complete fills in the defaults of r and reports its faults.
func (r Range) complete(field string, v *faults) (Range, bool) {
	if why := faultOfPrefix(r.Subnet); why != "" {
		v.add(field+".subnet", r.Subnet, "%s", why)
		return r, false
	}
	// host-local refuses them too: with network, gateway and broadcast taken nothing is left.
	if most := r.Subnet.Addr().BitLen() - 2; r.Subnet.Bits() > most {
		v.add(field+".subnet", r.Subnet, "too small: want /%d or larger", most)
		return r, false
	}
	network, last := r.Subnet.Addr(), lastAddr(r.Subnet)
	if !r.Start.IsValid() {
		r.Start = network.Next()
	}
	if !r.Gateway.IsValid() {
		r.Gateway = network.Next()
	}
	if !r.End.IsValid() {
		r.End = last
		if last.Is4() {
			r.End = last.Prev()
		}
	}
	ok := true
	for _, a := range []struct {
		name string
		addr netip.Addr
	}{{".start", r.Start}, {".end", r.End}} {
		if !r.Subnet.Contains(a.addr) {
			v.add(field+a.name, a.addr, "want an address in %s", r.Subnet)
			ok = false
		}
	}
	if ok && r.Start.Compare(r.End) > 0 {
		v.add(field+".start", r.Start, "want no more than end %s", r.End)
		ok = false
	}
	linkLocal6 := r.Gateway.Is6() && !r.Gateway.Is4In6() && r.Gateway.Zone() == "" && r.Gateway.IsLinkLocalUnicast() && network.Is6()
	if !linkLocal6 && (!r.Subnet.Contains(r.Gateway) || r.Gateway == network || network.Is4() && r.Gateway == last) {
		v.add(field+".gateway", r.Gateway, "want a host address in %s", r.Subnet)
		ok = false
	}
	return r, ok
}

func newSpan(r Range) span {
	first := toU128(r.Start)
	size := min(toU128(r.End).sub(first).saturate(), maxIndex-1) + 1
	return span{Range: r, first: first, busy: newBitmap(size)}
}

// exclude marks what is not for hand-out: the network, broadcast and gateway addresses of all ranges, and the reserved ones.
func (b *blueprint) exclude(all []namedRange, reserved []netip.Addr) {
	for _, a := range reserved {
		b.excludeAddr(a, "is reserved")
	}
	for _, r := range all {
		b.excludeAddr(r.Gateway, "is a gateway")
		b.excludeAddr(r.Subnet.Addr(), "is a network address")
		if r.Subnet.Addr().Is4() {
			b.excludeAddr(lastAddr(r.Subnet), "is a broadcast address")
		}
	}
	for i := range b.sets {
		for j := range b.sets[i].spans {
			s := &b.sets[i].spans[j]
			s.excluded = s.busy.used
		}
	}
}

func (b *blueprint) excludeAddr(a netip.Addr, why string) {
	if _, s := b.locate(a); s != nil {
		b.excluded[a] = why
		if n := s.offsetOf(a); n < s.busy.size {
			s.busy.set(n)
		}
	}
}

// locate finds the range that holds an address, and its set; nil if there is none.
func (b *blueprint) locate(a netip.Addr) (set int, s *span) {
	for i := range b.sets {
		for j := range b.sets[i].spans {
			if s := &b.sets[i].spans[j]; s.contains(a) {
				return i, s
			}
		}
	}
	return -1, nil
}

// faults collects ConfigErrors.
type faults struct{ list []error }

func (v *faults) add(field string, value any, format string, args ...any) {
	v.list = append(v.list, &ConfigError{field, fmt.Sprint(value), fmt.Sprintf(format, args...)})
}

func (v *faults) err() error { return errors.Join(v.list...) }
