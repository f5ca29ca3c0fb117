package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/service"
)

// svc is what is programmed for a Service. It does not change once it is made.
type svc struct {
	prog  service.Program
	ports []port // as prog.Ports
}

// port is what is programmed for one port in one family.
type port struct {
	prog    *service.PortProgram
	id      uint32
	classes []*classState // of the frontends

	// cluster and local are the indices of the endpoints prog.Cluster and prog.Local: all numbers below the length of the list, in some order. An endpoint keeps its index as long as
	// that is possible.
	cluster, local []uint32
}

// assign gives indices to endpoints: those that were there before keep theirs if it is below the new length, the others fill the gaps. Both lists are sorted.
func assign(old []service.Backend, index []uint32, list []service.Backend) []uint32 {
	n := len(list)
	if n == len(old) && slices.EqualFunc(old, list, func(a, b service.Backend) bool { return a.Addr == b.Addr }) {
		return index
	}
	const none = ^uint32(0)
	out := make([]uint32, n)
	used := make([]bool, n)
	i := 0
	for j := range list {
		out[j] = none
		for i < len(old) && old[i].Addr.Compare(list[j].Addr) < 0 {
			i++
		}
		if i < len(old) && old[i].Addr == list[j].Addr && index[i] < uint32(n) {
			out[j] = index[i]
			used[index[i]] = true
		}
	}
	next := 0
	for j := range out {
		if out[j] != none {
			continue
		}
		for used[next] {
			next++
		}
		out[j] = uint32(next)
		next++
	}
	return out
}

// check says why a program cannot be put into sets.
func check(p service.Program) error {
	for i := range p.Ports {
		port := &p.Ports[i]
		if err := checkPort(port); err != nil {
			return fmt.Errorf("port %q, %s, %s: %w", port.Port, port.Protocol, port.Family, err)
		}
		for j := range p.Ports[:i] {
			if o := &p.Ports[j]; o.Port == port.Port && o.Protocol == port.Protocol && o.Family == port.Family {
				return fmt.Errorf("port %q, %s, %s stands there twice", port.Port, port.Protocol, port.Family)
			}
		}
	}
	return nil
}

func checkPort(p *service.PortProgram) error {
	if p.Family != service.IPv4 && p.Family != service.IPv6 {
		return fmt.Errorf("unknown family")
	}
	if p.Protocol != service.TCP && p.Protocol != service.UDP && p.Protocol != service.SCTP {
		return fmt.Errorf("unknown protocol")
	}
	if p.Affinity < 0 || p.Affinity%time.Second != 0 {
		return fmt.Errorf("affinity %s: want whole seconds", p.Affinity)
	}
	for _, x := range p.Frontends {
		if x.Port == 0 || x.Kind != service.NodePort && !fits(x.Addr, p.Family) {
			return fmt.Errorf("frontend %s: want an address of the family and a port", x)
		}
	}
	for _, list := range [][]service.Backend{p.Cluster, p.Local} {
		for i, b := range list {
			if b.Addr.Port() == 0 || !fits(b.Addr.Addr(), p.Family) {
				return fmt.Errorf("endpoint %s: want an address of the family and a port", b.Addr)
			}
			if i > 0 && list[i-1].Addr.Compare(b.Addr) >= 0 {
				return fmt.Errorf("endpoint %s: want each once, sorted", b.Addr)
			}
		}
	}
	for _, r := range p.SourceRanges {
		if !r.IsValid() || !fits(r.Addr(), p.Family) {
			return fmt.Errorf("source range %s: want a range of the family", r)
		}
	}
	return nil
}

func fits(a netip.Addr, f service.Family) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && service.FamilyOf(a) == f
}
