package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/podnet/podnet/internal/nfnl"
)

// run is the work of one Apply.
type run struct {
	d      *Dataplane
	ctx    context.Context
	tidy   bool // remove chains that nobody uses any more
	keep   bool // leave what nobody asked for
	all    bool // everything is known that is wanted
	writes int
}

// do writes changes. Those that the kernel refuses are marked and left out. last says that no more changes follow.
func (r *run) do(changes []change, last bool) error {
	for {
		tx, after := r.collect(changes, last)
		if tx.Len() == 0 {
			r.done(changes, after)
			return nil
		}
		err := r.d.k.Commit(r.ctx, tx)
		if err == nil {
			r.d.genid.CompareAndSwap(tx.Genid()-1, tx.Genid()) // else somebody came in between, and Watch has to tell of it
			r.writes += tx.Len()
			r.done(changes, after)
			return nil
		}
		r.undo(changes)
		if errors.Is(err, nfnl.ErrTooLarge) && len(changes) > 1 {
			half := len(changes) / 2
			if err := r.do(changes[:half], false); err != nil {
				return err
			}
			changes = changes[half:]
			continue
		}
		var refused nfnl.Refused
		if !errors.As(err, &refused) {
			return err
		}
		if slices.ContainsFunc(refused, func(e *nfnl.Error) bool { return e.Key == nil && unknown(e) }) {
			if lack := r.d.lacking(r.ctx); lack != nil { // no Service is to blame
				return fmt.Errorf("%w (%w)", lack, err)
			}
		}
		if !r.blame(changes, refused) {
			return err
		}
	}
}

// collect makes the transaction of changes, and returns what is to be remembered once it is done.
func (r *run) collect(changes []change, last bool) (*nfnl.Transaction, []outcome) {
	d := r.d
	grown := make([]sizes, len(d.tables))
	for i, t := range d.tables {
		if grown[i] = t.family.sizes; !t.exists || t.broken {
			grown[i] = r.estimate(i, changes)
		}
	}
	sinks := r.shift(changes, grown)
	for r.conflicts(changes, sinks) || r.full(changes, sinks, grown) {
		r.undo(changes)
		sinks = r.shift(changes, grown)
	}
	after := make([]outcome, len(d.tables))
	for i, t := range d.tables {
		s := sinks[i]
		if t.grows(grown[i]) {
			r.refill(i, changes, s)
		}
		after[i] = t.lay(&layer{run: r, s: s, last: last, sizes: grown[i]})
	}
	return &d.tx, after
}

// refill fills the sets of a table that are replaced: first with what stays, so that the kernel blames a change that wants the same.
func (r *run) refill(table int, changes []change, s *sink) {
	d, t := r.d, r.d.tables[table]
	fill := &sink{table: t.name, names: s.names, tx: &d.tx}
	for k := range setKinds {
		fill.without[k] = !s.without[k]
	}
	d.tx.Tag = tagLayout
	t.replay(d.ports(table, d.unchanged(changes)), fill)
	for i := range changes {
		if c := &changes[i]; !c.skip && c.now != nil {
			d.tx.Tag = i + 1
			t.replay(d.ports(table, []*svc{c.now}), fill)
		}
	}
	for k := range fill.added {
		s.added[k] += fill.added[k]
	}
}

// shift begins a transaction with changes, to sets of these sizes. Sets that are to be replaced are left out.
func (r *run) shift(changes []change, grown []sizes) []*sink {
	d := r.d
	d.tx.Reset()
	d.attempts++
	sinks := make([]*sink, len(d.tables))
	for i, t := range d.tables {
		f := t.family
		f.sizes = grown[i]
		s := &sink{table: t.name, tx: &d.tx, have: d.have[t], attempt: d.attempts}
		for k := range setKinds {
			s.names[k] = f.name(k)
			s.without[k] = k < sizedKinds && t.grows(grown[i]) && grown[i][k] != t.family.sizes[k]
		}
		sinks[i] = s
	}
	for i := range changes {
		if c := &changes[i]; !c.skip {
			d.tx.Tag = i + 1
			d.shift(c.old, c.now, sinks)
			c.shifted = true
		}
	}
	return sinks
}

// estimate returns sizes for a table that has nothing yet: what it will have is among the changes.
func (r *run) estimate(table int, changes []change) sizes {
	var n [sizedKinds]int
	for i := range changes {
		if changes[i].skip || changes[i].now == nil {
			continue
		}
		for j := range changes[i].now.ports {
			p := changes[i].now.ports[j].prog
			if r.d.tableIndex(p) != table {
				continue
			}
			endpoints := len(p.Cluster) + len(p.Local)
			n[setFrontends] += len(p.Frontends)
			n[setEndpoints] += endpoints
			n[setClusterIPs]++
			if p.Affinity > 0 {
				n[setActive] += endpoints
			}
		}
	}
	var all sizes
	for k := range all {
		all[k] = sizeFor(n[k], r.d.least)
	}
	return all
}

// full reports whether a set is too small for a transaction, and gives it a larger size. What goes makes room only when the transaction is done.
func (r *run) full(changes []change, sinks []*sink, grown []sizes) bool {
	found := false
	for i, t := range r.d.tables {
		for k := range setKind(sizedKinds) {
			s := sinks[i]
			if !s.without[k] && t.elements[k]+s.added[k] > int(grown[i][k]) {
				grown[i][k] = sizeFor(max(t.elements[k]+s.added[k]-s.removed[k], int(grown[i][k])), r.d.least)
				found = true
			}
		}
	}
	return found
}

// conflicts gives up on changes that want what others have. What they had before may be what is in conflict, so that is left out too.
func (r *run) conflicts(changes []change, sinks []*sink) bool {
	found := false
	for _, s := range sinks {
		for _, tag := range s.conflict {
			c := &changes[tag-1]
			c.err, c.skip, found = errors.Join(errTwice, c.err), true, true
		}
	}
	return found
}

var errTwice = errors.New("another Service has this address and port; a Tracker gives it to one only")

// undo takes the changes back in memory.
func (r *run) undo(changes []change) {
	discard := make([]*sink, len(r.d.tables))
	for i := range discard {
		discard[i] = &sink{}
	}
	for i := len(changes) - 1; i >= 0; i-- {
		if c := &changes[i]; c.shifted {
			r.d.shift(c.now, c.old, discard)
			c.shifted = false
		}
	}
}

// blame gives up on what the kernel named. It reports whether there is something left to try.
func (r *run) blame(changes []change, refused nfnl.Refused) bool {
	progress := false
	for _, e := range refused {
		switch {
		case e.Whole || e.Tag == tagLayout:
			return false
		case e.Tag == tagTidy:
			progress = progress || r.tidy
			r.tidy = false
		default:
			if c := &changes[e.Tag-1]; !c.skip {
				c.err = errors.Join(c.err, e)
				r.d.fallBack(c)
				progress = true
			}
		}
	}
	return progress
}

// done remembers what the kernel has now.
func (r *run) done(changes []change, after []outcome) {
	for _, h := range r.d.have {
		h.done[r.d.attempts] = true
	}
	for i, t := range r.d.tables {
		t.accept(after[i])
	}
	for i := range changes {
		c := &changes[i]
		c.shifted = false
		switch {
		case c.skip:
		case c.now == nil:
			delete(r.d.services, c.name)
		default:
			r.d.services[c.name] = c.now
		}
	}
}
