package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Options are the settings of a Reconciler. The zero Options work.
type Options struct {
	// Batch is how many stale flows are deleted with one system call; 0 is 256.
	Batch int
}

// Kernel is what a Reconciler needs. [Conn] is the real one, conntracktest.Kernel the fake.
type Kernel interface {
	// Flows calls visit for the flows of zone 0 that match the filter, and stops with visit's error. The Flow is valid during the call only. Flows that come or go meanwhile may be
	// missed or come twice.
	Flows(ctx context.Context, f Filter, visit func(*Flow) error) error
	// Delete removes flows and returns how many it removed. It may be called by visit. Those that are gone, or are other ones by now, are no error.
	Delete(ctx context.Context, flows []Flow) (int, error)
	// Local returns the ranges of addresses, of both families, that the host takes for its own.
	Local(ctx context.Context) ([]netip.Prefix, error)
}

// Reconciler deletes stale flows. It holds no state: it may be used by several goroutines and processes.
type Reconciler struct {
	kernel Kernel
	batch  int
}

// New returns a Reconciler. It touches nothing and runs nothing.
func New(k Kernel, o Options) *Reconciler {
	if o.Batch <= 0 {
		o.Batch = 256
	}
	return &Reconciler{kernel: k, batch: o.Batch}
}

// Plan is what is to be deleted, or was. It does not grow with the number of flows.
type Plan struct {
	Seen  int // flows that were compared: those that the kernel's filter let through
	Stale int // flows that are to be deleted; of Apply: that were deleted

	// Examples are the first stale flows, at most ten.
	Examples []Flow

	stale map[Family]int
}

// StaleOf returns how many of Stale are of a family.
func (p Plan) StaleOf(f Family) int { return p.stale[f] }

const examples = 10

// Empty reports whether no flow is stale.
func (p Plan) Empty() bool { return p.Stale == 0 }

// String returns one line per example.
func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p.Examples {
		fmt.Fprintf(&b, "delete %s\n", f)
	}
	if more := p.Stale - len(p.Examples); more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return b.String()
}

// Plan returns what Apply would delete. It only reads.
func (r *Reconciler) Plan(ctx context.Context, want Config) (Plan, error) {
	return r.each(ctx, want, func(ctx context.Context, m *matcher, p *Plan) error {
		return r.kernel.Flows(ctx, m.filter, func(f *Flow) error {
			p.Seen++
			if m.stale(f) {
				p.count(m.filter.Family, 1)
				p.show(f)
			}
			return nil
		})
	})
}

// Apply deletes stale flows and returns which. A family that fails does not stop the other, and what was deleted before a failure is in the Plan.
func (r *Reconciler) Apply(ctx context.Context, want Config) (Plan, error) {
	batch := make([]Flow, 0, r.batch)
	return r.each(ctx, want, func(ctx context.Context, m *matcher, p *Plan) error {
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			n, err := r.kernel.Delete(ctx, batch)
			p.count(m.filter.Family, n)
			batch = batch[:0]
			return err
		}
		batch = batch[:0]
		err := r.kernel.Flows(ctx, m.filter, func(f *Flow) error {
			p.Seen++
			if !m.stale(f) {
				return nil
			}
			p.show(f)
			if batch = append(batch, *f); len(batch) < r.batch {
				return nil
			}
			return flush()
		})
		return errors.Join(err, flush())
	})
}

func (p *Plan) count(f Family, n int) {
	if n == 0 {
		return
	}
	if p.stale == nil {
		p.stale = map[Family]int{}
	}
	p.stale[f] += n
	p.Stale += n
}

func (p *Plan) show(f *Flow) {
	if len(p.Examples) < examples {
		p.Examples = append(p.Examples, *f)
	}
}

// each runs one for every family and protocol that want concerns.
func (r *Reconciler) each(ctx context.Context, want Config, one func(context.Context, *matcher, *Plan) error) (Plan, error) {
	if err := want.Validate(); err != nil {
		return Plan{}, fmt.Errorf("conntrack config: %w", err)
	}
	var p Plan
	var errs []error
	for _, f := range families() {
		for _, protocol := range protocols() {
			if want.empty(f, protocol) {
				continue
			}
			m := newMatcher(want, f, protocol)
			if len(m.nodePorts) > 0 {
				local, err := r.kernel.Local(ctx)
				if err != nil {
					errs = append(errs, fmt.Errorf("conntrack: %s: local addresses: %w", f, err))
					continue
				}
				m.local = newAddrs(local, want.NodePortAddrs)
			}
			if err := one(ctx, m, &p); err != nil {
				errs = append(errs, fmt.Errorf("conntrack: %s: %w", f, err))
			}
		}
	}
	return p, errors.Join(errs...)
}
