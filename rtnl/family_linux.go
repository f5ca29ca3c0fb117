package rtnl

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// addressFamily returns AF_INET, AF_INET6 or AF_UNSPEC.
func addressFamily(f Family) uint8 {
	switch f {
	case IPv4:
		return unix.AF_INET
	case IPv6:
		return unix.AF_INET6
	}
	return unix.AF_UNSPEC
}

// makePrefix returns the prefix of an address of the family, or of its unspecified address if there is none (a default route).
func makePrefix(address []byte, bits, family uint8) (netip.Prefix, bool) {
	var ip netip.Addr
	switch family {
	case unix.AF_INET:
		ip = netip.IPv4Unspecified()
	case unix.AF_INET6:
		ip = netip.IPv6Unspecified()
	default:
		return netip.Prefix{}, false
	}
	if address != nil {
		if len(address)*8 != ip.BitLen() {
			return netip.Prefix{}, false
		}
		ip, _ = netip.AddrFromSlice(address)
	}
	p := netip.PrefixFrom(ip, int(bits))
	return p, p.IsValid()
}
