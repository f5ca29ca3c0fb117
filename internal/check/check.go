// Package check says what is wrong with a value from a user, before the kernel sees it. Every function returns nil or
// an error that begins with the value and tells what is allowed; the caller puts the field's name before it.
package check

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

// Device checks a network device's name (dev_valid_name in the kernel). The kernel takes '%' as a format ("eth%d" becomes eth0), so that is refused too.
func Device(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == '/' || r == ':' || r == '%'
	}) {
		return fmt.Errorf("%q: want a device name of 1 to 15 bytes without space, '/', ':', '%%' or control bytes", name)
	}
	return nil
}

// MTU checks a device's MTU; 0 is allowed and means the kernel's default. IPv6 needs 1280 bytes (RFC 8200 section 5).
func MTU(mtu int, ipv6 bool) error {
	switch {
	case mtu == 0:
		return nil
	case mtu < 68 || mtu > 65535:
		return fmt.Errorf("%d: want 68 to 65535, or 0 for the kernel's default", mtu)
	case ipv6 && mtu < 1280:
		return fmt.Errorf("%d: want at least 1280, which IPv6 needs, or no IPv6 addresses", mtu)
	}
	return nil
}

// MAC checks a device's own MAC address; the zero MAC is allowed and means that podnet chooses one.
func MAC(mac rtnl.MAC) error {
	if mac.IsMulticast() {
		return fmt.Errorf("%s: want a unicast address (the lowest bit of the first octet is 0)", mac)
	}
	return nil
}

// InterfaceAddr checks the address of an interface with the length of its subnet.
func InterfaceAddr(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return errors.New("is missing: want an address with its prefix length, such as 10.244.1.1/24")
	case a.Is4In6():
		return fmt.Errorf("%s: want plain IPv4, not IPv4 in IPv6", p)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s: want a unicast address, not unspecified, loopback, link-local, multicast or broadcast", p)
	case p.Bits() == 0:
		return fmt.Errorf("%s: want a subnet, not the whole address space", p)
	case a.BitLen()-p.Bits() < 2: // /31, /32, /127, /128: every address is a host (RFC 3021, RFC 6164)
		return nil
	case a == p.Masked().Addr():
		return fmt.Errorf("%s: want an address of a host, not the subnet's own address", p)
	case a.Is4() && a == broadcast(p):
		return fmt.Errorf("%s: want an address of a host, not the subnet's broadcast address", p)
	}
	return nil
}

// broadcast returns the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
