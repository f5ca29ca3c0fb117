package service

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Options are the settings of a Reconciler. The zero Options work.
type Options struct {
	// Logger gets one line per sync that changed or failed something, from Run only. nil discards.
	Logger *slog.Logger

	// MinSyncPeriod is the least time between the starts of two syncs of Run: changes in between are one. 0 is 100 ms; negative is none.
	MinSyncPeriod time.Duration

	// ResyncPeriod is how often Run compares everything with the kernel although nobody told of a change. 0 is one hour, as with kube-proxy; negative is never.
	ResyncPeriod time.Duration

	// OnSync is called after every sync, by the goroutine of the sync. It must not call the Reconciler's Sync, Plan or Apply. nil is nobody.
	OnSync func(Report, error)
}

// Report is what a sync did.
type Report struct {
	Full     bool // everything was compared
	Changes  []Change
	Failed   map[Name]error   // not, or not wholly, in place; they are tried again
	Faults   map[Name][]Fault // of the Services that were planned anew: an absent one of Planned has none
	Planned  []Name
	Writes   int       // kernel objects; of a Full report without Changes: that somebody else had changed
	Programs []Program // of a Full report: all that are wanted. Not to be changed
	Took     time.Duration
	Services int // that are programmed now

	// NoLocalInternal and NoLocalExternal count the Services that a traffic policy Local makes unreachable on this node, of all.
	NoLocalInternal, NoLocalExternal int
}

// Change is what a sync changed for one Service. The zero Program stands for none.
type Change struct {
	Name          Name
	Before, After Program
}

// Status is how far a Reconciler is behind.
type Status struct {
	Pending time.Time // since when a change waits to be synced; zero: none does
	Synced  time.Time // when the last sync succeeded; zero: none did
}

// Reconciler keeps a dataplane as Services want it. Make one with New.
type Reconciler struct {
	dataplane Dataplane
	o         Options
	wake      chan struct{}

	mu      sync.Mutex // guards what follows, never held over I/O
	tracker *Tracker
	foreign bool // somebody changed the kernel
	newNode bool // the dataplane does not know the node yet
	status  Status

	syncing  sync.Mutex       // held by a sync; guards what follows
	applied  map[Name]Program // what the dataplane has, as far as is known
	unsure   map[Name]bool    // failed: to be written again even if equal
	observed bool             // the dataplane knows its kernel
	full     bool             // the next delta has everything
	noLocal  [2]int           // counts over applied: internal, external
}

// New returns a Reconciler for a dataplane. It touches nothing.
func New(d Dataplane, o Options) *Reconciler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MinSyncPeriod == 0 {
		o.MinSyncPeriod = 100 * time.Millisecond
	}
	if o.ResyncPeriod == 0 {
		o.ResyncPeriod = time.Hour
	}
	return &Reconciler{
		dataplane: d, o: o, wake: make(chan struct{}, 1), tracker: NewTracker(),
		applied: map[Name]Program{}, unsure: map[Name]bool{}, full: true,
	}
}

// SetNode replaces the node.
func (r *Reconciler) SetNode(n Node) {
	r.change(func(t *Tracker) bool {
		changed := t.SetNode(n)
		r.newNode = r.newNode || changed
		return changed
	})
}

// SetService adds or replaces a Service. Its lists belong to the Reconciler afterwards.
func (r *Reconciler) SetService(s Service) {
	r.change(func(t *Tracker) bool { return t.SetService(s) })
}

// DeleteService removes a Service; one that is not there is no error.
func (r *Reconciler) DeleteService(n Name) {
	r.change(func(t *Tracker) bool { return t.DeleteService(n) })
}

// SetSlice adds or replaces a slice of a Service's endpoints; see Tracker.SetSlice.
func (r *Reconciler) SetSlice(service Name, slice string, s Slice) {
	r.change(func(t *Tracker) bool { return t.SetSlice(service, slice, s) })
}

// DeleteSlice removes a slice; one that is not there is no error.
func (r *Reconciler) DeleteSlice(service Name, slice string) {
	r.change(func(t *Tracker) bool { return t.DeleteSlice(service, slice) })
}

// Resync has the next sync compare everything with the kernel.
func (r *Reconciler) Resync() {
	r.mu.Lock()
	r.foreign = true
	r.mu.Unlock()
	r.wakeUp()
}

// Status says how far the Reconciler is behind.
func (r *Reconciler) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Pending returns the number of Services that the next sync plans.
func (r *Reconciler) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tracker.Dirty()
}

func (r *Reconciler) change(do func(*Tracker) bool) {
	r.mu.Lock()
	changed := do(r.tracker)
	if changed && r.status.Pending.IsZero() && (r.newNode || r.tracker.Dirty() > 0) {
		r.status.Pending = time.Now()
	}
	r.mu.Unlock()
	if changed {
		r.wakeUp()
	}
}

func (r *Reconciler) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Sync brings what changed into the dataplane. The error is about everything and leaves the change to be synced; Services that failed alone are in the Report.
func (r *Reconciler) Sync(ctx context.Context) (Report, error) {
	r.syncing.Lock()
	defer r.syncing.Unlock()
	start := time.Now()
	report, err := r.sync(ctx)
	report.Took = time.Since(start)
	r.mu.Lock()
	if err == nil {
		r.status.Synced = time.Now()
		if r.tracker.Dirty() == 0 {
			r.status.Pending = time.Time{}
		} else { // failed ones, or what came meanwhile
			r.status.Pending = start
		}
	}
	r.mu.Unlock()
	if r.o.OnSync != nil {
		r.o.OnSync(report, err)
	}
	return report, err
}

func (r *Reconciler) sync(ctx context.Context) (Report, error) {
	if err := r.observe(ctx); err != nil {
		return Report{}, err
	}
	r.mu.Lock()
	planned, node := r.tracker.Take(), r.tracker.Node()
	r.full = r.full || r.newNode
	r.newNode = false
	r.mu.Unlock()
	full := r.full
	d, report := r.delta(planned, node)
	if !d.Full && len(d.Set) == 0 && len(d.Delete) == 0 {
		r.count(&report)
		return report, nil
	}
	result, err := r.dataplane.Apply(ctx, d)
	if err != nil {
		r.observed, r.full = false, true
		r.again(planned)
		report.Changes = nil
		return report, fmt.Errorf("service: %s: %w", r.dataplane.Capabilities().Name, err)
	}
	r.full = false
	report.Full, report.Writes, report.Failed = full, result.Writes, result.Failed
	if full {
		report.Programs = d.Set
	}
	r.accept(&report)
	r.count(&report)
	return report, nil
}

// observe has the dataplane read its kernel if that is due.
func (r *Reconciler) observe(ctx context.Context) error {
	r.mu.Lock()
	due := r.foreign || !r.observed
	r.foreign = false
	r.mu.Unlock()
	if !due {
		return nil
	}
	r.full = true
	if _, err := r.dataplane.Observe(ctx); err != nil {
		r.observed = false
		return fmt.Errorf("service: read %s: %w", r.dataplane.Capabilities().Name, err)
	}
	r.observed = true
	return nil
}

// delta compares the plans with what is there.
func (r *Reconciler) delta(planned []Planned, node Node) (Delta, Report) {
	d := Delta{Node: node, Full: r.full}
	report := Report{}
	for _, p := range planned {
		name := p.Program.Name
		report.Planned = append(report.Planned, name)
		if len(p.Faults) > 0 {
			if report.Faults == nil {
				report.Faults = map[Name][]Fault{}
			}
			report.Faults[name] = p.Faults
		}
		before := r.applied[name]
		if !r.unsure[name] && before.Equal(orNone(p.Program)) {
			continue
		}
		report.Changes = append(report.Changes, Change{name, before, orNone(p.Program)})
		if len(p.Program.Ports) == 0 {
			d.Delete = append(d.Delete, name)
		} else {
			d.Set = append(d.Set, p.Program)
		}
	}
	if d.Full {
		d.Set = r.everything(d.Set, d.Delete)
	}
	return d, report
}

// orNone turns a program that programs nothing into the zero Program.
func orNone(p Program) Program {
	if len(p.Ports) == 0 {
		return Program{}
	}
	return p
}

// everything returns what is applied and not changed, and what is.
func (r *Reconciler) everything(set []Program, gone []Name) []Program {
	all := maps.Clone(r.applied)
	for _, n := range gone {
		delete(all, n)
	}
	for _, p := range set {
		all[p.Name] = p
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Program) int { return a.Name.compare(b.Name) })
}

// accept remembers what the dataplane has now.
func (r *Reconciler) accept(report *Report) {
	report.Changes = keep(report.Changes, func(c Change) bool {
		if report.Failed[c.Name] != nil {
			return false
		}
		r.countNoLocal(c.Before, -1)
		r.countNoLocal(c.After, +1)
		delete(r.unsure, c.Name)
		if len(c.After.Ports) == 0 {
			delete(r.applied, c.Name)
		} else {
			r.applied[c.Name] = c.After
		}
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range report.Failed {
		r.unsure[n] = true
		r.tracker.Mark(n)
	}
}

func (r *Reconciler) countNoLocal(p Program, by int) {
	internal, external := false, false
	for _, port := range p.Ports {
		internal = internal || port.NoLocalInternal
		external = external || port.NoLocalExternal
	}
	if internal {
		r.noLocal[0] += by
	}
	if external {
		r.noLocal[1] += by
	}
}

func (r *Reconciler) count(report *Report) {
	report.Services, report.NoLocalInternal, report.NoLocalExternal = len(r.applied), r.noLocal[0], r.noLocal[1]
}

// again makes what was taken dirty again.
func (r *Reconciler) again(planned []Planned) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range planned {
		r.tracker.Mark(p.Program.Name)
	}
	if r.status.Pending.IsZero() {
		r.status.Pending = time.Now()
	}
}
