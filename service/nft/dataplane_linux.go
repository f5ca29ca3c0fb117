package nft

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// Dataplane is the nftables dataplane. Make one with New.
type Dataplane struct {
	k Kernel
	o Options

	mu       sync.Mutex
	tables   []*table
	services map[service.Name]*svc
	node     service.Node
	have     map[*table]*snapshot // after Observe, until an Apply was done
	known    bool                 // services and tables are what the kernel has; else Observe has to look
	applied  bool                 // there was an Apply
	applies  int
	tx       nfnl.Transaction
	attempts int
	least    uint32 // size of the smallest set

	genid atomic.Uint32 // of the last transaction of anybody whose result is known
}

var _ service.Dataplane = (*Dataplane)(nil)

// New returns a Dataplane that writes to k. It touches nothing.
func New(k Kernel, o Options) *Dataplane {
	d := &Dataplane{k: k, o: o.withDefaults(), services: map[service.Name]*svc{}, least: leastSize}
	for _, f := range families() {
		d.tables = append(d.tables, newTable(f, o.Name))
	}
	return d
}

// Capabilities says what the dataplane can do.
func (d *Dataplane) Capabilities() service.Capabilities { return capabilities() }

// Observe reads the tables.
func (d *Dataplane) Observe(ctx context.Context) (service.Observed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.observeAll(ctx)
}

func (d *Dataplane) observeAll(ctx context.Context) (service.Observed, error) {
	var all service.Observed
	have := map[*table]*snapshot{}
	for _, t := range d.tables {
		h, err := d.observe(ctx, t)
		if err != nil {
			return service.Observed{}, d.explain(ctx, err)
		}
		have[t] = h
		n := h.counts()
		all.Frontends += n.Frontends
		all.Backends += n.Backends
	}
	all.Foreign = d.known && d.applied && !d.agrees(have)
	d.have, d.known = have, false
	return all, nil
}

// Cleanup removes the tables, in two transactions: first the chains that packets enter lose their rules, then everything goes. In one, a packet on its way through the rules would find
// the elements of its Service gone and the rule that refuses still there (seen on Linux 6.18), although another proxy serves it already.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var there []nfnl.Table
	d.tx.Reset()
	for _, t := range d.tables {
		seen, err := d.k.Describe(ctx, t.name)
		if err != nil {
			return d.explain(ctx, err)
		}
		if !seen.Exists {
			continue
		}
		there = append(there, t.name)
		for _, c := range seen.Chains {
			if c.Type != "" {
				d.tx.FlushChain(t.name, c.Name)
			}
		}
	}
	if err := d.k.Commit(ctx, &d.tx); err != nil {
		return fmt.Errorf("service/nft: empty chains: %w", err)
	}
	d.tx.Reset()
	for _, t := range there {
		d.tx.DeleteTable(t)
	}
	if err := d.k.Commit(ctx, &d.tx); err != nil {
		return fmt.Errorf("service/nft: remove tables: %w", err)
	}
	d.forget()
	return nil
}

// forget has the next Apply look first.
func (d *Dataplane) forget() {
	d.services, d.have, d.known = map[service.Name]*svc{}, nil, false
	for i, t := range d.tables {
		d.tables[i] = newTable(t.family, d.o.Name)
	}
}

// Watch tells of changes to our tables by others. As long as it runs NAT goes on when somebody flushes all rules (Linux 5.12): connections that are there are translated until the
// rules for new ones are repaired.
func (d *Dataplane) Watch(ctx context.Context, notify func()) error {
	ours := map[nfnl.Table]bool{}
	var holds []nfnl.Table
	d.mu.Lock()
	for _, t := range d.tables {
		ours[t.name] = true
		holds = append(holds, t.hold())
	}
	d.mu.Unlock()
	defer nfnl.HoldNAT(ctx, d.k, holds, func(t nfnl.Table, genid uint32, err error) {
		if err != nil {
			d.o.Logger.Info("whoever flushes all nftables rules also stops NAT until they are repaired: the kernel does not let us hold it (Linux 5.12)", "table", t, "err", err)
			return
		}
		d.genid.CompareAndSwap(genid-1, genid) // else somebody came in between
	})()
	return d.k.Watch(ctx, func(e nfnl.Event) {
		switch {
		case ours[e.Table]:
			d.o.Logger.Warn("somebody else changed our nftables", "table", e.Table)
			notify()
		case e.Table == (nfnl.Table{}) && e.Genid != d.genid.Load():
			notify() // nobody knows what was changed
		}
	})
}
