package flowtable

import (
	"encoding/json"
	"net/netip"
	"strings"
)

// twin returns a table's IPv6 twin: every IPv4 address, range and endpoint in it as one of IPv6.
func twin(text []byte) ([]byte, error) {
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	return json.Marshal(toIPv6(tree))
}

func toIPv6(tree any) any {
	switch v := tree.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = toIPv6(x)
		}
	case []any:
		for i, x := range v {
			v[i] = toIPv6(x)
		}
	case string:
		return stringToIPv6(v)
	}
	return tree
}

func stringToIPv6(s string) string {
	trimmed := strings.TrimSpace(s)
	space := strings.Repeat(" ", len(s)-len(trimmed))
	if s == "IPv4" {
		return "IPv6"
	}
	if a, err := netip.ParseAddr(trimmed); err == nil && a.Is4() {
		return space + six(a).String()
	}
	if p, err := netip.ParsePrefix(trimmed); err == nil && p.Addr().Is4() {
		if p.Bits() == 0 {
			return space + "::/0"
		}
		return space + netip.PrefixFrom(six(p.Addr()), p.Bits()+96).String()
	}
	if a, err := netip.ParseAddrPort(trimmed); err == nil && a.Addr().Is4() {
		return space + netip.AddrPortFrom(six(a.Addr()), a.Port()).String()
	}
	return s
}

// six keeps what is special special: a twin of loopback is loopback.
func six(a netip.Addr) netip.Addr {
	if a.IsLoopback() {
		return netip.IPv6Loopback()
	}
	six := netip.MustParseAddr("2001:db8:64::").As16()
	four := a.As4()
	copy(six[12:], four[:])
	return netip.AddrFrom16(six)
}
