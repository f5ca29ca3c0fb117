package ipam

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// maxIndex bounds how far into a range automatic allocation goes: 1<<62 addresses or blocks are more than any bitmap here will see, and
// sums of a few of them do not overflow.
const maxIndex = 1 << 62

// u128 is an address as a number.
type u128 struct{ hi, lo uint64 }

func toU128(a netip.Addr) u128 {
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (u u128) addr(is4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], u.hi)
	binary.BigEndian.PutUint64(b[8:], u.lo)
	a := netip.AddrFrom16(b)
	if is4 {
		return a.Unmap()
	}
	return a
}

func (u u128) add(n uint64) u128 {
	lo := u.lo + n
	if lo < u.lo {
		u.hi++
	}
	return u128{u.hi, lo}
}

func (u u128) sub(v u128) u128 {
	hi := u.hi - v.hi
	if u.lo < v.lo {
		hi--
	}
	return u128{hi, u.lo - v.lo}
}

// shl and shr shift by 0 to 127.
func (u u128) shl(n int) u128 {
	if n >= 64 {
		return u128{u.lo << (n - 64), 0}
	}
	return u128{u.hi<<n | u.lo>>(64-n), u.lo << n} // a shift by 64 is 0 in Go
}

func (u u128) shr(n int) u128 {
	if n >= 64 {
		return u128{0, u.hi >> (n - 64)}
	}
	return u128{u.hi >> n, u.lo>>n | u.hi<<(64-n)}
}

// saturate returns the number, or MaxUint64 if it is larger.
func (u u128) saturate() uint64 {
	if u.hi != 0 {
		return math.MaxUint64
	}
	return u.lo
}

// lastAddr returns the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		switch keep := p.Bits() - 8*i; {
		case keep <= 0:
			b[i] = 0xff
		case keep < 8:
			b[i] |= 0xff >> keep
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// faultOfPrefix says what is wrong with a prefix that pods or nodes should get addresses from, "" if nothing is.
func faultOfPrefix(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return "want a CIDR"
	case a.Is4In6():
		return "want plain IPv4, not IPv4 inside of IPv6"
	case p != p.Masked():
		return "has host bits: want " + p.Masked().String()
	case p.Bits() == 0:
		return "want less than the whole address space"
	}
	return faultOfNet(p)
}

// special are the networks that hold no pod.
var special = [...]struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/127"), "loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4 inside of IPv6"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

func faultOfNet(p netip.Prefix) string {
	for _, s := range special {
		if s.prefix.Overlaps(p) {
			return "want unicast addresses: overlaps " + s.name + " " + s.prefix.String()
		}
	}
	return ""
}

// faultOfAddr says what is wrong with an address that a pod should get, "" if nothing is.
func faultOfAddr(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "want an address"
	case a.Is4In6():
		return "want plain IPv4, not IPv4 inside of IPv6"
	case a.Zone() != "":
		return "want no zone"
	}
	return faultOfNet(netip.PrefixFrom(a, a.BitLen()))
}
