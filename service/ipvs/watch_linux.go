package ipvs

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl"
)

const (
	// suspects is how many virtual servers are asked for one by one when reading all of them did not show them.
	suspects = 16
	// slowest is by how much the look after connections slows down, if they stay.
	slowest = 10
	// idleness is how many times as long as the last look at all virtual servers took nobody looks again.
	idleness = 100
)

// Watch calls notify when somebody changed our tables, virtual servers or routes, follows the addresses of devices, and ends the drain of real servers, until ctx ends. nftables and
// addresses tell at once, for the rest it looks every Options.CheckPeriod.
func (d *Dataplane) Watch(ctx context.Context, notify func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tables := d.tableNames()
	defer d.holdNAT(ctx, tables)()
	var all sync.WaitGroup
	errs := make(chan error, 3)
	start := func(f func() error) {
		all.Go(func() {
			errs <- f()
			cancel()
		})
	}
	var moved atomic.Bool // addresses may have changed
	look := make(chan struct{}, 1)
	start(func() error {
		return d.k.Tables.Watch(ctx, func(e nfnl.Event) {
			if e.Table == (nfnl.Table{}) || slices.Contains(tables, e.Table) {
				notify()
			}
		})
	})
	start(func() error {
		return d.k.Net.Watch(ctx, rtnl.Groups{Addrs: true}, func(e rtnl.Event) {
			if e.Object == "addr" || e.Overflow {
				moved.Store(true)
				signal(look)
			}
		})
	})
	start(func() error { return d.loop(ctx, notify, &moved, look) })
	all.Wait()
	close(errs)
	var failed []error
	for err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// holdNAT has the kernel go on to masquerade the connections that it has when somebody flushes all rules.
func (d *Dataplane) holdNAT(ctx context.Context, tables []nfnl.Table) (release func()) {
	var holds []nfnl.Table
	for _, t := range tables {
		holds = append(holds, nfnl.Table{Family: t.Family, Name: t.Name + "-hold"})
	}
	return nfnl.HoldNAT(ctx, d.k.Tables, holds, func(t nfnl.Table, _ uint32, err error) {
		if err != nil {
			d.o.Logger.Info("whoever flushes all nftables rules also stops masquerading until they are repaired: the kernel does not let us hold it (Linux 5.12)", "table", t, "err", err)
		}
	})
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (d *Dataplane) tableNames() []nfnl.Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []nfnl.Table
	for _, t := range d.tables {
		names = append(names, t.name)
	}
	return names
}

func (d *Dataplane) loop(ctx context.Context, notify func(), moved *atomic.Bool, look chan struct{}) error {
	check := time.NewTimer(d.o.CheckPeriod)
	defer check.Stop()
	drain := time.NewTimer(d.o.DrainPeriod)
	defer drain.Stop()
	for {
		var foreign bool
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-look:
			if moved.Swap(false) {
				foreign, err = d.refresh(ctx)
			}
		case <-check.C:
			start := time.Now()
			foreign, err = d.check(ctx)
			check.Reset(max(d.o.CheckPeriod, idleness*time.Since(start)))
		case <-d.wake:
			drain.Reset(d.o.DrainPeriod)
		case <-drain.C:
			var again time.Duration
			again, err = d.endDrain(ctx)
			if again > 0 {
				drain.Reset(again)
			}
		}
		if err != nil && ctx.Err() == nil { // who syncs will see it too, or has made it right by then
			d.o.Logger.Warn("IPVS is looked at again", "err", err)
			foreign = true
		}
		if foreign {
			notify()
		}
	}
}

// check reports whether virtual servers or routes are not as they were left.
func (d *Dataplane) check(ctx context.Context) (bool, error) {
	routes, err := d.k.Net.Routes(ctx, rtnl.RouteFilter{Table: rtnl.TableLocal, Protocol: d.o.Protocol})
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.observed || !d.applied {
		return false, nil
	}
	have := map[netip.Prefix]rtnl.Route{}
	for _, r := range routes {
		have[r.Dst] = r
	}
	for p, r := range d.s.routes.have {
		if r != have[p] {
			return true, nil
		}
	}
	if len(have) != len(d.s.routes.have) {
		return true, nil
	}
	return d.checkServers(ctx)
}

func (d *Dataplane) checkServers(ctx context.Context) (bool, error) {
	right := make(map[Key]int, len(d.s.haveServers)) // real servers that are as they should be
	doubtful := map[Key]struct{}{}
	err := d.k.IPVS.Walk(ctx, func(Key) {}, func(k Key, r Real) {
		h := d.s.haveServers[k]
		if h == nil {
			return
		}
		if i, ok := slices.BinarySearchFunc(h.reals, r.Addr, func(r Real, a netip.AddrPort) int { return r.Addr.Compare(a) }); ok && h.reals[i].Weight == r.Weight && !r.Foreign {
			right[k]++
		} else {
			doubtful[k] = struct{}{}
		}
	})
	if err != nil {
		return false, err
	}
	for k, h := range d.s.haveServers {
		if right[k] != len(h.reals) {
			doubtful[k] = struct{}{}
		}
	}
	asked := 0
	for k := range doubtful { // which ones is random; next time it will be others
		if asked++; asked > suspects {
			break
		}
		reals, err := d.k.IPVS.Reals(ctx, k)
		if err != nil || !d.s.haveServers[k].same(&haveServer{Settings: d.s.haveServers[k].Settings, reals: reals}) {
			return true, nil
		}
	}
	return false, nil
}

// endDrain removes what has lost its connections, and says when to look again; 0 is not.
func (d *Dataplane) endDrain(ctx context.Context) (again time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.observed || len(d.s.draining) == 0 {
		return 0, nil
	}
	a := applying{Dataplane: d, ctx: ctx}
	err = a.drained(slices.SortedFunc(maps.Keys(d.s.draining), Key.compare))
	if err == nil {
		a.routesLeave()
		err = a.leave()
	}
	if err != nil {
		d.observed = false
		return 0, err
	}
	again = slowest * d.o.DrainPeriod
	for _, since := range d.s.draining {
		again = min(again, time.Since(since)/8)
	}
	if len(d.s.draining) == 0 {
		return 0, nil
	}
	return max(again, d.o.DrainPeriod), nil
}
