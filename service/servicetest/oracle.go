package servicetest

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/service"
)

// World is a whole desired state on one node.
type World struct {
	service.Config
	Local []netip.Addr // as in Machine
}

// Machine returns the node of the world.
func (w World) Machine() Machine { return Machine{w.Node, w.Local} }

// Lookup says what must become of a packet: an oracle, slow and simple, written from the text of the rules (docs/services.md) for one packet at a time.
// It shares no code with the plan of package service, and must not.
func (w World) Lookup(p Packet) (Verdict, error) {
	family := service.FamilyOf(p.To)
	found := w.claimants(p, family)
	if len(found) == 0 {
		return w.guard(p.To), nil
	}
	c := slices.MinFunc(found, claimant.compare)
	return w.answer(p, c, family), nil
}

// claimant is a Service's port that a packet's destination belongs to.
type claimant struct {
	service service.Service
	port    service.Port
	rank    int // 0 ClusterIP, 1 load balancer IP, 2 external IP, 3 NodePort
}

// compare: whoever has the ClusterIP, then whoever is older, then by name; an address goes before a NodePort, and within one Service a load balancer's before an external one.
func (a claimant) compare(b claimant) int {
	group := []int{0, 1, 1, 2}
	if c := group[a.rank] - group[b.rank]; c != 0 {
		return c
	}
	if a.service.Created != b.service.Created {
		if a.service.Created < b.service.Created {
			return -1
		}
		return 1
	}
	if c := strings.Compare(a.service.Name.Namespace, b.service.Name.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(a.service.Name.Name, b.service.Name.Name); c != 0 {
		return c
	}
	return a.rank - b.rank
}

func (w World) claimants(p Packet, family service.Family) []claimant {
	var found []claimant
	for _, s := range w.Services {
		mine, ok := clusterIP(s, family)
		if !ok {
			continue // nothing at all in this family
		}
		for _, port := range sound(s.Ports) {
			if port.Protocol != p.Protocol {
				continue
			}
			rank := -1
			switch {
			case port.Port == p.Port && p.To == mine:
				rank = 0
			case port.Port == p.Port && slices.Contains(s.LoadBalancerIPs, p.To) && w.mayBalance(p.To):
				rank = 1
			case port.Port == p.Port && slices.Contains(s.ExternalIPs, p.To) && w.mayBeExternal(p.To):
				rank = 2
			case port.NodePort != 0 && port.NodePort == p.Port && w.listens(p.To):
				rank = 3
			}
			if rank >= 0 {
				found = append(found, claimant{s, port, rank})
			}
		}
	}
	return found
}

// guard is for what no Service has: a wrong port of a ClusterIP is refused, an address that could be a ClusterIP is dropped.
func (w World) guard(to netip.Addr) Verdict {
	for _, s := range w.Services {
		if ip, ok := clusterIP(s, service.FamilyOf(to)); ok && ip == to && len(sound(s.Ports)) > 0 {
			return Verdict{Outcome: Rejects}
		}
	}
	if within(w.Node.ServiceCIDRs, to) {
		return Verdict{Outcome: Drops}
	}
	return Verdict{}
}

// answer follows the rules of the traffic policies and of masquerading.
func (w World) answer(p Packet, c claimant, family service.Family) Verdict {
	s, external := c.service, c.rank > 0
	if c.rank == 1 && w.blocked(s, p.From, family) {
		return Verdict{Outcome: Drops}
	}
	eps := w.endpoints(s.Name, c.port, family)
	all, here, anywhere := w.usable(eps)
	if !anywhere {
		return Verdict{Outcome: Rejects}
	}
	detects := w.detects(family)
	pod := detects && w.Machine().fromPod(p)
	host := !pod && w.Machine().fromHost(p)

	local := s.InternalPolicy == service.Local
	masquerade := w.Node.MasqueradeAll || detects && !pod
	if external {
		short := pod || host // the short way to all endpoints
		local = s.ExternalPolicy == service.Local && !short
		masquerade = s.ExternalPolicy == service.Cluster || host
	}
	to := all
	if local {
		to = here
	}
	if len(to) == 0 {
		return Verdict{Outcome: Drops}
	}
	v := Verdict{Outcome: Forwards, Affinity: min(max(s.Affinity.Round(time.Second), 0), 24*time.Hour)}
	for _, e := range to {
		self := e.Addr == p.From && w.isHere(e.Endpoint)
		v.Targets = append(v.Targets, Target{Addr: netip.AddrPortFrom(e.Addr, e.port), Masquerade: masquerade || self})
	}
	return v
}

// blocked: source ranges of the family, unless there is none or one is everything. A load balancer IP may reach itself if the node may.
func (w World) blocked(s service.Service, from netip.Addr, family service.Family) bool {
	restricted, allowed := false, false
	for _, r := range s.SourceRanges {
		if !r.IsValid() || service.FamilyOf(r.Addr()) != family {
			continue
		}
		if r.Bits() == 0 {
			return false
		}
		restricted = true
		allowed = allowed || r.Contains(from)
		nodeIn := slices.ContainsFunc(w.Node.Addrs, r.Contains)
		allowed = allowed || nodeIn && slices.Contains(s.LoadBalancerIPs, from) && w.mayBalance(from)
	}
	return restricted && !allowed
}

// bound is an endpoint with the port that belongs to the Service's port.
type bound struct {
	service.Endpoint
	port uint16
}

func (e bound) ready() bool    { return !e.NotReady }
func (e bound) draining() bool { return !e.NotServing && e.Terminating }

// endpoints finds the endpoints of a Service's port by the port's name and protocol. Of one that stands there several times the best counts: not terminating, ready, serving.
func (w World) endpoints(n service.Name, port service.Port, family service.Family) []bound {
	best := map[netip.AddrPort]bound{}
	worth := func(e bound) (n int) {
		for i, good := range []bool{!e.NotServing, !e.NotReady, !e.Terminating} {
			if good {
				n += 1 << i
			}
		}
		return n
	}
	for _, slice := range w.Endpoints[n] {
		for _, ep := range slice.Ports {
			if ep.Name != port.Name || ep.Protocol != port.Protocol || ep.Port == 0 {
				continue
			}
			for _, e := range slice.Endpoints {
				if service.FamilyOf(e.Addr) != family || !routable(e.Addr) {
					continue
				}
				at, one := netip.AddrPortFrom(e.Addr, ep.Port), bound{e, ep.Port}
				if old, ok := best[at]; !ok || worth(one) > worth(old) {
					best[at] = one
				}
			}
		}
	}
	var list []bound
	for _, e := range best {
		list = append(list, e)
	}
	return list
}

// usable returns the endpoints that the policy Cluster and the policy Local use, and whether anybody serves anywhere.
func (w World) usable(eps []bound) (all, here []bound, anywhere bool) {
	ready := only(eps, bound.ready)
	draining := only(eps, bound.draining)
	local := func(e bound) bool { return w.isHere(e.Endpoint) }

	all = ready
	if len(ready) == 0 {
		all = draining
	} else if every(ready, func(e bound) bool { return e.ForNodes != "" }) && slices.ContainsFunc(ready, w.forNode) {
		all = only(ready, w.forNode)
	} else if every(ready, func(e bound) bool { return e.ForZones != "" }) && slices.ContainsFunc(ready, w.forZone) {
		all = only(ready, w.forZone)
	}
	here = only(ready, local)
	if len(here) == 0 {
		here = only(draining, local)
	}
	return all, here, len(ready)+len(draining) > 0
}

func (w World) forNode(e bound) bool { return e.ForNodes.Has(w.Node.Name) }
func (w World) forZone(e bound) bool { return e.ForZones.Has(w.Node.Zone) }

func (w World) isHere(e service.Endpoint) bool { return e.Node != "" && e.Node == w.Node.Name }

// detects: is there a way to tell this node's pods in this family?
func (w World) detects(family service.Family) bool {
	l := w.Node.LocalPods
	if len(l.CIDRs) == 0 {
		return l.Interface+l.InterfacePrefix != ""
	}
	return slices.ContainsFunc(l.CIDRs, func(r netip.Prefix) bool { return service.FamilyOf(r.Addr()) == family })
}

// listens: NodePorts are on the node's addresses, or on those in the ranges if there are some.
func (w World) listens(a netip.Addr) bool {
	return slices.Contains(w.Local, a) && (len(w.Node.NodePortAddrs) == 0 || within(w.Node.NodePortAddrs, a))
}

func (w World) isClusterIP(a netip.Addr) bool {
	used := slices.ContainsFunc(w.Services, func(s service.Service) bool { return slices.Contains(s.ClusterIPs, a) })
	return used || within(w.Node.ServiceCIDRs, a)
}

func (w World) mayBalance(a netip.Addr) bool { return routable(a) && !w.isClusterIP(a) }

func (w World) mayBeExternal(a netip.Addr) bool {
	return routable(a) && within(w.Node.ExternalIPs, a) && !slices.Contains(w.Node.Addrs, a) && !w.isClusterIP(a) && !within(w.Node.PodCIDRs, a)
}

// clusterIP returns a Service's address in a family: the first that can be one.
func clusterIP(s service.Service, family service.Family) (netip.Addr, bool) {
	for _, a := range s.ClusterIPs {
		if service.FamilyOf(a) == family && routable(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// sound returns the ports that make sense; of two with the same number or name under one protocol only the first does.
func sound(ports []service.Port) []service.Port {
	var good []service.Port
	for _, p := range ports {
		known := p.Protocol == service.TCP || p.Protocol == service.UDP || p.Protocol == service.SCTP
		again := slices.ContainsFunc(good, func(g service.Port) bool {
			return g.Protocol == p.Protocol && (g.Port == p.Port || g.Name == p.Name)
		})
		if known && p.Port != 0 && !again {
			good = append(good, p)
		}
	}
	return good
}

// routable: an address that a packet can be sent to from elsewhere.
func routable(a netip.Addr) bool { return a.IsGlobalUnicast() && !a.Is4In6() && a.Zone() == "" }

func only(eps []bound, want func(bound) bool) []bound {
	var some []bound
	for _, e := range eps {
		if want(e) {
			some = append(some, e)
		}
	}
	return some
}

func every(eps []bound, is func(bound) bool) bool {
	return !slices.ContainsFunc(eps, func(e bound) bool { return !is(e) })
}
