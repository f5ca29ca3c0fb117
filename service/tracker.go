package service

import (
	"maps"
	"net/netip"
	"slices"
)

// Tracker holds Services, their endpoints and the node, and knows what changed. It does no I/O. One goroutine at a time may use it.
type Tracker struct {
	node         Node
	entries      map[Name]*entry
	dirty        map[Name]struct{}
	claims       claims
	clusterIPs   map[netip.Addr]int               // how many Services have it
	wantExternal map[netip.Addr]map[Name]struct{} // who asks for it as an external or load balancer address
}

// entry is what is known under one name: a Service, slices, or both. Either may come first.
type entry struct {
	service Service
	known   bool // the Service is there
	slices  map[string]*held
	orders  map[orderOf]*order // of a Service with many endpoints
}

// remembered is the number of endpoints of a Service from which on their order is kept: to sort them again would take most of the time of a change. With fewer, the memory is better saved.
const remembered = 1000

// remember returns where the order of endpoints is kept, nil if it is not.
func (e *entry) remember() map[orderOf]*order {
	n := 0
	for _, s := range e.slices {
		n += len(s.Endpoints)
	}
	switch {
	case n < remembered:
		e.orders = nil
	case e.orders == nil:
		e.orders = map[orderOf]*order{}
	}
	return e.orders
}

// NewTracker returns an empty Tracker.
func NewTracker() *Tracker {
	return &Tracker{
		entries: map[Name]*entry{}, dirty: map[Name]struct{}{}, claims: newClaims(),
		clusterIPs: map[netip.Addr]int{}, wantExternal: map[netip.Addr]map[Name]struct{}{},
	}
}

// Node returns the node.
func (t *Tracker) Node() Node { return t.node }

// SetNode replaces the node. It reports whether that is a change, which makes everything dirty.
func (t *Tracker) SetNode(n Node) bool {
	if t.node.Equal(n) {
		return false
	}
	t.node = n.clone()
	for _, e := range t.entries {
		e.orders = nil // they depend on what is local
	}
	t.MarkAll()
	return true
}

// MarkAll makes everything dirty.
func (t *Tracker) MarkAll() {
	for name := range t.entries {
		t.dirty[name] = struct{}{}
	}
}

// Mark makes one Service dirty, whether it is there or not.
func (t *Tracker) Mark(n Name) { t.dirty[n] = struct{}{} }

// SetService adds a Service or replaces it. The lists in s belong to the Tracker afterwards. It reports whether that is a change.
func (t *Tracker) SetService(s Service) bool {
	e := t.entry(s.Name)
	if e.known && e.service.Equal(s) {
		return false
	}
	old := e.service
	e.service, e.known, e.orders = s, true, nil
	t.index(s.Name, old, s)
	t.dirty[s.Name] = struct{}{}
	return true
}

// DeleteService removes a Service. Its slices stay until they are deleted themselves. It reports whether that is a change.
func (t *Tracker) DeleteService(n Name) bool {
	e, ok := t.entries[n]
	if !ok || !e.known {
		return false
	}
	t.index(n, e.service, Service{})
	e.service, e.known, e.orders = Service{}, false, nil
	t.tidy(n, e)
	t.dirty[n] = struct{}{}
	return true
}

// SetSlice adds or replaces one slice of a Service's endpoints, under a name of its own; "" will do for who has only one. The lists in s belong to the Tracker
// afterwards. It reports whether that is a change.
func (t *Tracker) SetSlice(service Name, slice string, s Slice) bool {
	e := t.entry(service)
	old, ok := e.slices[slice]
	if ok && old.Equal(s) {
		return false
	}
	if ok {
		old.gone = true
	}
	e.slices[slice] = hold(s)
	if e.known {
		t.dirty[service] = struct{}{}
	}
	return true
}

// DeleteSlice removes a slice. It reports whether that is a change.
func (t *Tracker) DeleteSlice(service Name, slice string) bool {
	e, ok := t.entries[service]
	if !ok {
		return false
	}
	old, ok := e.slices[slice]
	if !ok {
		return false
	}
	old.gone = true
	delete(e.slices, slice)
	t.tidy(service, e)
	if e.known {
		t.dirty[service] = struct{}{}
	}
	return true
}

// Len returns the number of Services.
func (t *Tracker) Len() int {
	n := 0
	for _, e := range t.entries {
		if e.known {
			n++
		}
	}
	return n
}

// Dirty returns the number of names that Take would plan.
func (t *Tracker) Dirty() int { return len(t.dirty) }

// Planned is what Take says of one name.
type Planned struct {
	Program Program // with the name only, if nothing is to be programmed: the Service is gone, headless or empty
	Faults  []Fault
}

// Take plans the dirty names and makes them clean. The result is sorted by name. A Service that wins or loses a frontend through it is in the result too.
func (t *Tracker) Take() []Planned {
	planned := map[Name]Planned{}
	for len(t.dirty) > 0 {
		names := slices.SortedFunc(maps.Keys(t.dirty), Name.compare)
		clear(t.dirty)
		for _, n := range names {
			p := t.plan(n)
			planned[n] = p
			for _, other := range t.claims.set(n, t.created(n), p.Program) {
				if _, ok := planned[other]; !ok {
					t.dirty[other] = struct{}{}
				}
			}
		}
	}
	out := make([]Planned, 0, len(planned))
	for _, n := range slices.SortedFunc(maps.Keys(planned), Name.compare) {
		out = append(out, t.settle(planned[n])) // now everybody's claims are known
	}
	return out
}

// plan plans one Service, as if it were alone.
func (t *Tracker) plan(n Name) Planned {
	e, ok := t.entries[n]
	if !ok || !e.known {
		return Planned{Program: Program{Name: n}}
	}
	of := endpointSlices{slices: make([]*held, 0, len(e.slices)), orders: e.remember()}
	for _, name := range slices.Sorted(maps.Keys(e.slices)) {
		of.slices = append(of.slices, e.slices[name])
	}
	p, found := plan(t.node, e.service, of, func(a netip.Addr) bool { return t.clusterIPs[a] > 0 })
	return Planned{p, found}
}

// settle takes out the frontends that an other Service has.
func (t *Tracker) settle(p Planned) Planned {
	for i := range p.Program.Ports {
		port := &p.Program.Ports[i]
		port.Frontends = keep(port.Frontends, func(f Frontend) bool {
			owner := t.claims.owner(claimOf(*port, f))
			if owner != p.Program.Name {
				p.Faults = append(p.Faults, Fault{Field: f.Kind.String(), Value: f.String(), Reason: "is taken by " + owner.String() + ", which comes first: a ClusterIP, or the older Service"})
			}
			return owner == p.Program.Name
		})
	}
	p.Program.Ports = keep(p.Program.Ports, func(port PortProgram) bool { return len(port.Frontends) > 0 })
	return p
}

func (t *Tracker) created(n Name) int64 {
	if e, ok := t.entries[n]; ok {
		return e.service.Created
	}
	return 0
}

func (t *Tracker) entry(n Name) *entry {
	e, ok := t.entries[n]
	if !ok {
		e = &entry{slices: map[string]*held{}}
		t.entries[n] = e
	}
	return e
}

// tidy forgets an entry that holds nothing.
func (t *Tracker) tidy(n Name, e *entry) {
	if !e.known && len(e.slices) == 0 {
		delete(t.entries, n)
	}
}

// index keeps clusterIPs and wantExternal, and makes those dirty whose external address became or ceased to be a ClusterIP.
func (t *Tracker) index(n Name, old, new Service) {
	for _, a := range old.ClusterIPs {
		if t.clusterIPs[a]--; t.clusterIPs[a] == 0 {
			delete(t.clusterIPs, a)
			t.markWanting(a)
		}
	}
	for _, a := range new.ClusterIPs {
		if t.clusterIPs[a]++; t.clusterIPs[a] == 1 {
			t.markWanting(a)
		}
	}
	for _, a := range slices.Concat(old.ExternalIPs, old.LoadBalancerIPs) {
		if delete(t.wantExternal[a], n); len(t.wantExternal[a]) == 0 {
			delete(t.wantExternal, a)
		}
	}
	for _, a := range slices.Concat(new.ExternalIPs, new.LoadBalancerIPs) {
		if t.wantExternal[a] == nil {
			t.wantExternal[a] = map[Name]struct{}{}
		}
		t.wantExternal[a][n] = struct{}{}
	}
}

func (t *Tracker) markWanting(a netip.Addr) {
	for n := range t.wantExternal[a] {
		t.dirty[n] = struct{}{}
	}
}
