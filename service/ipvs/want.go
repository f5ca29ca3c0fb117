package ipvs

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
)

// want changes what is wanted by a delta. It returns the programs that are refused; of such the one before stays. When the devices have other addresses than before, or
// other Services have some of them for themselves, everything is wanted anew.
func (s *state) want(d service.Delta) map[service.Name]error {
	failed := map[service.Name]error{}
	stay := map[service.Name]service.Program{}
	set := make([]*service.Program, 0, len(d.Set))
	for i := range d.Set {
		p := &d.Set[i]
		if err := check(*p, s.scheduler); err != nil {
			failed[p.Name] = err
			if old, ok := s.installed[p.Name]; ok {
				stay[p.Name] = old
			}
			continue
		}
		set = append(set, p)
	}
	if moved := !maps.Equal(s.devices, s.seen) || s.claimsDiffer(d, set); d.Full || moved {
		if !d.Full {
			stay = s.others(d)
		}
		s.reset(d.Node)
		for _, p := range stay {
			set = append(set, &p)
		}
		for _, p := range set {
			s.claimsOf(p, func(k Key) { s.claims[k] = struct{}{} })
		}
	}
	// All that goes first: what one Service loses another may get.
	for _, n := range d.Delete {
		s.release(n)
	}
	for _, p := range set {
		s.release(p.Name)
	}
	for _, p := range set {
		expand(p, s.scheduler, acquirer{s})
		s.installed[p.Name] = *p
	}
	s.freeMarks()
	return failed
}

// claimsOf calls f for each frontend of a program at an address that a device has. A NodePort of another Service gives way there, as everywhere.
func (s *state) claimsOf(p *service.Program, f func(Key)) {
	for i := range p.Ports {
		for _, x := range p.Ports[i].Frontends {
			if _, has := s.devices[x.Addr]; has && x.Kind != service.NodePort {
				f(addrKey(&p.Ports[i], x))
			}
		}
	}
}

// claimsDiffer reports whether a delta that is not full changes claims.
func (s *state) claimsDiffer(d service.Delta, set []*service.Program) bool {
	changed := map[Key]int{}
	before := func(n service.Name) {
		if p, ok := s.installed[n]; ok {
			s.claimsOf(&p, func(k Key) { changed[k]-- })
		}
	}
	for _, n := range d.Delete {
		before(n)
	}
	for _, p := range set {
		before(p.Name)
		s.claimsOf(p, func(k Key) { changed[k]++ })
	}
	for _, n := range changed {
		if n != 0 {
			return true
		}
	}
	return false
}

func (s *state) claimed(k Key) bool {
	_, ok := s.claims[k]
	return ok
}

// others returns the programs that a delta leaves as they are.
func (s *state) others(d service.Delta) map[service.Name]service.Program {
	all := maps.Clone(s.installed)
	for _, n := range d.Delete {
		delete(all, n)
	}
	for _, p := range d.Set {
		if check(p, s.scheduler) == nil {
			delete(all, p.Name)
		}
	}
	return all
}

// reset begins a full delta.
func (s *state) reset(n service.Node) {
	s.node = n
	s.devices = s.seen
	s.ranges = distinct(n.ServiceCIDRs)
	s.source = s.chooseSource(n)
	s.lengths, s.filled = [2][129]int{}, [2][sets]int{}
	clear(s.installed)
	clear(s.claims)
	s.elements.reset()
	s.routes.reset()
	clear(s.wantServers)
	s.servers = [2]int{}
	for k := range s.haveServers {
		s.servers[familyIndex(k.Family)]++
	}
	for k := range s.haveServers {
		s.dirty[k] = struct{}{}
	}
	for _, p := range s.ranges {
		s.routes.acquire(p, s.route(p))
	}
}

// distinct returns the ranges masked, sorted, without those that are in others.
func distinct(ranges []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ranges {
		if p.IsValid() && !slices.ContainsFunc(ranges, func(o netip.Prefix) bool {
			return o.Masked() != p.Masked() && o.Bits() <= p.Bits() && o.Contains(p.Addr())
		}) {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// chooseSource returns what the node sends from: its address by the Node, or the first that a device has.
func (s *state) chooseSource(n service.Node) (source [2]netip.Addr) {
	for i, f := range service.Families() {
		usable := func(a netip.Addr) bool {
			_, has := s.devices[a]
			return has && service.FamilyOf(a) == f && !a.IsLoopback() && !a.IsLinkLocalUnicast()
		}
		if j := slices.IndexFunc(n.Addrs, usable); j >= 0 {
			source[i] = n.Addrs[j]
			continue
		}
		for a := range s.devices {
			if usable(a) && (!source[i].IsValid() || a.Less(source[i])) {
				source[i] = a
			}
		}
	}
	return source
}

func (s *state) route(p netip.Prefix) rtnl.Route {
	return rtnl.Route{
		Dst: p, Link: "lo", Table: rtnl.TableLocal, Type: rtnl.Local, Protocol: s.protocol, Scope: rtnl.ScopeAuto, Src: s.source[familyIndex(service.FamilyOf(p.Addr()))],
	}.Canonical()
}

func familyIndex(f service.Family) int {
	if f == service.IPv6 {
		return 1
	}
	return 0
}
