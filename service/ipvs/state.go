package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
)

// haveServer is a virtual server of ours that is in the kernel. That of a Service that is gone stays until its connections have ended.
type haveServer struct {
	Settings
	protocol service.Protocol
	reals    []Real // sorted by address
}

// sharedServer is a wantServer and how often it is wanted: more than once only for a moment, or by mistake.
type sharedServer struct {
	wantServer
	refs int
}

// state is what is wanted and what is there. It does no I/O.
type state struct {
	scheduler string
	protocol  rtnl.Protocol

	node      service.Node
	installed map[service.Name]service.Program

	elements ledger[element, uint32]
	routes   ledger[netip.Prefix, rtnl.Route]

	wantServers map[Key]sharedServer
	haveServers map[Key]*haveServer
	dirty       map[Key]struct{}   // servers
	unsure      map[Key]struct{}   // servers to be read again, since a write failed
	foreign     map[Key]Server     // virtual servers that are not ours
	at          map[netip.Addr]int // servers of ours at an address
	servers     [2]int             // wanted and there, by family

	marks  map[markOwner]uint32
	owners map[uint32]markOwner // the reverse
	taken  map[uint32]struct{}  // marks in use, whoever uses them
	next   uint32

	draining map[Key]time.Time // servers with real servers that are not wanted, since when

	seen    map[netip.Addr]struct{} // addresses that devices have
	devices map[netip.Addr]struct{} // those that the last full delta went by
	claims  map[Key]struct{}        // frontends, but no NodePorts, at addresses that devices have
	source  [2]netip.Addr           // what the node sends from to its VIPs, by family
	lengths [2][129]int             // how often each length of source ranges is wanted
	filled  [2][sets]int            // how many elements are wanted in each set
	ranges  []netip.Prefix          // Node.ServiceCIDRs, whose addresses are local by one route
}

func newState(scheduler string, protocol rtnl.Protocol) *state {
	return &state{
		scheduler: scheduler, protocol: protocol, installed: map[service.Name]service.Program{},
		elements: newLedger[element, uint32](), routes: newLedger[netip.Prefix, rtnl.Route](),
		wantServers: map[Key]sharedServer{}, haveServers: map[Key]*haveServer{}, dirty: map[Key]struct{}{}, unsure: map[Key]struct{}{}, foreign: map[Key]Server{},
		at: map[netip.Addr]int{}, marks: map[markOwner]uint32{}, owners: map[uint32]markOwner{}, taken: map[uint32]struct{}{}, draining: map[Key]time.Time{}, devices: map[netip.Addr]struct{}{},
		claims: map[Key]struct{}{},
	}
}

func (s *state) release(n service.Name) {
	if p, ok := s.installed[n]; ok {
		expand(&p, s.scheduler, releaser{s})
		delete(s.installed, n)
	}
}

// acquirer and releaser let a program want what it becomes, or no more.
type (
	acquirer struct{ *state }
	releaser struct{ *state }
)

func (s acquirer) server(k Key, w wantServer) {
	if !slices.IsSortedFunc(w.backends, compareBackends) {
		w.backends = slices.SortedFunc(slices.Values(w.backends), compareBackends)
	}
	before, again := s.wantServers[k]
	if !again {
		s.servers[familyIndex(k.Family)]++
	}
	s.wantServers[k] = sharedServer{w, before.refs + 1}
	s.dirty[k] = struct{}{}
}

func (s releaser) server(k Key, _ wantServer) {
	w := s.wantServers[k]
	if w.refs--; w.refs > 0 {
		s.wantServers[k] = w
	} else if _, wanted := s.wantServers[k]; wanted {
		delete(s.wantServers, k)
		s.servers[familyIndex(k.Family)]--
	}
	s.dirty[k] = struct{}{}
}

func (s acquirer) element(e element, data uint32) {
	if s.elements.acquire(e, data) {
		s.filled[familyIndex(e.family)][e.set]++
	}
	s.countLength(e, +1)
}

func (s releaser) element(e element, _ uint32) {
	if s.elements.release(e) {
		s.filled[familyIndex(e.family)][e.set]--
	}
	s.countLength(e, -1)
}

func (s *state) countLength(e element, by int) {
	if e.set == sources {
		s.lengths[familyIndex(e.family)][prefixLength(e.family, e.key)] += by
	}
}

// needs reports whether something of a family is wanted or there.
func (s *state) needs(f service.Family) bool {
	if slices.ContainsFunc(s.ranges, func(p netip.Prefix) bool { return service.FamilyOf(p.Addr()) == f }) {
		return true
	}
	return s.servers[familyIndex(f)] > 0
}

// lengthsOf returns the lengths of source ranges that are in use in a family.
func (s *state) lengthsOf(f service.Family) []int {
	var all []int
	for bits, n := range s.lengths[familyIndex(f)] {
		if n > 0 {
			all = append(all, bits)
		}
	}
	return all
}

func (s acquirer) vip(a netip.Addr) {
	if _, has := s.devices[a]; has {
		return // it is local, and its other ports are the node's
	}
	s.element(element{service.FamilyOf(a), vips, vipKey(a)}, 0)
	if !s.ranged(a) {
		p := netip.PrefixFrom(a, a.BitLen())
		s.routes.acquire(p, s.route(p))
	}
}

func (s releaser) vip(a netip.Addr) {
	if _, has := s.devices[a]; has {
		return
	}
	s.element(element{service.FamilyOf(a), vips, vipKey(a)}, 0)
	if !s.ranged(a) {
		s.routes.release(netip.PrefixFrom(a, a.BitLen()))
	}
}

// nodePorts returns the addresses that NodePorts are at, by the Node and the devices.
func (s *state) nodePorts(f service.Family) []netip.Addr {
	var all []netip.Addr
	for a := range s.devices {
		if service.FamilyOf(a) == f && !a.IsLoopback() &&
			(len(s.node.NodePortAddrs) == 0 || slices.ContainsFunc(s.node.NodePortAddrs, func(p netip.Prefix) bool { return p.Contains(a) })) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func (s *state) ranged(a netip.Addr) bool {
	return slices.ContainsFunc(s.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// markOf returns the mark of an owner: the one it has, the one by which the kernel leads to it, or a new one.
func (s acquirer) markOf(o markOwner, port *service.PortProgram) uint32 {
	if m, ok := s.marks[o]; ok {
		return m
	}
	m, ok := s.recoverMark(o, port)
	if !ok {
		m = s.newMark()
	}
	s.marks[o], s.owners[m] = m, o
	s.taken[m] = struct{}{}
	return m
}

func (s releaser) markOf(o markOwner, _ *service.PortProgram) uint32 { return s.marks[o] }

// recoverMark finds the mark that a process before this one gave: by what leads there.
func (s *state) recoverMark(o markOwner, port *service.PortProgram) (uint32, bool) {
	for _, f := range port.Frontends {
		key := frontendKey(port.Family, f.Addr, port.Protocol, f.Port)
		for _, c := range classes {
			if a := c.route(f).Action; a == service.Drop || poolOf(a) != o.pool {
				continue
			}
			m, ok := s.elements.have[element{port.Family, c.marks, key}]
			_, ours := s.elements.have[element{port.Family, marks, markKey(m)}]
			if _, owned := s.owners[m]; ok && ours && !owned {
				return m, true
			}
		}
	}
	return 0, false
}

func (s *state) newMark() uint32 {
	for range maxMark {
		s.next = (s.next + 1) % maxMark
		m := makeMark(s.next)
		if _, taken := s.taken[m]; !taken {
			return m
		}
	}
	panic("ipvs: a million marks are in use") // there are 65,536 NodePorts of three protocols and two families
}

// freeMarks forgets the marks that no program has any more. They are taken until their virtual servers are gone.
func (s *state) freeMarks() {
	for k := range s.dirty {
		if k.Mark == 0 {
			continue
		}
		if _, wants := s.wantServers[k]; wants {
			continue
		}
		if o, ok := s.owners[k.Mark]; ok {
			delete(s.owners, k.Mark)
			delete(s.marks, o)
		}
	}
}

// settle ends an Apply.
func (s *state) settle(full bool) {
	if full {
		s.dirty, s.elements.dirty, s.routes.dirty, s.draining = compact(s.dirty), compact(s.elements.dirty), compact(s.routes.dirty), compact(s.draining)
	}
}

// counts returns what is there, as a restart would find it.
func (s *state) counts() service.Observed {
	var seen service.Observed
	for e := range s.elements.have {
		switch e.set {
		case frontends:
			seen.Frontends++
		case remoteMarks, remoteDrops:
			if a, _, _, ok := parseFrontendKey(e.key); ok && !a.IsValid() {
				seen.Frontends++
			}
		}
	}
	for _, h := range s.haveServers {
		for _, r := range h.reals {
			if r.Weight > 0 {
				seen.Backends++
			}
		}
	}
	return seen
}

// conflict is a virtual server of somebody else where a Service wants its own.
func conflict(k Key) error {
	return fmt.Errorf("a virtual server that is not podnet's is there: ipvsadm %s: remove it, or set Options.Adopt to take it over", Change{Verb: DeleteServer, Key: k}.String()[len("-D "):])
}
