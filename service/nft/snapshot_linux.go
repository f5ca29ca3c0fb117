package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/service"
)

// snapshot is what the kernel has of a table.
type snapshot struct {
	family family
	exists bool
	broken bool // has to be made anew: another layout, or switched off

	chains  map[string][]string // comments of the rules
	foreign []string            // sets that are not ours

	frontends map[[24]byte]frontSeen
	endpoints map[uint64]endpointSeen
	others    [setKinds]map[string]int // of all other sets, by key
	classes   map[uint32]string        // the chains of classes
	stray     []uint32                 // classes that lead nowhere useful

	done map[int]bool // transactions that were committed
}

func newSnapshot(f family) *snapshot {
	return &snapshot{
		family: f, chains: map[string][]string{}, frontends: map[[24]byte]frontSeen{}, endpoints: map[uint64]endpointSeen{},
		classes: map[uint32]string{}, done: map[int]bool{},
	}
}

// seen elements have the number of the transaction that wants them; 0 is none.
type frontSeen struct {
	attempt   int
	class, id uint32
}

type endpointSeen struct {
	attempt int
	value   [20]byte
}

// claimed is what claim finds.
type claimed uint8

const (
	missing claimed = iota
	same            // it is there
	other           // it is there with other data
	taken           // something else wants it
)

// claim notes that a transaction wants an element.
func (h *snapshot) claim(set setKind, key, data []byte, attempt int) claimed {
	switch set {
	case setFrontends:
		k := [24]byte(append(make([]byte, 0, 24), key...)[:24])
		e, there := h.frontends[k]
		c := h.judge(there, e.attempt, attempt, e.class == readWord(data[4:]) && e.id == readWord(data[8:]))
		if c == same || c == other {
			e.attempt = attempt
			h.frontends[k] = e
		}
		return c
	case setEndpoints:
		k := joined(key)
		e, there := h.endpoints[k]
		c := h.judge(there, e.attempt, attempt, string(e.value[:len(data)]) == string(data))
		if c == same || c == other {
			e.attempt = attempt
			h.endpoints[k] = e
		}
		return c
	}
	of, there := h.others[set][string(key)]
	c := h.judge(there, of, attempt, true)
	if c == same {
		h.others[set][string(key)] = attempt
	}
	return c
}

func (h *snapshot) judge(there bool, claimedBy, attempt int, equal bool) claimed {
	switch {
	case !there:
		return missing
	case h.wanted(claimedBy) || claimedBy == attempt:
		return taken
	case equal:
		return same
	}
	return other
}

// wanted reports whether the transaction that claimed an element was done.
func (h *snapshot) wanted(attempt int) bool { return h.done[attempt] }

// joined makes one number of id and index in an endpoint's key.
func joined(key []byte) uint64 { return uint64(readWord(key))<<32 | uint64(readWord(key[4:])) }

// idOf returns the id that the kernel has for a port, by its frontends; 0 if it has none. used are those that belong to other ports already.
func (h *snapshot) idOf(p *service.PortProgram, used map[uint32]bool) uint32 {
	var key value
	for i := range p.Frontends {
		k := [24]byte(append(make([]byte, 0, 24), key.reset().frontend(&h.family, p.Protocol, &p.Frontends[i]).bytes()...)[:24])
		if e, there := h.frontends[k]; there && e.id != 0 && !used[e.id] {
			return e.id
		}
	}
	return 0
}

// listOf returns the first n endpoints that the kernel has for an id, sorted and each once.
func (h *snapshot) listOf(id, kind uint32, n int) list {
	type place struct {
		addr  netip.AddrPort
		index uint32
	}
	places := make([]place, 0, n)
	for i := range uint32(n) {
		if e, there := h.endpoints[uint64(id)<<32|uint64(kind<<31|i)]; there {
			places = append(places, place{h.family.readEndpoint(e.value[:]), i})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.index, b.index)) })
	places = slices.CompactFunc(places, func(a, b place) bool { return a.addr == b.addr })
	l := list{make([]service.Backend, len(places)), make([]uint32, len(places))}
	for i, p := range places {
		l.backends[i].Addr, l.index[i] = p.addr, p.index
	}
	return l
}

// count returns how many elements a set has.
func (h *snapshot) count(set setKind) int {
	switch set {
	case setFrontends:
		return len(h.frontends)
	case setEndpoints:
		return len(h.endpoints)
	}
	return len(h.others[set])
}

// leftovers removes what nobody claimed, with this sink's attempt or before.
func (h *snapshot) leftovers(s *sink) {
	size := 4*int(h.family.words) + 8
	for k, e := range h.frontends {
		if e.attempt != s.attempt && !h.wanted(e.attempt) {
			s.remove(setFrontends, k[:size])
		}
	}
	var key value
	for k, e := range h.endpoints {
		if e.attempt != s.attempt && !h.wanted(e.attempt) {
			s.remove(setEndpoints, key.reset().word(uint32(k>>32)).word(uint32(k)).bytes())
		}
	}
	for set, elements := range h.others {
		for k, by := range elements {
			if by != s.attempt && !h.wanted(by) {
				s.remove(setKind(set), []byte(k))
			}
		}
	}
	for _, number := range h.stray {
		s.remove(setClasses, key.reset().word(number).bytes())
	}
}
