package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Config is a whole desired state. The zero Config has no Services.
type Config struct {
	Node      Node
	Services  []Service
	Endpoints map[Name][]Slice
}

// Plan is what Apply would do.
type Plan struct {
	Set     []Program // new or changed, sorted
	Delete  []Name    // gone, sorted
	Foreign bool      // the kernel is not as it was left: everything is compared
	Faults  map[Name][]Fault
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Set) == 0 && len(p.Delete) == 0 && !p.Foreign }

// Plan returns what Apply would do. It only reads. Differences are those to what this Reconciler applied before, and Foreign ones.
func (r *Reconciler) Plan(ctx context.Context, want Config) (Plan, error) {
	r.syncing.Lock()
	defer r.syncing.Unlock()
	seen, err := r.dataplane.Observe(ctx)
	if err != nil {
		r.observed = false
		return Plan{}, fmt.Errorf("service: read %s: %w", r.dataplane.Capabilities().Name, err)
	}
	r.observed, r.full = true, true
	scratch := NewTracker()
	want.fill(scratch)
	p := Plan{Foreign: seen.Foreign}
	there := map[Name]bool{}
	for _, one := range scratch.Take() {
		name := one.Program.Name
		there[name] = len(one.Program.Ports) > 0
		if len(one.Faults) > 0 {
			if p.Faults == nil {
				p.Faults = map[Name][]Fault{}
			}
			p.Faults[name] = one.Faults
		}
		if there[name] && (r.unsure[name] || !r.applied[name].Equal(one.Program)) {
			p.Set = append(p.Set, one.Program)
		}
	}
	for n := range r.applied {
		if !there[n] {
			p.Delete = append(p.Delete, n)
		}
	}
	slices.SortFunc(p.Delete, Name.compare)
	return p, nil
}

// Apply makes the dataplane as want says: everything else that it owns goes. It returns what it did; the errors of Services that failed alone are joined in the error.
func (r *Reconciler) Apply(ctx context.Context, want Config) (Report, error) {
	r.mu.Lock()
	want.fill(r.tracker)
	r.foreign = true // a level: compare with the kernel, not with memory
	r.mu.Unlock()
	report, err := r.Sync(ctx)
	if err != nil {
		return report, err
	}
	var failed []error
	for _, n := range slices.SortedFunc(maps.Keys(report.Failed), Name.compare) {
		failed = append(failed, fmt.Errorf("service %s: %w", n, report.Failed[n]))
	}
	return report, errors.Join(failed...)
}

// fill makes a tracker hold just the Config.
func (c Config) fill(t *Tracker) {
	t.SetNode(c.Node)
	services := map[Name]bool{}
	for _, s := range c.Services {
		services[s.Name] = true
		t.SetService(s)
	}
	for n, endpoints := range c.Endpoints {
		for i, s := range endpoints {
			t.SetSlice(n, strconv.Itoa(i), s)
		}
	}
	for n, e := range maps.Clone(t.entries) {
		if !services[n] {
			t.DeleteService(n)
		}
		for slice := range maps.Clone(e.slices) {
			if i, err := strconv.Atoi(slice); err != nil || i >= len(c.Endpoints[n]) {
				t.DeleteSlice(n, slice)
			}
		}
	}
}
