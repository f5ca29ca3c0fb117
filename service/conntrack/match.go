package conntrack

import (
	"net/netip"
	"slices"
)

// matcher tells which flows of one family and protocol are stale. It is made once per Apply, and looks at each flow without allocating.
type matcher struct {
	filter    Filter
	ports     [1 << 16 / 64]uint64 // destination ports of frontends: most flows are none of ours and are done with after one look
	frontends map[netip.AddrPort]served
	nodePorts map[uint16]served
	ranges    []netip.Prefix // ServiceCIDRs of the family
	local     addrs
}

// served are the endpoints of a frontend: few are compared one by one, many through a set that is built when the first flow asks.
type served struct {
	list []netip.AddrPort
	set  *endpointSet
}

type endpointSet map[netip.AddrPort]struct{}

// listKey tells one list of endpoints from another without reading it: the frontends of a Service share their list, so they share its set.
type listKey struct {
	first  *netip.AddrPort
	length int
}

// few is up to how many endpoints comparing one by one is quicker than hashing.
const few = 8

// newMatcher returns the matcher of a family and protocol, without the local addresses.
func newMatcher(c Config, f Family, p Protocol) *matcher {
	m := &matcher{filter: Filter{Family: f, Protocol: p}, frontends: map[netip.AddrPort]served{}, nodePorts: map[uint16]served{}}
	if p != UDP {
		for _, r := range c.Restored {
			if r.Protocol == p && familyOf(r.Addr.Addr()) == f {
				m.port(r.Addr.Port())
				m.frontends[r.Addr] = served{}
			}
		}
		m.narrow()
		return m
	}
	sets := map[listKey]*endpointSet{}
	for _, front := range c.Frontends {
		if familyOf(front.Addr.Addr()) != f {
			continue
		}
		port := front.Addr.Port()
		m.port(port)
		if front.Addr.Addr().IsUnspecified() {
			m.nodePorts[port] = m.nodePorts[port].with(front.Serving, sets)
		} else {
			m.frontends[front.Addr] = m.frontends[front.Addr].with(front.Serving, sets)
		}
	}
	for _, p := range c.ServiceCIDRs {
		if familyOf(p.Addr()) == f {
			m.ranges = append(m.ranges, p)
		}
	}
	m.narrow()
	return m
}

// port takes note of a port.
func (m *matcher) port(p uint16) { m.ports[p/64] |= 1 << (p % 64) }

// with adds a list of endpoints.
func (s served) with(list []netip.AddrPort, sets map[listKey]*endpointSet) served {
	if len(s.list) > 0 {
		list = slices.Concat(s.list, list)
	}
	s = served{list: list}
	if len(list) > few {
		key := listKey{&list[0], len(list)}
		if sets[key] == nil {
			sets[key] = new(endpointSet)
		}
		s.set = sets[key]
	}
	return s
}

func (s served) has(a netip.AddrPort) bool {
	if s.set == nil {
		return slices.Contains(s.list, a)
	}
	if *s.set == nil {
		*s.set = make(endpointSet, len(s.list))
		for _, e := range s.list {
			(*s.set)[e] = struct{}{}
		}
	}
	_, ok := (*s.set)[a]
	return ok
}

// narrow lets the kernel send only what all frontends have in common.
func (m *matcher) narrow() {
	if len(m.ranges) > 0 {
		return
	}
	first := true
	for a := range m.frontends {
		if first {
			m.filter.Dst, m.filter.Port, first = a.Addr(), a.Port(), false
			continue
		}
		if m.filter.Dst != a.Addr() {
			m.filter.Dst = netip.Addr{}
		}
		if m.filter.Port != a.Port() {
			m.filter.Port = 0
		}
	}
	for port := range m.nodePorts {
		m.filter.Dst = netip.Addr{}
		if first {
			m.filter.Port, first = port, false
		}
		if m.filter.Port != port {
			m.filter.Port = 0
		}
	}
}

// stale reports whether the flow is to be deleted. An address and port that is a frontend is not also looked at as a node port: in kube-proxy 1.36 a
// node port takes the flows of every ClusterIP with the same port.
func (m *matcher) stale(f *Flow) bool {
	port := f.Dst.Port()
	known := m.ports[port/64]&(1<<(port%64)) != 0
	if !known && len(m.ranges) == 0 {
		return false
	}
	if m.filter.Protocol != UDP {
		_, ok := m.frontends[f.Dst]
		return ok && !f.Replied && f.ReplySrc == f.Dst
	}
	if known {
		if s, ok := m.frontends[f.Dst]; ok {
			return !s.has(f.ReplySrc)
		}
		if s, ok := m.nodePorts[port]; ok && m.local.has(f.Dst.Addr()) {
			return !s.has(f.ReplySrc)
		}
	}
	return contains(m.ranges, f.Dst.Addr())
}

// addrs is a set of addresses: those of the ranges that only, if it is not empty, covers too.
type addrs struct {
	single       map[netip.Addr]struct{}
	ranges, only []netip.Prefix
}

// newAddrs makes the set from the local ranges of any family: mostly single addresses.
func newAddrs(ranges, only []netip.Prefix) addrs {
	a := addrs{single: map[netip.Addr]struct{}{}, only: only}
	for _, p := range ranges {
		if p.IsSingleIP() {
			a.single[p.Addr()] = struct{}{}
		} else {
			a.ranges = append(a.ranges, p)
		}
	}
	return a
}

func (a addrs) has(x netip.Addr) bool {
	_, ok := a.single[x]
	return (ok || contains(a.ranges, x)) && (len(a.only) == 0 || contains(a.only, x))
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
