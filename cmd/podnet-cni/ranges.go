package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/internal/subnetenv"
)

// rangeSet is a set of ranges of one family. A pod gets one address from it.
type rangeSet struct {
	ranges  []addrRange
	request netip.Addr // the address that this call asks for; invalid: any
}

// addrRange is part of a subnet.
type addrRange struct {
	subnet           netip.Prefix
	start, end       netip.Addr // inclusive
	gateway          netip.Addr
	startSet, endSet bool // stands in the configuration
}

func (r addrRange) contains(ip netip.Addr) bool {
	return r.subnet.Contains(ip) && !ip.Less(r.start) && !r.end.Less(ip)
}

func (s rangeSet) contains(ip netip.Addr) bool {
	for _, r := range s.ranges {
		if r.contains(ip) {
			return true
		}
	}
	return false
}

// overlap returns the pair of ranges that share an address, if one does.
func overlap(a, b rangeSet) (addrRange, addrRange, bool) {
	for _, ra := range a.ranges {
		for _, rb := range b.ranges {
			if ra.contains(rb.start) || rb.contains(ra.start) {
				return ra, rb, true
			}
		}
	}
	return addrRange{}, addrRange{}, false
}

// rangeSets returns the ranges of the configuration in host-local's order: those of the runtime, the legacy one, the others, and then those of the
// subnet file.
func (j confJSON) rangeSets(subnets subnetenv.Env) ([]rangeSet, error) {
	type source struct {
		field string
		set   []rangeJSON
	}
	var sources []source
	for i, s := range j.RuntimeConfig.IPRanges {
		sources = append(sources, source{fmt.Sprintf("runtimeConfig.ipRanges[%d]", i), s})
	}
	if j.IPAM.rangeJSON != (rangeJSON{}) {
		sources = append(sources, source{"ipam", []rangeJSON{j.IPAM.rangeJSON}})
	}
	for i, s := range j.IPAM.Ranges {
		sources = append(sources, source{fmt.Sprintf("ipam.ranges[%d]", i), s})
	}
	if len(subnets.Subnets) > 0 && len(sources) > 0 {
		return nil, fmt.Errorf("%s: is given beside subnetFile: want one of them", sources[0].field)
	}
	for _, p := range subnets.Subnets {
		r := rangeJSON{Subnet: p.Masked().String()}
		if p != p.Masked() {
			r.Gateway = p.Addr().String()
		}
		sources = append(sources, source{"subnetFile", []rangeJSON{r}})
	}
	if len(sources) == 0 {
		return nil, errors.New("ipam.ranges: no range: want at least one, or subnetFile (attachments without an address are not supported)")
	}
	var sets []rangeSet
	var faults []error
	for _, s := range sources {
		set, err := newRangeSet(s.field, s.set)
		sets = append(sets, set)
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	for i, a := range sets {
		for k, b := range sets[:i] {
			if ra, rb, yes := overlap(a, b); yes {
				faults = append(faults, fmt.Errorf("%s %s: overlaps with %s %s", sources[i].field, ra.subnet, sources[k].field, rb.subnet))
			}
		}
	}
	return sets, errors.Join(faults...)
}

func newRangeSet(field string, set []rangeJSON) (rangeSet, error) {
	if len(set) == 0 {
		return rangeSet{}, fmt.Errorf("%s: an empty range set: want at least one range", field)
	}
	var out rangeSet
	var faults []error
	for i, j := range set {
		f := field
		if field != "ipam" && field != "subnetFile" {
			f = fmt.Sprintf("%s[%d]", field, i)
		}
		r, err := newRange(f, j)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if len(out.ranges) > 0 && out.ranges[0].subnet.Addr().Is4() != r.subnet.Addr().Is4() {
			faults = append(faults, fmt.Errorf("%s.subnet %s: is of another family than %s: want one family in a range set", f, r.subnet, out.ranges[0].subnet))
			continue
		}
		if _, other, yes := overlap(rangeSet{ranges: []addrRange{r}}, out); yes {
			faults = append(faults, fmt.Errorf("%s.subnet %s: overlaps with %s of the same range set", f, r.subnet, other.subnet))
			continue
		}
		out.ranges = append(out.ranges, r)
	}
	return out, errors.Join(faults...)
}

// newRange fills in what host-local would: the first address as gateway, the whole subnet but network and broadcast address as range.
func newRange(field string, j rangeJSON) (addrRange, error) {
	subnet, err := parseCIDR(field+".subnet", j.Subnet)
	if err != nil {
		return addrRange{}, err
	}
	if free := subnet.Addr().BitLen() - subnet.Bits(); free < 2 {
		return addrRange{}, fmt.Errorf("%s.subnet %s: too small: want a prefix length of at most %d", field, subnet, subnet.Addr().BitLen()-2)
	}
	r := addrRange{subnet: subnet, gateway: subnet.Addr().Next(), start: subnet.Addr().Next(), end: lastAddr(subnet)}
	var faults []error
	for _, f := range []struct {
		key, value string
		to         *netip.Addr
		set        *bool
	}{{"rangeStart", j.RangeStart, &r.start, &r.startSet}, {"rangeEnd", j.RangeEnd, &r.end, &r.endSet}, {"gateway", j.Gateway, &r.gateway, new(bool)}} {
		if f.value == "" {
			continue
		}
		ip, err := parseIP(f.value)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s.%s: %w", field, f.key, err))
		case !subnet.Contains(ip):
			faults = append(faults, fmt.Errorf("%s.%s %s: want an address in %s", field, f.key, ip, subnet))
		default:
			*f.to, *f.set = ip, true
		}
	}
	if len(faults) == 0 && r.end.Less(r.start) {
		faults = append(faults, fmt.Errorf("%s.rangeStart %s: lies behind rangeEnd %s", field, r.start, r.end))
	}
	return r, errors.Join(faults...)
}

// lastAddr returns the last address that a pod can have: not the broadcast address of IPv4.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	if last.Is4() {
		last = last.Prev()
	}
	return last
}

// assignRequests gives each requested address to the range set that holds it.
func assignRequests(sets []rangeSet, requests []netip.Addr) error {
	var faults []error
next:
	for _, ip := range requests {
		held := false
		for i := range sets {
			if !sets[i].contains(ip) {
				continue
			}
			held = true
			if !sets[i].request.IsValid() {
				sets[i].request = ip
				continue next
			}
		}
		if held {
			faults = append(faults, fmt.Errorf("requested ip %s: a second one of the same range set: want one per set", ip))
		} else {
			faults = append(faults, fmt.Errorf("requested ip %s: is in none of the ranges", ip))
		}
	}
	return errors.Join(faults...)
}

// parseCIDR parses a network and refuses those that no pod network can be.
func parseCIDR(field, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%s %q: want a CIDR such as 10.244.1.0/24 or fd00:244:0:1::/64", field, s)
	}
	var reason string
	switch a := p.Addr(); {
	case a.Is4In6():
		reason = "is an IPv4-mapped IPv6 network: want plain IPv4 or IPv6"
	case p.Bits() == 0:
		reason = "covers every address: want a prefix length of 1 or more"
	case a.IsMulticast():
		reason = "is multicast: want unicast addresses"
	case a.IsLoopback():
		reason = "is loopback: want addresses of a network"
	case a.IsLinkLocalUnicast():
		reason = "is link-local: want routable addresses"
	case p != p.Masked():
		reason = fmt.Sprintf("has host bits set: want %s", p.Masked())
	default:
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("%s %s: %s", field, s, reason)
}
