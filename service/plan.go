package service

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// plan makes the program of a Service: pure, and the same for the same input. taken reports whether an address may not be an external IP because it is a ClusterIP.
// Claims of other Services on the same frontends are not its business: see claims.
func plan(node Node, s Service, endpoints endpointSlices, taken func(netip.Addr) bool) (Program, []Fault) {
	f := &faults{}
	s = f.service(node, s, taken)
	p := Program{Name: s.Name, HealthCheckNodePort: s.HealthCheckNodePort}
	for _, family := range Families() {
		i := slices.IndexFunc(s.ClusterIPs, func(a netip.Addr) bool { return FamilyOf(a) == family })
		if i < 0 {
			continue
		}
		for _, port := range s.Ports {
			p.Ports = append(p.Ports, planPort(node, s, s.ClusterIPs[i], port, endpoints.targets(f, node, port, family)))
		}
	}
	if p.HealthCheckNodePort != 0 {
		p.LocalReady = localReady(node, endpoints.slices)
	}
	return p, f.list()
}

// planPort makes the program of one port in one family.
func planPort(node Node, s Service, clusterIP netip.Addr, port Port, endpoints []target) PortProgram {
	family := FamilyOf(clusterIP)
	external := externals(s, port, family)
	usesCluster := s.InternalPolicy == Cluster || len(external) > 0
	usesLocal := s.InternalPolicy == Local || s.ExternalPolicy == Local && len(external) > 0
	c := categorize(endpoints, node, usesCluster, usesLocal)

	p := PortProgram{
		Port: port.Name, Protocol: port.Protocol, Family: family, Cluster: c.cluster, Local: c.local,
		Affinity: s.Affinity.Truncate(time.Second), Scheduler: s.Scheduler, SourceRanges: sourceRanges(s, family),
		NoLocalInternal: s.InternalPolicy == Local && c.any && len(c.local) == 0,
		NoLocalExternal: s.ExternalPolicy == Local && len(external) > 0 && c.any && len(c.local) == 0,
	}
	if port.Protocol == UDP {
		p.Serving = serving(endpoints)
	}
	p.Frontends = append(p.Frontends, internalFrontend(node, s, clusterIP, port, c))
	for _, f := range external {
		f.Pod, f.Host, f.Remote = externalRoutes(node, s.ExternalPolicy, family, c)
		f.Restricted = f.Kind == LoadBalancerIP && len(p.SourceRanges) > 0
		p.Frontends = append(p.Frontends, f)
	}
	if !slices.ContainsFunc(p.Frontends, func(f Frontend) bool { return f.Restricted }) {
		p.SourceRanges = nil
	} else if a := allowedSelf(node, s, p.SourceRanges, family); len(a) > 0 {
		p.SourceRanges = append(p.SourceRanges, a...)
	}
	return p
}

// externals returns the frontends of a port that are reachable from outside the cluster, each address once.
func externals(s Service, port Port, family Family) []Frontend {
	var out []Frontend
	add := func(kind Kind, a netip.Addr) {
		if FamilyOf(a) == family && !slices.ContainsFunc(out, func(f Frontend) bool { return f.Addr == a }) {
			out = append(out, Frontend{Kind: kind, Addr: a, Port: port.Port})
		}
	}
	for _, a := range s.LoadBalancerIPs { // first: an address that is both keeps its source ranges
		add(LoadBalancerIP, a)
	}
	for _, a := range s.ExternalIPs {
		add(ExternalIP, a)
	}
	slices.SortStableFunc(out, func(a, b Frontend) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Addr.Compare(b.Addr)) })
	if port.NodePort != 0 {
		out = append(out, Frontend{Kind: NodePort, Port: port.NodePort})
	}
	return out
}

// internalFrontend is the ClusterIP's. It is masqueraded for whoever is no local pod, so that replies come back through this node; without a way to tell, for nobody.
func internalFrontend(node Node, s Service, clusterIP netip.Addr, port Port, c categories) Frontend {
	action := chosen(s.InternalPolicy, c)
	notPods := node.MasqueradeAll || node.LocalPods.Known(FamilyOf(clusterIP))
	return Frontend{
		Kind: ClusterIP, Addr: clusterIP, Port: port.Port,
		Pod:    route(action, node.MasqueradeAll),
		Host:   route(action, notPods),
		Remote: route(action, notPods),
	}
}

// externalRoutes are those of all frontends that can be reached from outside. With the policy Local, only traffic from outside is kept to local endpoints, with its source: pods
// and the node itself take the short way, to any endpoint.
func externalRoutes(node Node, policy TrafficPolicy, family Family, c categories) (pod, host, remote Route) {
	all := route(chosen(Cluster, c), true)
	if policy == Cluster {
		return all, all, all
	}
	remote = route(chosen(Local, c), false)
	pod = remote
	if node.LocalPods.Known(family) {
		pod = route(chosen(Cluster, c), false)
	}
	return pod, all, remote
}

// chosen returns where a policy leads.
func chosen(policy TrafficPolicy, c categories) Action {
	switch {
	case !c.any:
		return Reject
	case policy == Local && len(c.local) == 0:
		return Drop
	case policy == Local:
		return ToLocal
	}
	return ToCluster
}

// route leaves out what means nothing.
func route(a Action, masquerade bool) Route {
	return Route{Action: a, Masquerade: masquerade && (a == ToCluster || a == ToLocal)}
}

func serving(endpoints []target) []netip.AddrPort {
	var all []netip.AddrPort
	for i := range endpoints {
		if !endpoints[i].NotServing || !endpoints[i].NotReady {
			all = append(all, endpoints[i].addr)
		}
	}
	return all
}

// sourceRanges returns those of a family, sorted and each once; a /0 among them lifts the restriction.
func sourceRanges(s Service, family Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.SourceRanges {
		if FamilyOf(p.Addr()) != family {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// allowedSelf returns the load balancer's own addresses as ranges if a node address is in the source ranges: the node reaches them with the address itself as source.
func allowedSelf(node Node, s Service, ranges []netip.Prefix, family Family) []netip.Prefix {
	if !slices.ContainsFunc(node.Addrs, func(a netip.Addr) bool { return ranged(ranges, a) }) {
		return nil
	}
	var out []netip.Prefix
	for _, a := range s.LoadBalancerIPs {
		if FamilyOf(a) == family && !ranged(ranges, a) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// localReady counts the local endpoints that are ready, by address; of the family that has more of them, since a dual-stack pod counts once.
func localReady(node Node, held []*held) int {
	seen := map[netip.Addr]bool{}
	count := map[Family]int{}
	for _, s := range held {
		for _, e := range s.Endpoints {
			if node.Name != "" && e.Node == node.Name && !e.NotReady && !e.Terminating && !seen[e.Addr] {
				seen[e.Addr] = true
				count[FamilyOf(e.Addr)]++
			}
		}
	}
	return max(count[IPv4], count[IPv6])
}
