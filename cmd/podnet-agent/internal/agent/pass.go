package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/rtnl"
)

// What a Concern can need besides other concerns.
const (
	needNode   = "node"
	needUplink = "uplink"
)

// pass looks at everything once and brings it to what it should be. It returns how soon to look again though nothing happens; 0 = no need.
func (a *Agent) pass(ctx context.Context) (again time.Duration) {
	start := time.Now()
	changes := a.status.announced()
	defer func() { a.status.saw(changes) }()
	snapshot := a.o.Source.Snapshot()
	if !snapshot.Synced {
		a.noteAll(snapshot.Problems)
		return 0
	}
	nodes, held, again := a.guard.filter(start, snapshot.Nodes, a.o.NodeName)
	d, nodeErr := split(nodes, a.o.NodeName, a.o.Net)
	failed := map[string]bool{}
	a.report(needNode, nodeErr, failed)
	uplinkErr := waits(needNode)
	if len(d.Locals) > 0 {
		delete(failed, needNode) // for the concerns: one family is enough to work with
		d, uplinkErr = a.findUplink(ctx, d)
	}
	a.report(needUplink, uplinkErr, failed)
	a.devices.Store(newDevices(d))

	notes := slices.Clone(snapshot.Problems)
	if held != "" {
		notes = append(notes, held)
	}
	known := len(notes)
	writes := a.applyAll(ctx, d, failed, &notes)
	failed[needNode] = nodeErr != nil
	leftOut := slices.Clone(notes[known:])
	ok := a.finish(d, failed, writes, notes, start)
	if a.o.Observe != nil {
		a.o.Observe(Outcome{Desired: d, Converged: ok, States: a.status.all(), LeftOut: leftOut})
	}
	return again
}

// applied is what a concern wrote in one pass.
type applied struct {
	concern string
	writes  int
}

// applyAll applies the concerns in order. One that fails keeps back only those that need it.
func (a *Agent) applyAll(ctx context.Context, d Desired, failed map[string]bool, notes *[]string) []applied {
	var all []applied
	for _, c := range a.o.Concerns {
		if i := slices.IndexFunc(c.Needs, func(n string) bool { return failed[n] }); i >= 0 {
			a.report(c.Name, waits(c.Needs[i]), failed)
			continue
		}
		r := c.Apply(ctx, d)
		a.report(c.Name, r.Err, failed)
		*notes = append(*notes, r.Notes...)
		if r.Writes == 0 {
			continue
		}
		all = append(all, applied{c.Name, r.Writes})
		a.o.Metrics.writes.WithLabelValues(c.Name).Add(float64(r.Writes))
		if r.Plan != nil && a.o.Logger.Enabled(ctx, slog.LevelDebug) {
			a.o.Logger.Debug("wrote", "concern", c.Name, "plan", brief(r.Plan(), 50))
		}
	}
	return all
}

// finish says what the pass came to, and returns whether everything stands.
func (a *Agent) finish(d Desired, failed map[string]bool, writes []applied, notes []string, start time.Time) (ok bool) {
	ok = true
	for _, f := range failed {
		ok = ok && !f
	}
	a.noteAll(notes)
	took := time.Since(start)
	m := a.o.Metrics
	m.peers.Set(float64(len(d.Peers)))
	m.duration.Observe(took.Seconds())
	healed := a.converged && a.failures == 0 && d.equal(a.last) && len(writes) > 0
	if a.restless++; !healed {
		a.restless = 0
	} else {
		m.heals.Inc()
	}
	if len(writes) > 0 {
		args := []any{"peers", len(d.Peers), "took", took.Round(10 * time.Microsecond)}
		for _, w := range writes {
			args = append(args, w.concern, w.writes)
		}
		message := "reconciled"
		if healed {
			message = "healed"
		}
		a.o.Logger.Info(message, args...)
	}
	if !ok {
		a.failures++
		return false
	}
	a.failures = 0
	a.last, a.converged = d, true
	m.lastSuccess.SetToCurrentTime()
	return true
}

// waitError is the reason of a concern that was not applied. It is no fault of its own.
type waitError string

const waitsFor = "waits for "

func (w waitError) Error() string { return waitsFor + string(w) }

func waits(need string) error { return waitError(need) }

// report keeps a concern's state, and logs it if it changed.
func (a *Agent) report(concern string, err error, failed map[string]bool) {
	failed[concern] = err != nil
	text := ""
	if err != nil {
		text = brief(err.Error(), 5)
	}
	var w waitError
	waiting := errors.As(err, &w)
	if err != nil && !waiting {
		a.o.Metrics.errors.WithLabelValues(concern).Inc()
	}
	changed, was := a.status.set(concern, text)
	switch {
	case !changed:
	case waiting || err == nil && (was == starting || strings.HasPrefix(was, waitsFor)):
		a.o.Logger.Debug("concern", "name", concern, "state", text)
	case err == nil:
		a.o.Logger.Info("concern recovered", "name", concern, "was", was)
	default:
		a.o.Logger.Warn("concern failed", "name", concern, "err", text)
	}
}

// noteAll logs each note when it comes and when it goes.
func (a *Agent) noteAll(notes []string) {
	slices.Sort(notes)
	notes = slices.Compact(notes)
	a.o.Metrics.invalid.Set(float64(len(notes)))
	a.status.setNotes(notes)
	const most = 10 // lines at once
	now := make(map[string]bool, len(notes))
	fresh, gone := 0, 0
	for _, n := range notes {
		now[n] = true
		if a.notes[n] {
			continue
		}
		if fresh++; fresh <= most {
			a.o.Logger.Warn("left out", "what", n)
		}
	}
	for n := range a.notes {
		if now[n] {
			continue
		}
		if gone++; gone <= most {
			a.o.Logger.Info("no longer left out", "what", n)
		}
	}
	if fresh > most || gone > most {
		a.o.Logger.Warn("more of the same", "left out", max(0, fresh-most), "no longer left out", max(0, gone-most))
	}
	a.notes = now
}

// brief cuts a text of many lines, such as an error of thousands of peers.
func brief(text string, most int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) <= most {
		return strings.Join(lines, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(lines[:most], "; "), len(lines)-most)
}

func newDevices(d Desired) *devices {
	out := &devices{uplink: d.Uplink.Name, vteps: map[string]bool{}, byRoute: d.byRoute, seen: d.seen}
	if d.Net.Backend.Type == netconf.VXLAN {
		for _, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
			out.vteps[d.VTEP(f)] = true
		}
	}
	return out
}
