package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

// NodeSource tells of the nodes of the cluster: files, or the Kubernetes API.
type NodeSource interface {
	// Run keeps the snapshot up to date until ctx ends, and calls notify after each change of it.
	Run(ctx context.Context, notify func()) error
	// Snapshot returns what is known now. It must not block.
	Snapshot() node.Snapshot
}

// Concern is one thing that the agent keeps as it should be.
type Concern struct {
	Name string
	// Needs are the names of what has to stand first: "node" (this node's description), "uplink", or earlier concerns. A concern whose needs do
	// not stand is left alone in that pass.
	Needs []string
	Apply func(ctx context.Context, d Desired) Result
}

// Result is what a Concern did.
type Result struct {
	Writes int
	Plan   func() string // what was written, for the debug log; may be nil
	// Notes are parts of the desired state that cannot be had, such as a peer that contradicts another one. They are reported, but
	// keep nobody waiting: one bad peer never stops the others.
	Notes []string
	Err   error // the concern does not stand
}

// Watch tells when the kernel may have changed.
type Watch struct {
	Name string
	Run  func(ctx context.Context, notify func()) error
}

// Options are what an Agent works with.
type Options struct {
	NodeName string
	Net      netconf.Config
	Uplink   Uplink
	TakeOver bool // devices of flannel may be taken over; Parts.TakeOver does it
	// FlannelVTEP gives the VXLAN devices flannel's names, for a node that may go back to flannel.
	FlannelVTEP bool
	Resync      time.Duration // between looks when no event came
	Hold        time.Duration // see guard; 0 = off
	Source      NodeSource
	Kernel      Kernel
	Concerns    []Concern
	Watches     []Watch
	Metrics     *Metrics
	Logger      *slog.Logger
	// Before are the nodes that an earlier run worked with: so that the first snapshot can be known for a fault (see Hold).
	Before []node.Node
	// Observe, if it is set, is told what each pass came to. It must not block.
	Observe func(Outcome)
}

// Outcome is what a pass came to.
type Outcome struct {
	Desired   Desired
	Converged bool    // everything stands
	States    []State // of "node", "uplink" and the concerns, in order
	LeftOut   []string
}

// State says how one thing stands.
type State struct {
	Name string
	// Text says why it does not stand; "" if it does.
	Text string
}

// Failed reports whether it is at fault itself: it neither stands nor waits for something else.
func (s State) Failed() bool {
	return s.Text != "" && s.Text != starting && !strings.HasPrefix(s.Text, waitsFor)
}

// Agent is the loop.
type Agent struct {
	o       Options
	guard   guard
	status  *status
	wake    chan struct{}
	devices atomic.Pointer[devices] // whose events matter

	// Of the loop's goroutine only.
	last      Desired // of the last pass that converged
	converged bool
	failures  int
	restless  int // passes in a row that wrote though nothing else was wanted
	notes     map[string]bool
}

// New returns an Agent that does nothing until Run.
func New(o Options) *Agent {
	a := &Agent{o: o, guard: guard{hold: o.Hold, last: o.Before}, status: newStatus(Names(o.Concerns)), wake: make(chan struct{}, 1), notes: map[string]bool{}}
	a.devices.Store(newDevices(Desired{Net: o.Net}))
	return a
}

// Notify asks for a pass soon.
func (a *Agent) Notify() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends; a pass that is under way is finished first, so that the kernel is never left half way. It returns nil then, and
// nothing that happens before ends it.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		a.keep(ctx, "node source", func(ctx context.Context) error {
			return a.o.Source.Run(ctx, func() {
				a.status.announce()
				a.Notify()
			})
		})
	})
	for _, w := range a.o.Watches {
		wg.Go(func() {
			a.keep(ctx, w.Name, func(ctx context.Context) error { return w.Run(ctx, a.Notify) })
		})
	}
	a.loop(ctx)
	return nil
}

// keep runs f again and again until ctx ends. Whatever f missed meanwhile, the pass that it asks for sees.
func (a *Agent) keep(ctx context.Context, name string, f func(context.Context) error) {
	last := ""
	for failures := 1; ; failures++ {
		start := time.Now()
		err := f(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errors.ErrUnsupported):
			a.o.Logger.Info("no events here, only polled", "from", name, "err", err)
			return
		case time.Since(start) > time.Minute:
			failures = 1
		}
		if text := errText(err); text != last {
			a.o.Logger.Warn("events interrupted, started again", "from", name, "err", err)
			last = text
		}
		if !sleep(ctx, backoff(failures, 30*time.Second)) {
			return
		}
		a.Notify()
	}
}

const (
	coalesce    = 50 * time.Millisecond  // events are gathered for this long after a pass
	maxCoalesce = 300 * time.Millisecond // longer after a long pass, up to this
	promptness  = time.Second            // and if passes fail, or somebody undoes their work, up to this
	grace       = 5 * time.Second        // for a pass that is under way when the agent stops
)

func (a *Agent) loop(ctx context.Context) {
	resync := time.NewTicker(a.o.Resync)
	defer resync.Stop()
	if !a.o.Source.Snapshot().Synced && !a.wait(ctx, nil, promptness) {
		return
	}
	for {
		a.status.tick()
		start := time.Now()
		again := a.finishedPass(ctx)
		// Events wait: most of those that come now are of our own writes. A pass of up to 75 ms gets a fifth of one CPU at most, however many
		// come; a longer one, of many thousand peers or on a busy machine, gets more: healing is to take less than a second even then.
		gap := min(maxCoalesce, max(coalesce, 4*time.Since(start)))
		retry := time.Duration(0)
		if a.failures > 0 {
			retry = backoff(a.failures, a.o.Resync)
			gap = max(gap, min(retry, promptness))
		}
		if a.restless > 1 { // somebody undoes what we do: give way, but not more than a second
			gap = max(gap, min(promptness, coalesce<<min(a.restless, 8)))
		}
		if again > 0 && (retry == 0 || again < retry) {
			retry = again
		}
		if !sleep(ctx, gap) {
			return
		}
		a.status.tick()
		if !a.wait(ctx, resync.C, retry) {
			return
		}
	}
}

// wait waits for a reason to look again. It returns false when ctx ends.
func (a *Agent) wait(ctx context.Context, resync <-chan time.Time, retry time.Duration) bool {
	var due <-chan time.Time
	if retry > 0 {
		t := time.NewTimer(retry)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-a.wake:
	case <-resync:
	case <-due:
	}
	return true
}

// finishedPass does a pass that goes on for a grace period when ctx ends.
func (a *Agent) finishedPass(ctx context.Context) time.Duration {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		sleep(work, grace)
		cancel()
	})
	defer stop()
	return a.pass(work)
}

// backoff doubles from 250 ms up to limit, and spreads by a fifth so that agents which failed together do not come back together.
func backoff(failures int, limit time.Duration) time.Duration {
	d := limit
	if failures < 16 {
		d = min(limit, 250*time.Millisecond<<(failures-1))
	}
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// devices are the devices whose changes wake the loop. The others are the pods'.
type devices struct {
	uplink  string
	vteps   map[string]bool
	byRoute bool            // a route decided about the uplink
	seen    map[string]bool // what there was; another name is a device that is new, or has a new name
}

// Interests reports whether an event can have to do with what the agent keeps. It is cheap: a busy node has thousands a second that do not.
func (a *Agent) Interests(e rtnl.Event) bool {
	d := a.devices.Load()
	switch {
	case e.Overflow:
		return true
	case e.Object == "route":
		return e.Protocol == rtnl.ProtocolVXLAN || e.Protocol == rtnl.ProtocolHostGW || d.byRoute && !podsDevice(e.Link)
	case e.Object == "neigh":
		return d.vteps[e.Link]
	default:
		return e.Link == "" || d.uplink == "" || e.Link == d.uplink || d.vteps[e.Link] || d.seen != nil && !d.seen[e.Link] && !podsDevice(e.Link)
	}
}
