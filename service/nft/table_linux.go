package nft

import (
	"net/netip"
	"slices"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// table is what the dataplane knows of its table in one family.
type table struct {
	family   family
	name     nfnl.Table
	exists   bool            // in the kernel, with all sets
	elements [sizedKinds]int // in the kernel
	broken   bool            // it has to be made anew
	base     *base
	pods     service.LocalPods // as the chains of classes tell them
	foreign  []string          // sets that are not ours

	nextID, nextClass uint32
	used              map[uint32]bool // ids, while everything is compared with the kernel
	classes           map[class]*classState
	orphans           map[string]*classState // chains that no class has, by name

	// How many need something; at 0 it goes.
	clusterIPs, hairpins map[netip.Addr]int
	prefixes             [129]int // ports, by length of source range
	ports                int
	nodePorts            int // frontends
	restricted           int // frontends
}

func newTable(f family, instance string) *table {
	return &table{
		family: f, name: nfnl.Table{Family: f.nf, Name: tableName(instance)}, nextID: 1, nextClass: 1,
		classes: map[class]*classState{}, orphans: map[string]*classState{}, clusterIPs: map[netip.Addr]int{}, hairpins: map[netip.Addr]int{},
	}
}

// hold is the table that keeps NAT at work.
func (t *table) hold() nfnl.Table {
	return nfnl.Table{Family: t.name.Family, Name: t.name.Name + "-hold"}
}

// needed reports whether there is anything to do in this family.
func (t *table) needed(n service.Node) bool {
	return t.ports > 0 || len(prefixesOf(&t.family, n.ServiceCIDRs)) > 0
}

// build makes the state of a port out of its program and what it was before. have is what the kernel has, if that is to be compared.
func (t *table) build(n *service.Node, p *service.PortProgram, old *port, have *snapshot) port {
	now := port{prog: p, classes: make([]*classState, len(p.Frontends))}
	for i := range p.Frontends {
		now.classes[i] = t.classFor(n, p, &p.Frontends[i])
	}
	var cluster, local list
	switch {
	case old != nil:
		now.id = old.id
		cluster, local = list{old.prog.Cluster, old.cluster}, list{old.prog.Local, old.local}
	case have != nil:
		if now.id = have.idOf(p, t.used); now.id != 0 {
			cluster, local = have.listOf(now.id, kindCluster, len(p.Cluster)), have.listOf(now.id, kindLocal, len(p.Local))
		}
	}
	if now.id == 0 {
		now.id = t.nextID
		t.nextID++
	}
	if have != nil {
		t.used[now.id] = true
	}
	now.cluster = assign(cluster.backends, cluster.index, p.Cluster)
	now.local = assign(local.backends, local.index, p.Local)
	return now
}

// classFor returns the class of a frontend, new if it has to be.
func (t *table) classFor(n *service.Node, p *service.PortProgram, x *service.Frontend) *classState {
	c := classOf(&t.family, n, p, x)
	if s := t.classes[c]; s != nil {
		return s
	}
	s := &classState{class: c, name: c.name()}
	if o := t.orphans[s.name]; o != nil { // its chains are compared, or written, before they are used
		s.number, s.element = o.number, o.element
		delete(t.orphans, s.name)
	}
	if !s.element {
		s.number = t.nextClass
		t.nextClass++
	}
	t.classes[c] = s
	return s
}

// shift changes the table from one state of a port to another; nil is no port. It counts what several ports need, and hands the elements to the sink. Undoing it is shifting back.
// Both states are of the same port, protocol and id.
func (t *table) shift(old, now *port, s *sink) {
	var none port
	switch {
	case old == nil:
		none.prog, none.id, old = &service.PortProgram{Protocol: now.prog.Protocol}, now.id, &none
		t.ports++
	case now == nil:
		none.prog, none.id, now = &service.PortProgram{Protocol: old.prog.Protocol}, old.id, &none
		t.ports--
	}
	t.shiftFrontends(old, now, s)
	t.shiftSources(old, now, s)
	t.shiftEndpoints(kindCluster, old.id, list{old.prog.Cluster, old.cluster}, list{now.prog.Cluster, now.cluster}, s)
	t.shiftEndpoints(kindLocal, old.id, list{old.prog.Local, old.local}, list{now.prog.Local, now.local}, s)
	t.shiftActive(kindCluster, old, now, s)
	t.shiftActive(kindLocal, old, now, s)
}

// shiftFrontends does the frontends with their classes, the ClusterIPs and the firewall's list.
func (t *table) shiftFrontends(old, now *port, s *sink) {
	var key, data value
	for i := range now.prog.Frontends {
		x, c := &now.prog.Frontends[i], now.classes[i]
		if c.refs == 0 && s.tx != nil {
			c.tag = s.tx.Tag
		}
		c.refs++
		t.count(x, +1, s)
		was := old.find(x)
		if was >= 0 && old.classes[was] == c {
			continue
		}
		k := key.reset().frontend(&t.family, now.prog.Protocol, x).bytes()
		if was >= 0 {
			s.remove(setFrontends, k)
		}
		s.add(setFrontends, k, data.reset().word(0).word(c.number).word(now.id).bytes())
	}
	for i := range old.prog.Frontends {
		x := &old.prog.Frontends[i]
		old.classes[i].refs--
		t.count(x, -1, s)
		if now.find(x) < 0 {
			s.remove(setFrontends, key.reset().frontend(&t.family, old.prog.Protocol, x).bytes())
		}
	}
}

// find returns the place of a frontend, -1 if there is none like it.
func (p *port) find(x *service.Frontend) int {
	return slices.IndexFunc(p.prog.Frontends, func(y service.Frontend) bool {
		return y.Port == x.Port && y.Addr == x.Addr && (y.Kind == service.NodePort) == (x.Kind == service.NodePort)
	})
}

// shiftSources does the source ranges, and which frontends they are for.
func (t *table) shiftSources(old, now *port, s *sink) {
	var key value
	shiftSet(guarded(old.prog), guarded(now.prog), func(x service.Frontend, by int) {
		t.restricted += by
		s.put(by > 0, setRestricted, key.reset().frontend(&t.family, now.prog.Protocol, &x).bytes())
	})
	shiftSet(ranges(old.prog), ranges(now.prog), func(p netip.Prefix, by int) {
		t.prefixes[p.Bits()] += by
		s.put(by > 0, setSources, key.reset().word(now.id).word(uint32(p.Bits())).addr(p.Masked().Addr()).bytes())
	})
}

// ranges returns the source ranges, if they are for anybody: a frontend may belong to another Service.
func ranges(p *service.PortProgram) []netip.Prefix {
	if !slices.ContainsFunc(p.Frontends, func(x service.Frontend) bool { return x.Restricted }) {
		return nil
	}
	return p.SourceRanges
}

// guarded returns the frontends with source ranges, reduced to their address and port.
func guarded(p *service.PortProgram) []service.Frontend {
	var out []service.Frontend
	for _, x := range p.Frontends {
		if x.Restricted {
			out = append(out, service.Frontend{Kind: x.Kind, Addr: x.Addr, Port: x.Port})
		}
	}
	return out
}

// shiftSet calls f for what comes, and for what goes.
func shiftSet[T comparable](old, now []T, f func(x T, by int)) {
	for _, x := range now {
		if !slices.Contains(old, x) {
			f(x, +1)
		}
	}
	for _, x := range old {
		if !slices.Contains(now, x) {
			f(x, -1)
		}
	}
}

// count counts what a frontend needs.
func (t *table) count(x *service.Frontend, by int, s *sink) {
	switch x.Kind {
	case service.ClusterIP:
		if present(t.clusterIPs, x.Addr, by) {
			var key value
			s.put(by > 0, setClusterIPs, key.addr(x.Addr).bytes())
		}
	case service.NodePort:
		t.nodePorts += by
	}
}

// present counts, and reports whether something became needed, or is not needed any more.
func present(m map[netip.Addr]int, a netip.Addr, by int) bool {
	n := m[a] + by
	if n == 0 {
		delete(m, a)
		return true
	}
	m[a] = n
	return n == 1 && by > 0
}

// replay hands all elements of ports to a sink, as if the table had been empty.
func (t *table) replay(ports []*port, s *sink) {
	scratch := newTable(t.family, "")
	for _, p := range ports {
		scratch.shift(nil, p, s)
	}
	for _, p := range ports { // classes are shared with the scratch table
		for _, c := range p.classes {
			c.refs--
		}
	}
}
