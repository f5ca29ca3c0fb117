package ipvs

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
)

// found is what there is in the kernel.
type found struct {
	servers  []Server
	elements map[element]uint32
	routes   []rtnl.Route
	devices  map[netip.Addr]struct{}
}

// load takes over what was found, and reports whether it is not as it was left. A virtual server is ours if its record says so, or if this process wrote it: the record may
// have been flushed.
func (s *state) load(f found) (differs bool) {
	differs = !maps.Equal(f.elements, s.elements.have)
	s.elements.have = f.elements
	old := s.routes.have
	s.routes.have = map[netip.Prefix]rtnl.Route{}
	for _, r := range f.routes {
		s.routes.have[r.Dst] = r
	}
	differs = !maps.Equal(old, s.routes.have) || differs
	s.seen = f.devices
	differs = s.loadServers(f.servers) || differs
	s.doubt()
	return differs
}

func (s *state) loadServers(servers []Server) (differs bool) {
	before := s.haveServers
	for k := range before {
		s.servers[familyIndex(k.Family)]--
	}
	s.haveServers, s.foreign, s.at, s.unsure = map[Key]*haveServer{}, map[Key]Server{}, map[netip.Addr]int{}, map[Key]struct{}{}
	s.taken = map[uint32]struct{}{}
	for m := range s.owners {
		s.taken[m] = struct{}{}
	}
	for _, one := range servers {
		data, recorded := s.elements.have[record(one.Key)]
		was := before[one.Key]
		if !recorded && was == nil {
			s.foreign[one.Key] = one
			if one.Mark != 0 {
				s.taken[one.Mark] = struct{}{}
			}
			continue
		}
		h := newHave(one)
		switch {
		case one.Mark != 0 && recorded:
			h.protocol = service.Protocol(data >> protocolShift)
		case one.Mark != 0:
			h.protocol = was.protocol
		}
		s.have(one.Key, h)
		differs = differs || was == nil || !was.same(h)
	}
	differs = differs || len(before) != len(s.haveServers)
	for k := range s.draining {
		if s.haveServers[k] == nil {
			delete(s.draining, k)
		}
	}
	return differs
}

func newHave(one Server) *haveServer {
	return &haveServer{Settings: one.Settings, protocol: one.Protocol, reals: one.Reals}
}

// same compares what is written, not the connections.
func (h *haveServer) same(o *haveServer) bool {
	return h.Settings == o.Settings && slices.EqualFunc(h.reals, o.reals, func(a, b Real) bool {
		return a.Addr == b.Addr && a.Weight == b.Weight && a.Foreign == b.Foreign
	})
}

// doubt has everything compared again.
func (s *state) doubt() {
	for e := range s.elements.have {
		s.elements.dirty[e] = struct{}{}
	}
	for e := range s.elements.want {
		s.elements.dirty[e] = struct{}{}
	}
	for p := range s.routes.have {
		s.routes.dirty[p] = struct{}{}
	}
	for p := range s.routes.want {
		s.routes.dirty[p] = struct{}{}
	}
	for k := range s.wantServers {
		s.dirty[k] = struct{}{}
	}
	for k, h := range s.haveServers {
		s.dirty[k] = struct{}{}
		if slices.ContainsFunc(h.reals, func(r Real) bool { return r.Weight == 0 }) {
			if _, drains := s.draining[k]; !drains {
				s.draining[k] = time.Now() // a process before this one began it
			}
		}
	}
}

// lost forgets the elements of a family, whose table is made anew.
func (s *state) lost(f service.Family) {
	for e := range s.elements.have {
		if e.family == f {
			delete(s.elements.have, e)
			s.elements.dirty[e] = struct{}{}
		}
	}
}

// adopt makes a foreign virtual server ours.
func (s *state) adopt(k Key) {
	h := newHave(s.foreign[k])
	h.protocol = s.wantServers[k].protocol
	s.have(k, h)
	delete(s.foreign, k)
}
