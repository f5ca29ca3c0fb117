package rtnl

import (
	"fmt"
	"net"
)

// MAC is a 48-bit Ethernet address. It is comparable; the zero MAC means "none".
type MAC [6]byte

// ParseMAC parses six colon- or dash-separated octets ("0a:58:0a:f4:00:01").
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("mac %q: want six octets such as 0a:58:0a:f4:00:01", s)
	}
	return MAC(hw), nil
}

// String returns the address in lower case with colons, or "" for the zero MAC.
func (m MAC) String() string {
	if m.IsZero() {
		return ""
	}
	return net.HardwareAddr(m[:]).String()
}

// IsZero reports whether m is the zero MAC.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsMulticast reports whether the group bit is set (IEEE 802.3 section 3.2.3); a
// station never owns such an address.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text gives the zero MAC.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	parsed, err := ParseMAC(string(text))
	if err != nil {
		return err
	}
	*m = parsed
	return nil
}
