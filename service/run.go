package service

import (
	"context"
	"slices"
	"sync"
	"time"
)

// How long Run waits after a failure: twice as long each time, from the first to the last.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Run syncs until ctx ends: at once, and then whenever something changed here or in the kernel. What fails is tried again. Call it when the Services and endpoints that exist
// are set: what is not set then is removed. Run one at a time. The dataplane is left as it is.
func (r *Reconciler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() { r.watch(ctx) })

	r.wakeUp()
	due := newAlarm()
	defer due.stop()
	resync := newAlarm()
	defer resync.stop()
	resync.in(r.o.ResyncPeriod)
	retry := firstRetry
	told := map[Name][]Fault{}
	var started time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-due.c():
		case <-resync.c():
			r.Resync()
			resync.in(r.o.ResyncPeriod)
		}
		if wait := r.o.MinSyncPeriod - time.Since(started); wait > 0 && !started.IsZero() {
			due.in(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-due.c():
			}
		}
		started = time.Now()
		report, err := r.Sync(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.log(report, err, told)
		if err == nil && len(report.Failed) == 0 {
			retry = firstRetry
			due.stop()
			continue
		}
		due.in(retry)
		retry = min(2*retry, lastRetry)
	}
}

// watch listens to the dataplane as long as ctx lasts.
func (r *Reconciler) watch(ctx context.Context) {
	wait := newAlarm()
	defer wait.stop()
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := r.dataplane.Watch(ctx, r.Resync)
		if ctx.Err() != nil {
			return
		}
		r.o.Logger.Warn("the dataplane cannot be watched; tried again", "dataplane", r.dataplane.Capabilities().Name, "in", retry, "err", err)
		wait.in(retry)
		select {
		case <-ctx.Done():
			return
		case <-wait.c():
			r.Resync() // what happened meanwhile is not known
		}
	}
}

// log writes a sync down. told holds the faults that were written down already, so that a Service which changes often does not repeat them.
func (r *Reconciler) log(report Report, err error, told map[Name][]Fault) {
	name := r.dataplane.Capabilities().Name
	if err != nil {
		r.o.Logger.Error("sync failed; tried again", "dataplane", name, "err", err)
		return
	}
	for n, err := range report.Failed {
		r.o.Logger.Error("Service not in place; tried again", "dataplane", name, "service", n, "err", err)
	}
	for _, n := range report.Planned {
		for _, f := range report.Faults[n] {
			if !slices.Contains(told[n], f) {
				r.o.Logger.Warn("part of a Service left out", "service", n, "fault", f)
			}
		}
		if told[n] = report.Faults[n]; told[n] == nil {
			delete(told, n)
		}
	}
	if report.Writes > 0 {
		r.o.Logger.Info("synced", "dataplane", name, "changed", len(report.Changes), "services", report.Services, "writes", report.Writes, "full", report.Full, "took", report.Took)
	}
}

// alarm is a timer that may be off.
type alarm struct{ t *time.Timer }

func newAlarm() *alarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &alarm{t}
}

func (a *alarm) c() <-chan time.Time { return a.t.C }
func (a *alarm) stop()               { a.t.Stop() }

// in sets the alarm; a negative time turns it off.
func (a *alarm) in(d time.Duration) {
	if d < 0 {
		a.t.Stop()
		return
	}
	a.t.Reset(d)
}
