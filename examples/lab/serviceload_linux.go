package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// load sends HTTP requests from several places at the same time, each over a connection of its own.
type load struct {
	stop     chan struct{}
	done     sync.WaitGroup
	answered tally

	mu      sync.Mutex
	sent    int
	failed  []error
	slowest time.Duration
}

// loadPause is the time between an answer and the next request of a place.
const loadPause = 2 * time.Millisecond

func startLoad(to netip.AddrPort, pause time.Duration, from ...endpoint) *load {
	w := &load{stop: make(chan struct{})}
	for _, f := range from {
		w.done.Go(func() {
			for {
				select {
				case <-w.stop:
					return
				case <-time.After(pause):
				}
				start := time.Now()
				r, err := get(f.netns, to)
				w.note(time.Since(start), r, ask{f, to}.wrap(err))
			}
		})
	}
	return w
}

func (w *load) note(took time.Duration, r reply, err error) {
	if err == nil {
		w.answered.add(r.pod)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent++
	w.slowest = max(w.slowest, took)
	if err != nil {
		w.failed = append(w.failed, err)
	}
}

// finish waits for the last answers.
func (w *load) finish() {
	close(w.stop)
	w.done.Wait()
}

func (w *load) String() string {
	return fmt.Sprintf("%d requests, slowest %s", w.sent, ms(w.slowest))
}

// without is passed if no request failed.
func (w *load) without() cell {
	c := result("0 failed", w.failed...)
	if w.sent == 0 {
		c = result("0 failed", errors.New("no request was sent"))
	}
	return c
}

// traffic is load and a UDP flow to the Service web, over one family.
type traffic struct {
	v6   bool
	load *load
	flow *flow
	kept net.Conn // one connection that stays open
	pod  string   // who answers there

	first string // who answered the flow first
}

// startTraffic starts it over all families: load from pods of the first and the last node and from a node; a flow, and a connection that stays, from the first pod.
func (l *lab) startTraffic() ([]*traffic, error) {
	web, first, last := l.services.web, l.nodes[0], l.nodes[len(l.nodes)-1]
	var all []*traffic
	for _, v6 := range l.families() {
		t := &traffic{v6: v6, load: startLoad(web.clusterIP(v6), l.times(loadPause), first.pods[0].endpoint(), last.pods[len(last.pods)-1].endpoint(), last.endpoint())}
		all = append(all, t)
		var err error
		if t.flow, err = startFlowTo(first.pods[0].netns, web.clusterIP(v6), l.times(5*time.Millisecond), false); err != nil {
			return all, err
		}
		if t.kept, err = dialFrom(first.pods[0].netns, "tcp", web.clusterIP(v6).String()); err != nil {
			return all, err
		}
		r, err := exchange(t.kept, "keep-alive")
		if err != nil {
			return all, err
		}
		t.pod = r.pod
	}
	return all, nil
}

// still returns an error unless the connection that stays does, and with the same pod.
func (t *traffic) still() error {
	r, err := exchange(t.kept, "keep-alive")
	if err == nil && r.pod != t.pod {
		err = fmt.Errorf("%s answers, and before it was %s", r.pod, t.pod)
	}
	return err
}

// finish ends the traffic and returns what the flow lost.
func (t *traffic) finish() (r flowResult) {
	t.load.finish()
	if t.flow != nil {
		r = t.flow.finish()
	}
	if t.kept != nil {
		t.kept.Close()
	}
	return r
}

// speaker returns who answers a flow; the flow goes on.
func (f *flow) speakers() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.by)
}

// serviceLoad changes things while requests are on their way.
func (l *lab) serviceLoad(ctx context.Context) {
	l.churn(ctx)
	l.proxiesRestarted(ctx)
	l.flushed(ctx)
}

// flushed takes the rules of a node away, as an administrator or a firewall's start does. Nobody is told of a change of iptables: that proxy looks for itself.
func (l *lab) flushed(ctx context.Context) {
	n := l.nodes[0]
	path := flowPath{from: l.outside.netns, to: func(v6 bool) netip.AddrPort { return l.services.web.nodePortOf(n, v6) }, fresh: true, limit: healLimit}
	flush := func(bool) error { return runIn(n.netns, "nft", "flush", "ruleset") }
	if l.proxy == "iptables" {
		path.limit = 10 * time.Second
		flush = func(v6 bool) error {
			iptables := "iptables"
			if v6 {
				iptables = "ip6tables"
			}
			return runIn(n.netns, iptables, "-t", "nat", "-F")
		}
	}
	l.heal(ctx, "rules flushed, NodePort from outside", path, flush)
}

// grace is how long a pod that is being deleted still serves; a kubelet gives it 30 s. With Kubernetes it is longer: an EndpointSlice controller takes up to a second.
func (l *lab) grace() time.Duration {
	if l.cluster != nil {
		return l.times(2 * time.Second)
	}
	return l.times(time.Second)
}

// churn takes endpoints away and brings them back, as Kubernetes does when pods are deleted and made. First an endpoint is terminating: it gets nothing new, and what it has
// stays. After its time of grace the server ends, finishing what it has, and the endpoint is removed. Then the pod comes back.
func (l *lab) churn(ctx context.Context) {
	const name = "endpoints deleted and made"
	web := l.services.web
	if len(web.members) < 2 {
		l.report.skip(name, "needs two pods")
		return
	}
	all, err := l.startTraffic()
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
	}
	time.Sleep(300 * time.Millisecond)
	some := l.chosen(all)
	var kept []error
	steps := []func() error{
		func() error { return l.change(ctx, leaving, some...) },
		func() error {
			time.Sleep(l.grace())
			var errs []error
			for _, t := range all {
				kept = append(kept, t.still())
				t.kept.Close()
			}
			for _, p := range some {
				errs = append(errs, p.server.stop())
			}
			return errors.Join(append(errs, l.change(ctx, gone, some...))...)
		},
		func() error {
			time.Sleep(l.grace() / 2)
			_, _ = poll(ctx, l.times(moveLimit), func() error { return allMoved(all, some) }) // said below
			var errs []error
			for _, p := range some {
				errs = append(errs, l.startPod(p))
			}
			return errors.Join(append(errs, l.change(ctx, alive, some...))...)
		},
	}
	before := make([]map[string]int, len(all))
	for i, do := range steps {
		if i == len(steps)-1 {
			for j, t := range all {
				before[j] = t.load.answered.counts()
			}
		}
		err = errors.Join(err, do())
	}
	time.Sleep(l.grace())
	for i, t := range all {
		r := t.finish()
		l.answered = merge(l.answered, t.load.answered.counts())
		l.report.add(row{Name: name, Family: familyName(t.v6), Cells: []cell{
			t.load.without(), result("open connection kept for its grace", append(kept[min(i, len(kept)):min(i+1, len(kept))], err)...),
			result("come back", comeBack(some, before[i], t.load.answered.counts())), l.followed(t, r, some),
		}, Detail: fmt.Sprintf("%d of %d pods terminating for %.0f s, then removed, then made; %v; UDP outage %s", len(some), len(web.members), l.grace().Seconds(), t.load, ms(r.outage))})
	}
}

// chosen returns about half of the endpoints, among them those that the flows go to; one at least stays.
func (l *lab) chosen(all []*traffic) []*pod {
	pods := slices.Clone(l.services.web.members)
	flows := map[string]bool{}
	for _, t := range all {
		for who := range t.flow.speakers() {
			t.first = who
			flows[who] = true
		}
	}
	slices.SortStableFunc(pods, func(a, b *pod) int {
		switch {
		case flows[a.name] == flows[b.name]:
			return 0
		case flows[a.name]:
			return -1
		}
		return 1
	})
	return pods[:min(max(len(pods)/2, len(flows)), len(pods)-1)]
}

// followed judges a UDP flow: it moves if the pod that it began with is deleted, and stays if not.
func (l *lab) followed(t *traffic, r flowResult, some []*pod) cell {
	if t.among(some) {
		return result("UDP flow moved", moved(t.flow, r, l.times(moveLimit)))
	}
	return result("UDP flow stays", stays(t.flow, r))
}

// among reports whether the flow began with one of the pods.
func (t *traffic) among(pods []*pod) bool {
	return slices.ContainsFunc(pods, func(p *pod) bool { return p.name == t.first })
}

func comeBack(some []*pod, before, after map[string]int) error {
	for _, p := range some {
		if after[p.name] == before[p.name] {
			return fmt.Errorf("%s got no request since it is back", p.name)
		}
	}
	return nil
}

// moved returns an error unless a UDP flow found another endpoint soon after its own was removed.
func moved(f *flow, r flowResult, limit time.Duration) error {
	by := f.speakers()
	switch {
	case len(by) < 2:
		return fmt.Errorf("only %v answered", by)
	case r.outage > limit:
		return fmt.Errorf("outage %s, allowed are %s", ms(r.outage), ms(limit))
	}
	return nil
}

// allMoved returns an error while a flow to one of the pods has had one endpoint only.
func allMoved(all []*traffic, some []*pod) error {
	for _, t := range all {
		if by := t.flow.speakers(); len(by) < 2 && t.among(some) {
			return fmt.Errorf("only %v answered", by)
		}
	}
	return nil
}

// moveLimit is how long a UDP flow may be without an endpoint after its own has ended: proxies sync once per second under constant change (--iptables-min-sync-period).
const moveLimit = 2 * time.Second

// proxiesRestarted kills the proxies of all nodes, one after the other.
func (l *lab) proxiesRestarted(ctx context.Context) {
	const name = "podnet-proxy killed and started, on every node"
	all, err := l.startTraffic()
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
	}
	time.Sleep(200 * time.Millisecond)
	for _, n := range l.nodes {
		n.proxy.stop(syscall.SIGKILL)
		err = errors.Join(err, l.startProxy(n))
		if err == nil {
			err = l.waitProxy(ctx, n)
		}
	}
	time.Sleep(200 * time.Millisecond)
	for _, t := range all {
		still := err
		if still == nil {
			still = t.still()
		}
		r := t.finish()
		l.answered = merge(l.answered, t.load.answered.counts())
		l.report.add(row{Name: name, Family: familyName(t.v6), Cells: []cell{
			t.load.without(), result("open connection stays", still), result("UDP flow stays", stays(t.flow, r)),
			result("evenly", even(t.load.answered.counts(), len(l.services.web.members)))},
			Detail: fmt.Sprintf("%v; UDP %v", t.load, r)})
	}
}

// stays returns an error unless one endpoint answered all of a flow.
func stays(f *flow, r flowResult) error {
	if by := f.speakers(); len(by) != 1 {
		return fmt.Errorf("answered by %s, want one pod", shares(by))
	}
	return r.loss()
}

// even returns an error if an endpoint got more or less than chance explains: six standard deviations.
func even(counts map[string]int, endpoints int) error {
	total, p := 0, 1/float64(endpoints)
	for _, n := range counts {
		total += n
	}
	want := float64(total) * p
	most := 6*math.Sqrt(want*(1-p)) + 1
	for name, n := range counts {
		if math.Abs(float64(n)-want) > most {
			return fmt.Errorf("%s got %d of %d, want %.0f +- %.0f", name, n, total, want, most)
		}
	}
	return nil
}
