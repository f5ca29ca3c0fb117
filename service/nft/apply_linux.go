package nft

import (
	"context"
	"fmt"
	"slices"

	"github.com/podnet/podnet/service"
)

// Tags of changes in a transaction: the number of the change to a Service from 1 on, and these.
const (
	tagLayout = 0
	tagTidy   = -1 // may fail: the next time is early enough
)

// change is a Service that changes; nil is no Service.
type change struct {
	name     service.Name
	old, now *svc
	fallback *svc  // what to keep if now is refused and nothing is there yet
	err      error // why it is not so
	skip     bool  // it stays as it was
	shifted  bool  // the tables count it
}

// Apply makes the tables so, in one transaction unless that is larger than the socket takes.
func (d *Dataplane) Apply(ctx context.Context, delta service.Delta) (service.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.known && d.have == nil {
		if _, err := d.observeAll(ctx); err != nil {
			return service.Result{}, err
		}
	}
	d.applies++
	for _, t := range d.tables {
		t.retire(d.applies)
	}
	var changes []change
	keep := false
	if d.have != nil {
		changes = d.everything(delta)
		keep = !delta.Full && !d.applied // who knows what else is wanted
	} else {
		changes = d.changes(delta)
	}
	r := run{d: d, ctx: ctx, tidy: true, keep: keep, all: delta.Full}
	if err := r.do(changes, true); err != nil {
		d.have, d.known = nil, false
		return service.Result{}, d.explain(ctx, err)
	}
	d.have, d.known, d.applied = nil, true, d.applied || delta.Full
	result := service.Result{Writes: r.writes}
	for _, c := range changes {
		if c.err != nil {
			if result.Failed == nil {
				result.Failed = map[service.Name]error{}
			}
			result.Failed[c.name] = fmt.Errorf("service/nft: %w", c.err)
		}
	}
	return result, nil
}

// changes compares a delta with what is programmed.
func (d *Dataplane) changes(delta service.Delta) []change {
	sameNode := d.node.Equal(delta.Node)
	d.node = delta.Node
	all := make([]change, 0, len(delta.Set)+len(delta.Delete))
	for _, p := range delta.Set {
		old := d.services[p.Name]
		if old != nil && sameNode && old.prog.Equal(p) {
			continue
		}
		c := change{name: p.Name, old: old}
		if c.err = check(p); c.err != nil {
			c.skip = true
		} else {
			c.now = d.build(p, old)
		}
		all = append(all, c)
	}
	for _, n := range delta.Delete {
		if old := d.services[n]; old != nil {
			all = append(all, change{name: n, old: old})
		}
	}
	if !delta.Full {
		return all
	}
	wanted := wantedNames(delta)
	for n, old := range d.services {
		if !wanted[n] && !slices.Contains(delta.Delete, n) {
			all = append(all, change{name: n, old: old})
		}
	}
	return all
}

func wantedNames(delta service.Delta) map[service.Name]bool {
	wanted := make(map[service.Name]bool, len(delta.Set))
	for _, p := range delta.Set {
		wanted[p.Name] = true
	}
	return wanted
}

// everything makes a change of each Service that is wanted: the tables start empty and are compared with what the kernel has.
func (d *Dataplane) everything(delta service.Delta) []change {
	d.node = delta.Node
	before := d.services
	d.services = make(map[service.Name]*svc, len(delta.Set))
	for i, t := range d.tables {
		h := d.have[t]
		delete(d.have, t)
		d.tables[i] = newTable(t.family, d.o.Name)
		d.tables[i].used = make(map[uint32]bool, len(delta.Set))
		d.tables[i].adopt(h)
		d.have[d.tables[i]] = h
	}
	all := make([]change, 0, len(delta.Set))
	for _, p := range delta.Set {
		c := change{name: p.Name, fallback: before[p.Name]}
		if c.err = check(p); c.err == nil {
			c.now = d.build(p, nil)
		} else {
			d.fallBack(&c)
		}
		all = append(all, c)
	}
	if delta.Full {
		return all
	}
	wanted := wantedNames(delta)
	for n, old := range before {
		if !wanted[n] && !slices.Contains(delta.Delete, n) {
			all = append(all, change{name: n, now: d.build(old.prog, nil)})
		}
	}
	return all
}

// fallBack gives up on a change: what was there before stays.
func (d *Dataplane) fallBack(c *change) {
	if c.fallback == nil {
		c.skip = true
		return
	}
	c.now, c.fallback = d.build(c.fallback.prog, nil), nil
}

// build makes the state of a Service out of its program and what it was before.
func (d *Dataplane) build(p service.Program, old *svc) *svc {
	s := &svc{prog: p, ports: make([]port, len(p.Ports))}
	for i := range p.Ports {
		t := d.tables[d.tableIndex(&p.Ports[i])]
		s.ports[i] = t.build(&d.node, &p.Ports[i], old.find(&p.Ports[i]), d.have[t])
	}
	return s
}

// find returns the state of a port, nil if there is none.
func (s *svc) find(p *service.PortProgram) *port {
	if s == nil {
		return nil
	}
	for i := range s.ports {
		if o := s.ports[i].prog; o.Port == p.Port && o.Protocol == p.Protocol && o.Family == p.Family {
			return &s.ports[i]
		}
	}
	return nil
}

func (d *Dataplane) tableIndex(p *service.PortProgram) int {
	if p.Family == service.IPv4 {
		return 0
	}
	return 1
}

// shift changes the tables from one state of a Service to another.
func (d *Dataplane) shift(old, now *svc, sinks []*sink) {
	if now != nil {
		for i := range now.ports {
			p := &now.ports[i]
			n := d.tableIndex(p.prog)
			d.tables[n].shift(old.find(p.prog), p, sinks[n])
		}
	}
	if old == nil {
		return
	}
	for i := range old.ports {
		if p := &old.ports[i]; now.find(p.prog) == nil {
			n := d.tableIndex(p.prog)
			d.tables[n].shift(p, nil, sinks[n])
		}
	}
}

// unchanged returns the Services that stay as they are.
func (d *Dataplane) unchanged(changes []change) []*svc {
	changed := make(map[service.Name]bool, len(changes))
	for i := range changes {
		changed[changes[i].name] = !changes[i].skip
	}
	all := make([]*svc, 0, len(d.services))
	for n, s := range d.services {
		if !changed[n] {
			all = append(all, s)
		}
	}
	return all
}

// ports returns the ports of Services that belong to a table.
func (d *Dataplane) ports(table int, services []*svc) []*port {
	var all []*port
	for _, s := range services {
		for i := range s.ports {
			if d.tableIndex(s.ports[i].prog) == table {
				all = append(all, &s.ports[i])
			}
		}
	}
	return all
}
