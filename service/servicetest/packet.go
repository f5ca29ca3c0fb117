package servicetest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/service"
)

// Machine is a node and what only its kernel knows.
type Machine struct {
	service.Node

	// Local are the addresses that the kernel has on its devices, without loopback: NodePorts listen there, and packets from there are the host's own.
	Local []netip.Addr
}

// Packet is the first packet of a connection.
type Packet struct {
	From     netip.Addr
	To       netip.Addr
	Port     uint16 // of To
	Protocol service.Protocol
	In       string // the device it comes in from; "" for one that the node itself sends, or where it does not matter
}

// String returns the packet as "TCP 10.0.0.1 -> 10.96.0.1:80", with the device if there is one.
func (p Packet) String() string {
	s := fmt.Sprintf("%s %s -> %s", p.Protocol, p.From, netip.AddrPortFrom(p.To, p.Port))
	if p.In != "" {
		s += " in " + p.In
	}
	return s
}

// Outcome is what became of a packet.
type Outcome uint8

// The outcomes.
const (
	Pass     Outcome = iota // it goes on as it came: no Service's business
	Forwards                // it goes to an endpoint
	Rejects                 // it is answered with ICMP port unreachable
	Drops                   // it is dropped
)

// Target is an endpoint to which a packet may go.
type Target struct {
	Addr       netip.AddrPort
	Masquerade bool // with the node's address as its source

	// Stays says that a real packet was seen to arrive at the node itself. It never leaves, so its source is not translated, whatever the rules say. It is not part of the string.
	Stays bool
}

// Verdict is what becomes of a packet. Two verdicts are the same if their strings are.
type Verdict struct {
	Outcome  Outcome
	Targets  []Target      // all that it may go to; only if it Forwards
	Affinity time.Duration // for how long its client stays with the one it gets; 0 is not
}

// String returns "pass", "REJECT", "DROP" or the endpoints, sorted and each once: "10.0.0.1:80 10.0.0.2:80(masquerade) affinity 3h0m0s". The affinity to a single endpoint
// means nothing and is left out.
func (v Verdict) String() string {
	switch v.Outcome {
	case Pass:
		return "pass"
	case Rejects:
		return "REJECT"
	case Drops:
		return "DROP"
	}
	targets := slices.Clone(v.Targets)
	slices.SortFunc(targets, func(a, b Target) int {
		if c := a.Addr.Compare(b.Addr); c != 0 || a.Masquerade == b.Masquerade {
			return c
		} else if b.Masquerade {
			return -1
		}
		return 1
	})
	targets = slices.Compact(targets)
	var b strings.Builder
	for i, t := range targets {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t.Addr.String())
		if t.Masquerade {
			b.WriteString("(masquerade)")
		}
	}
	if len(targets) == 0 {
		b.WriteString("to no endpoint")
	}
	if v.Affinity > 0 && len(targets) > 1 {
		fmt.Fprintf(&b, " affinity %s", v.Affinity)
	}
	return b.String()
}

// Walker sends packets through a state.
type Walker interface {
	// Lookup says what becomes of a packet. It visits every endpoint that chance could choose. An error is a state that the walk does not understand.
	Lookup(Packet) (Verdict, error)
}

// Subject is a dataplane that can be asked. The fake Dataplane is one; a real dataplane over a fake kernel becomes one in a test.
type Subject interface {
	service.Dataplane
	Walker

	// SetMachine tells the kernel's addresses. It is called before the first Apply, and before an Apply if they changed.
	SetMachine(Machine)
}
