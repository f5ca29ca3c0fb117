package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
)

// Dataplane keeps virtual servers of IPVS as programs say. It may be used by several goroutines at once. Make one with New.
type Dataplane struct {
	k    Kernel
	o    Options
	bad  error         // what is wrong with the options
	wake chan struct{} // for Watch: real servers drain

	mu       sync.Mutex
	s        *state
	tables   []*table
	observed bool
	applied  bool // something is known to be in place
}

var _ service.Dataplane = (*Dataplane)(nil)

// New returns a Dataplane. It touches nothing. Options that are wrong are an error of Observe.
func New(k Kernel, o Options) *Dataplane {
	bad := o.Validate()
	o = o.withDefaults()
	return &Dataplane{k: k, o: o, bad: bad, wake: make(chan struct{}, 1), s: newState(o.Scheduler, o.Protocol), tables: newTables(o.Name)}
}

// Capabilities says what the dataplane can do.
func (d *Dataplane) Capabilities() service.Capabilities { return capabilities() }

// Observe reads the kernel.
func (d *Dataplane) Observe(ctx context.Context) (service.Observed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.observe(ctx)
}

func (d *Dataplane) observe(ctx context.Context) (service.Observed, error) {
	d.observed = false
	if d.bad != nil {
		return service.Observed{}, fmt.Errorf("ipvs: %w", d.bad)
	}
	f, err := d.read(ctx)
	if err != nil {
		return service.Observed{}, err
	}
	foreign := d.s.load(f) && d.applied
	for _, t := range d.tables {
		foreign = foreign || t.make && t.kept
		if t.make {
			d.s.lost(t.service)
		}
	}
	d.observed = true
	seen := d.s.counts()
	seen.Foreign = foreign
	return seen, nil
}

// read reads all that is there.
func (d *Dataplane) read(ctx context.Context) (found, error) {
	f := found{elements: map[element]uint32{}, devices: map[netip.Addr]struct{}{}}
	var err error
	if f.servers, err = d.k.IPVS.Servers(ctx); err != nil {
		return f, err
	}
	for _, t := range d.tables {
		if err := t.read(ctx, d.k.Tables, f.elements); err != nil {
			return f, err
		}
	}
	if f.routes, err = d.k.Net.Routes(ctx, rtnl.RouteFilter{Table: rtnl.TableLocal, Protocol: d.o.Protocol}); err != nil {
		return f, fmt.Errorf("ipvs: %w", err)
	}
	f.devices, err = d.addresses(ctx)
	return f, err
}

// addresses returns the addresses of all devices.
func (d *Dataplane) addresses(ctx context.Context) (map[netip.Addr]struct{}, error) {
	addrs, err := d.k.Net.Addrs(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("ipvs: %w", err)
	}
	all := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		if ip := a.Prefix.Addr(); !ip.IsLinkLocalUnicast() {
			all[ip] = struct{}{}
		}
	}
	return all, nil
}

// Apply makes the kernel so as the delta wants. What clients need is there before what leads to it, and goes after it: nftables and routes, virtual and real servers, then
// what led to others, then those.
func (d *Dataplane) Apply(ctx context.Context, delta service.Delta) (service.Result, error) {
	if err := ctx.Err(); err != nil {
		return service.Result{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.observed {
		if _, err := d.observe(ctx); err != nil {
			return service.Result{}, err
		}
	}
	var err error
	if d.s.seen, err = d.addresses(ctx); err != nil {
		return service.Result{}, err
	}
	a := applying{Dataplane: d, ctx: ctx, failed: d.s.want(delta)}
	if err := a.run(delta.Full); err != nil {
		d.observed = false
		return service.Result{}, err
	}
	d.applied = true
	if len(d.s.draining) > 0 {
		signal(d.wake)
	}
	return service.Result{Failed: a.failed, Writes: a.writes}, nil
}

// refresh follows the addresses of devices: which of a Service's addresses have to be made local, where NodePorts with affinity are, what the node sends from. It reports whether
// something of that failed.
func (d *Dataplane) refresh(ctx context.Context) (failed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.observed || !d.applied {
		return false, nil
	}
	if d.s.seen, err = d.addresses(ctx); err != nil || maps.Equal(d.s.seen, d.s.devices) {
		return false, err
	}
	a := applying{Dataplane: d, ctx: ctx, failed: d.s.want(service.Delta{Node: d.s.node})}
	if err := a.run(false); err != nil {
		d.observed = false
		return false, err
	}
	return len(a.failed) > 0, nil
}

// Cleanup removes everything of ours, with its connections: first the virtual servers, but for those of Options.Leave, then the routes, then the tables. The sysctls stay.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.observe(ctx)
	if errors.Is(err, ErrNoIPVS) { // what stands beside it may be there
		err = d.observeRest(ctx)
	}
	if err != nil {
		return err
	}
	d.observed, d.applied = false, false
	var changes []Change
	for _, k := range slices.SortedFunc(maps.Keys(d.s.haveServers), Key.compare) {
		if d.o.Leave == nil || !d.o.Leave(k) {
			changes = append(changes, Change{Verb: DeleteServer, Key: k})
		}
	}
	errs := slices.DeleteFunc(d.k.IPVS.Write(ctx, changes), func(err error) bool { return err == nil || errors.Is(err, fs.ErrNotExist) })
	if len(errs) > 0 { // the record of what is ours must stay
		return fmt.Errorf("ipvs: cleanup: %w", errors.Join(errs...))
	}
	var plan rtnl.Plan
	for _, p := range slices.SortedFunc(maps.Keys(d.s.routes.have), netip.Prefix.Compare) {
		plan = append(plan, rtnl.Change{Verb: rtnl.Delete, Object: d.s.routes.have[p]})
	}
	errs = slices.DeleteFunc(d.k.Net.Write(ctx, plan), func(err error) bool { return err == nil || errors.Is(err, fs.ErrNotExist) })
	var tx nfnl.Transaction
	for _, t := range d.tables {
		if t.exists {
			tx.DeleteTable(t.name)
		}
	}
	errs = append(errs, d.k.Tables.Commit(ctx, &tx))
	d.s, d.tables = newState(d.o.Scheduler, d.o.Protocol), newTables(d.o.Name)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ipvs: cleanup: %w", err)
	}
	return nil
}

// observeRest reads what there is beside IPVS.
func (d *Dataplane) observeRest(ctx context.Context) error {
	f := found{elements: map[element]uint32{}}
	for _, t := range d.tables {
		if err := t.read(ctx, d.k.Tables, f.elements); err != nil {
			return err
		}
	}
	var err error
	f.routes, err = d.k.Net.Routes(ctx, rtnl.RouteFilter{Table: rtnl.TableLocal, Protocol: d.o.Protocol})
	d.s.haveServers = map[Key]*haveServer{}
	d.s.load(f)
	return err
}

// sysctls sets what is not so and makes sure that it is.
func (d *Dataplane) sysctls(ctx context.Context) (writes int, err error) {
	for _, s := range settingsFor(d.k.IPVS.Release(), d.o) {
		have, err := d.k.Net.Sysctl(ctx, s.name)
		if err != nil {
			return writes, s.missing(err)
		}
		change, differs := s.change(have)
		if !differs {
			continue
		}
		if errs := d.k.Net.Write(ctx, rtnl.Plan{change}); errs != nil {
			return writes, fmt.Errorf("ipvs: %w", errs[0])
		}
		writes++
		if have, err = d.k.Net.Sysctl(ctx, s.name); err != nil {
			return writes, s.missing(err)
		}
		if _, differs := s.change(have); differs {
			return writes, fmt.Errorf("ipvs: %s: it was written and is still %s", change, have)
		}
	}
	if d.o.Timeouts != (Timeouts{}) && !d.applied {
		return writes, d.k.IPVS.SetTimeouts(ctx, d.o.Timeouts)
	}
	return writes, nil
}

// overdue reports whether a virtual server has drained long enough.
func (d *Dataplane) overdue(k Key, now time.Time) bool {
	since, drains := d.s.draining[k]
	return drains && d.o.MaxDrain > 0 && now.Sub(since) >= d.o.MaxDrain
}
