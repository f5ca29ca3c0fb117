package proxyconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parseAddr reads an address as kube-proxy does: leading zeros in IPv4 count for nothing (010.0.0.1 is 10.0.0.1), and IPv4 in IPv6 is IPv4.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(trimZeros(s)))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errors.New("want an IP address")
	}
	return a.Unmap(), nil
}

// parsePrefix reads a CIDR. Host bits count for nothing, as in kube-proxy.
func parsePrefix(s string) (netip.Prefix, error) {
	address, bits, ok := strings.Cut(strings.TrimSpace(s), "/")
	a, err := netip.ParseAddr(trimZeros(address))
	n, err2 := strconv.ParseUint(bits, 10, 8)
	if !ok || err != nil || err2 != nil || a.Zone() != "" || a.Is4In6() || int(n) > a.BitLen() {
		return netip.Prefix{}, errors.New("want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56")
	}
	return netip.PrefixFrom(a, int(n)).Masked(), nil
}

// trimZeros removes leading zeros of the numbers of an IPv4 address.
func trimZeros(s string) string {
	if strings.Contains(s, ":") {
		return s
	}
	parts := strings.Split(s, ".")
	for i, p := range parts {
		if t := strings.TrimLeft(p, "0"); t != p {
			if t == "" {
				t = "0"
			}
			parts[i] = t
		}
	}
	return strings.Join(parts, ".")
}

// parseListen reads address:port of a server.
func parseListen(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	i := strings.LastIndex(s, ":")
	if i < 0 {
		return netip.AddrPort{}, errListen
	}
	a, err := parseAddr(strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]"))
	if err != nil {
		return netip.AddrPort{}, errListen
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 {
		return netip.AddrPort{}, fmt.Errorf("port %q: want 1 to 65535", s[i+1:])
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}

var errListen = errors.New("want IP:port such as 0.0.0.0:10256, [::]:10256 or 127.0.0.1:10249")
