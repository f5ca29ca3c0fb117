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

// Protocol is an IP protocol, by its number (IANA).
type Protocol uint8

// The protocols of Services.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name as conntrack(8) writes it, such as "udp".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

func protocols() [3]Protocol { return [3]Protocol{UDP, TCP, SCTP} }

// Flow is a flow that the kernel tracks. It is comparable.
type Flow struct {
	Protocol Protocol

	Src, Dst netip.AddrPort // of the first packet, as the client sent it

	// ReplySrc and ReplyDst are of the packets that come back. ReplySrc is Dst unless the destination was translated: then it is the endpoint.
	ReplySrc, ReplyDst netip.AddrPort

	Replied bool // a packet came back

	// ID is the kernel's id of this very flow: another flow with the same addresses and ports has another one.
	ID uint32
}

// String returns the flow as conntrack(8) does, such as "udp src=10.244.1.2 dst=10.96.0.10 sport=5353 dport=53 src=10.244.2.3 dst=10.244.1.2 sport=53 dport=5353".
func (f Flow) String() string {
	return f.Protocol.String() + " " + direction(f.Src, f.Dst) + " " + direction(f.ReplySrc, f.ReplyDst)
}

func direction(src, dst netip.AddrPort) string {
	return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", src.Addr(), dst.Addr(), src.Port(), dst.Port())
}

// Filter says which flows a kernel is asked for: those of one family and protocol whose original destination is Dst and Port.
type Filter struct {
	Family   Family
	Protocol Protocol
	Dst      netip.Addr // the zero Addr is any
	Port     uint16     // 0 is any
}

// Match reports whether the filter lets a flow through.
func (f Filter) Match(flow *Flow) bool {
	return flow.Protocol == f.Protocol && familyOf(flow.Dst.Addr()) == f.Family && (!f.Dst.IsValid() || f.Dst == flow.Dst.Addr()) && (f.Port == 0 || f.Port == flow.Dst.Port())
}
