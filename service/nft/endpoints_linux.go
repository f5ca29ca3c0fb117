package nft

import (
	"net/netip"

	"github.com/podnet/podnet/service"
)

// list is a sorted list of endpoints with their indices.
type list struct {
	backends []service.Backend
	index    []uint32
}

// shiftEndpoints does the endpoints of one kind, and the connections of local endpoints to themselves.
func (t *table) shiftEndpoints(kind, id uint32, old, now list, s *sink) {
	var key, data value
	merge(old.backends, now.backends, func(i, j int) {
		stays := i >= 0 && j >= 0 && old.index[i] == now.index[j]
		if i >= 0 && !stays {
			s.remove(setEndpoints, key.reset().word(id).word(kind<<31|old.index[i]).bytes())
		}
		if j >= 0 && !stays {
			s.add(setEndpoints, key.reset().word(id).word(kind<<31|now.index[j]).bytes(), data.reset().endpoint(now.backends[j].Addr).bytes())
		}
		was, is := i >= 0 && old.backends[i].Local, j >= 0 && now.backends[j].Local
		if is && !was {
			t.hairpin(now.backends[j].Addr.Addr(), +1, s)
		}
		if was && !is {
			t.hairpin(old.backends[i].Addr.Addr(), -1, s)
		}
	})
}

// hairpin counts who may meet itself.
func (t *table) hairpin(a netip.Addr, by int, s *sink) {
	if present(t.hairpins, a, by) {
		var key value
		s.put(by > 0, setHairpin, key.addr(a).addr(a).bytes())
	}
}

// shiftActive does the endpoints that a client may stay with.
func (t *table) shiftActive(kind uint32, old, now *port, s *sink) {
	var key value
	merge(old.sticky(kind), now.sticky(kind), func(i, j int) {
		switch {
		case i < 0:
			s.add(setActive, key.reset().endpoint(now.sticky(kind)[j].Addr).word(now.id).word(kind).bytes(), nil)
		case j < 0:
			s.remove(setActive, key.reset().endpoint(old.sticky(kind)[i].Addr).word(old.id).word(kind).bytes())
		}
	})
}

// sticky returns the endpoints that a client may stay with.
func (p *port) sticky(kind uint32) []service.Backend {
	switch {
	case p.prog.Affinity == 0:
		return nil
	case kind == kindLocal:
		return p.prog.Local
	}
	return p.prog.Cluster
}

// merge walks over two sorted lists and calls f with the places of each endpoint in both, -1 where it is not.
func merge(old, now []service.Backend, f func(i, j int)) {
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		c := 0
		switch {
		case i == len(old):
			c = +1
		case j == len(now):
			c = -1
		default:
			c = old[i].Addr.Compare(now[j].Addr)
		}
		switch {
		case c < 0:
			f(i, -1)
			i++
		case c > 0:
			f(-1, j)
			j++
		default:
			f(i, j)
			i, j = i+1, j+1
		}
	}
}
