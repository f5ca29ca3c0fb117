package ipvs

import (
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/service"
)

// serverPlan is what has to be done about one virtual server.
type serverPlan struct {
	key   Key
	name  service.Name // whose it is; the zero Name if it is nobody's any more
	first []Change     // the server itself
	come  []Change     // real servers that get connections
	leave []Change     // those that get none any more, or the server
}

// planServer compares what is wanted with what is there. A real server of TCP or SCTP that is not wanted gets the weight 0: its connections go on, new ones do not come, and
// that is in the kernel, so a restart of the process knows of it too. One of UDP goes at once: its clients never hang up, and would never meet another one.
func (s *state) planServer(k Key) serverPlan {
	w, wants := s.wantServers[k]
	h := s.haveServers[k]
	p := serverPlan{key: k, name: w.name}
	switch {
	case !wants && h == nil:
		return p
	case !wants && (len(h.reals) == 0 || h.protocol == service.UDP):
		p.leave = []Change{{Verb: DeleteServer, Key: k}}
		return p
	case h == nil:
		p.first = []Change{{Verb: AddServer, Key: k, Settings: w.Settings}}
		h = &haveServer{}
	case wants && h.Settings != w.Settings:
		p.first = []Change{{Verb: SetServer, Key: k, Settings: w.Settings}}
	}
	backends := w.backends
	reals := h.reals
	for len(backends) > 0 || len(reals) > 0 {
		order := -1
		switch {
		case len(backends) == 0:
			order = 1
		case len(reals) > 0:
			order = backends[0].Addr.Compare(reals[0].Addr)
		}
		switch {
		case order < 0:
			p.come = append(p.come, Change{Verb: AddReal, Key: k, Real: backends[0].Addr, Weight: 1})
		case order == 0 && (reals[0].Weight != 1 || reals[0].Foreign):
			p.come = append(p.come, Change{Verb: SetReal, Key: k, Real: backends[0].Addr, Weight: 1})
		case order > 0 && h.protocol == service.UDP:
			p.leave = append(p.leave, Change{Verb: DeleteReal, Key: k, Real: reals[0].Addr})
		case order > 0 && reals[0].Weight != 0:
			p.leave = append(p.leave, Change{Verb: SetReal, Key: k, Real: reals[0].Addr})
		}
		if order <= 0 {
			backends = backends[1:]
		}
		if order >= 0 {
			reals = reals[1:]
		}
	}
	return p
}

func compareBackends(a, b service.Backend) int { return a.Addr.Compare(b.Addr) }

// wantsReal reports whether a real server is wanted.
func (w wantServer) wantsReal(a netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(w.backends, a, func(b service.Backend, a netip.AddrPort) int { return b.Addr.Compare(a) })
	return ok
}

// planDrained returns what can go of a virtual server, by its real servers as they are now: those without connections, or all if they had time enough. left says
// whether others remain.
func (s *state) planDrained(k Key, now []Real, overdue bool) (changes []Change, left bool) {
	w, wants := s.wantServers[k]
	remaining := 0
	for _, r := range now {
		switch {
		case wants && w.wantsReal(r.Addr):
			remaining++
		case r.Weight == 0 && (r.idle() || overdue):
			changes = append(changes, Change{Verb: DeleteReal, Key: k, Real: r.Addr})
		default:
			remaining++
			left = true
		}
	}
	if !wants && remaining == 0 {
		changes = []Change{{Verb: DeleteServer, Key: k}} // with all that is in it
	}
	return changes, left
}

// done notes a change that the kernel has made.
func (s *state) done(c Change) {
	h := s.haveServers[c.Key]
	if h == nil && c.Verb != AddServer {
		return
	}
	i := 0
	found := false
	if c.Verb >= AddReal {
		i, found = slices.BinarySearchFunc(h.reals, c.Real, func(r Real, a netip.AddrPort) int { return r.Addr.Compare(a) })
	}
	switch c.Verb {
	case AddServer:
		s.have(c.Key, &haveServer{Settings: c.Settings, protocol: s.wantServers[c.Key].protocol})
	case SetServer:
		h.Settings = c.Settings
	case DeleteServer:
		s.gone(c.Key)
	case AddReal:
		h.reals = slices.Insert(h.reals, i, Real{Addr: c.Real, Weight: c.Weight})
	case SetReal:
		if found {
			h.reals[i].Weight, h.reals[i].Foreign = c.Weight, false
		}
		if c.Weight == 0 {
			s.drain(c.Key)
		}
	case DeleteReal:
		if found {
			h.reals = slices.Delete(h.reals, i, i+1)
		}
	}
}

func (s *state) drain(k Key) {
	if _, drains := s.draining[k]; !drains {
		s.draining[k] = time.Now()
	}
}

// have notes a virtual server of ours.
func (s *state) have(k Key, h *haveServer) {
	if s.haveServers[k] == nil {
		s.servers[familyIndex(k.Family)]++
		if k.Mark == 0 {
			s.at[k.Addr.Addr()]++
		}
	}
	s.haveServers[k] = h
	if k.Mark != 0 {
		s.taken[k.Mark] = struct{}{}
	}
}

// gone forgets a virtual server, and has the elements and the route looked at that had to stay for it.
func (s *state) gone(k Key) {
	if s.haveServers[k] == nil {
		return
	}
	delete(s.haveServers, k)
	delete(s.draining, k)
	s.servers[familyIndex(k.Family)]--
	s.elements.dirty[record(k)] = struct{}{}
	if k.Mark != 0 {
		if _, owned := s.owners[k.Mark]; !owned {
			delete(s.taken, k.Mark)
		}
		return
	}
	a := k.Addr.Addr()
	if s.at[a]--; s.at[a] > 0 {
		return
	}
	delete(s.at, a)
	s.elements.dirty[element{k.Family, vips, vipKey(a)}] = struct{}{}
	s.routes.dirty[netip.PrefixFrom(a, a.BitLen())] = struct{}{}
}

// record is the element that says that a virtual server is ours.
func record(k Key) element {
	if k.Mark != 0 {
		return element{k.Family, marks, markKey(k.Mark)}
	}
	return element{k.Family, frontends, frontendKey(k.Family, k.Addr.Addr(), k.Protocol, k.Addr.Port())}
}

// recorded is the virtual server that an element of frontends or marks stands for.
func recorded(e element) (Key, bool) {
	switch e.set {
	case marks:
		return Key{Family: e.family, Mark: parseMarkKey(e.key)}, true
	case frontends:
		a, p, port, ok := parseFrontendKey(e.key)
		return Key{Family: e.family, Protocol: p, Addr: netip.AddrPortFrom(a, port)}, ok && a.IsValid()
	}
	return Key{}, false
}

// mustStay reports whether an element that is not wanted stays for a virtual server that is still there: its record, and that its address is ours.
func (s *state) mustStay(e element) bool {
	if e.set == vips {
		a, _ := netip.AddrFromSlice([]byte(e.key))
		return s.mustBeLocal(a)
	}
	k, ok := recorded(e)
	return ok && s.haveServers[k] != nil
}

// mustBeLocal reports whether an address that no Service wants has to be local by its own route, since connections to it are left. For that of a range there is the range's route,
// and new connections are dropped; that of a device is local.
func (s *state) mustBeLocal(a netip.Addr) bool {
	_, device := s.devices[a]
	return s.at[a] > 0 && !device && !s.ranged(a)
}
