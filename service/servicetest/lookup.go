package servicetest

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// place is where a frontend is; NodePorts have no address.
type place struct {
	addr     netip.Addr
	port     uint16
	protocol service.Protocol
	family   service.Family
}

// hit is a frontend with its port.
type hit struct {
	port     *service.PortProgram
	frontend *service.Frontend
}

// Programs answers for a set of programs: what a dataplane that has them must do with a packet. Make one with NewPrograms.
type Programs struct {
	machine    Machine
	frontends  map[place]hit
	clusterIPs map[netip.Addr]bool
}

// NewPrograms returns the walk over programs. Of two frontends on one place the first counts, which service.Tracker never makes.
func NewPrograms(m Machine, programs []service.Program) *Programs {
	w := &Programs{machine: m, frontends: map[place]hit{}, clusterIPs: map[netip.Addr]bool{}}
	for i := range programs {
		for j := range programs[i].Ports {
			port := &programs[i].Ports[j]
			for k := range port.Frontends {
				f := &port.Frontends[k]
				at := place{f.Addr, f.Port, port.Protocol, port.Family}
				if _, there := w.frontends[at]; !there {
					w.frontends[at] = hit{port, f}
				}
				if f.Kind == service.ClusterIP {
					w.clusterIPs[f.Addr] = true
				}
			}
		}
	}
	return w
}

// Lookup sends one packet through programs. Use Programs for many.
func Lookup(m Machine, programs []service.Program, p Packet) Verdict {
	v, _ := NewPrograms(m, programs).Lookup(p)
	return v
}

// Lookup says what becomes of a packet. The error is always nil.
func (w *Programs) Lookup(p Packet) (Verdict, error) {
	family := service.FamilyOf(p.To)
	h, ok := w.frontends[place{p.To, p.Port, p.Protocol, family}]
	if !ok && w.machine.takesNodePorts(p.To) {
		h, ok = w.frontends[place{netip.Addr{}, p.Port, p.Protocol, family}]
	}
	switch {
	case ok:
		return h.verdict(w.machine, p), nil
	case w.clusterIPs[p.To]:
		return Verdict{Outcome: Rejects}, nil // nobody listens on that port (as kube-proxy's nftables mode, #72236)
	case within(w.machine.ServiceCIDRs, p.To):
		return Verdict{Outcome: Drops}, nil
	}
	return Verdict{}, nil
}

func (h hit) verdict(m Machine, p Packet) Verdict {
	if h.frontend.Restricted && !within(h.port.SourceRanges, p.From) {
		return Verdict{Outcome: Drops}
	}
	route := h.frontend.Remote
	switch {
	case m.fromPod(p):
		route = h.frontend.Pod
	case m.fromHost(p):
		route = h.frontend.Host
	}
	backends := h.port.Cluster
	switch route.Action {
	case service.Reject:
		return Verdict{Outcome: Rejects}
	case service.Drop:
		return Verdict{Outcome: Drops}
	case service.ToLocal:
		backends = h.port.Local
	}
	v := Verdict{Outcome: Forwards, Affinity: h.port.Affinity}
	for _, b := range backends {
		hairpin := b.Local && b.Addr.Addr() == p.From
		v.Targets = append(v.Targets, Target{Addr: b.Addr, Masquerade: route.Masquerade || hairpin})
	}
	return v
}

// takesNodePorts reports whether NodePorts listen on an address. Loopback never does: a packet from 127.0.0.1 cannot leave the node.
func (m Machine) takesNodePorts(a netip.Addr) bool {
	return slices.Contains(m.Local, a) && !a.IsLoopback() && (len(m.NodePortAddrs) == 0 || within(m.NodePortAddrs, a))
}

// fromPod reports whether a packet counts as one of a pod of this node. It is asked before fromHost, as kube-proxy does: the bridge's own address counts as a pod's.
func (m Machine) fromPod(p Packet) bool {
	l := m.LocalPods
	switch {
	case len(l.CIDRs) > 0:
		return within(l.CIDRs, p.From)
	case l.Interface != "":
		return p.In == l.Interface
	case l.InterfacePrefix != "":
		return strings.HasPrefix(p.In, l.InterfacePrefix)
	}
	return false
}

func (m Machine) fromHost(p Packet) bool {
	return slices.Contains(m.Local, p.From) || p.From.IsLoopback()
}

func within(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}
