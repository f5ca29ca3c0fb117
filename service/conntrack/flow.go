package conntrack

import (
	"fmt"
	"net/netip"
)

// Family is an IP family, by its number.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

func families() [2]Family { return [2]Family{IPv4, IPv6} }

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Flow is a UDP flow that the kernel tracks. It is comparable.
type Flow struct {
	Src, Dst netip.AddrPort // of the first packet, as the client sent it

	// ReplySrc and ReplyDst are of the packets that come back. ReplySrc is Dst unless the destination was translated: then it is the endpoint.
	ReplySrc, ReplyDst netip.AddrPort

	// ID is the kernel's id of this very flow: another flow with the same addresses and ports has another one.
	ID uint32
}

// String returns the flow as conntrack(8) does, such as "udp src=10.244.1.2 dst=10.96.0.10 sport=5353 dport=53 src=10.244.2.3 dst=10.244.1.2 sport=53 dport=5353".
func (f Flow) String() string {
	return "udp " + direction(f.Src, f.Dst) + " " + direction(f.ReplySrc, f.ReplyDst)
}

func direction(src, dst netip.AddrPort) string {
	return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", src.Addr(), dst.Addr(), src.Port(), dst.Port())
}

// Filter says which flows a kernel is asked for: those of one family whose original destination is Dst and Port.
type Filter struct {
	Family Family
	Dst    netip.Addr // the zero Addr is any
	Port   uint16     // 0 is any
}

// Match reports whether the filter lets a flow through.
func (f Filter) Match(flow *Flow) bool {
	return familyOf(flow.Dst.Addr()) == f.Family && (!f.Dst.IsValid() || f.Dst == flow.Dst.Addr()) && (f.Port == 0 || f.Port == flow.Dst.Port())
}
