package conntrack

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"
)

// Queue keeps the deleting of flows off the path of those who change Services: they Put what changed, and Run, in a goroutine of its own, takes everything that has come together.
// Make one with [NewQueue].
type Queue struct {
	reconciler *Reconciler
	options    QueueOptions
	wake       chan struct{}

	mu      sync.Mutex
	waiting pending
}

// QueueOptions are the settings of a Queue. The zero QueueOptions work.
type QueueOptions struct {
	// Retry is the wait after a failure; it doubles with each further one up to 30 s, and something new to do does not shorten it. 0 is one second.
	Retry time.Duration

	// Done, if not nil, is told of every Apply: what was deleted, the error and how long it took. Run calls it.
	Done func(Plan, error, time.Duration)
}

const maxRetry = 30 * time.Second

// pending is what has been put. Of a frontend the latest word counts.
type pending struct {
	serving       map[netip.AddrPort][]netip.AddrPort
	restored      map[Restored]struct{}
	nodePortAddrs []netip.Prefix
	serviceCIDRs  []netip.Prefix
}

// NewQueue returns a Queue. It runs nothing.
func NewQueue(r *Reconciler, o QueueOptions) *Queue {
	if o.Retry <= 0 {
		o.Retry = time.Second
	}
	return &Queue{reconciler: r, options: o, wake: make(chan struct{}, 1)}
}

// Put adds work and returns at once. What it says of a frontend replaces what an earlier Put said of it; within one Config entries of the same frontend are taken together. ServiceCIDRs
// and Restored count until they were applied. The Queue keeps c's lists: do not change them.
func (q *Queue) Put(c Config) {
	fresh := make(map[netip.AddrPort][]netip.AddrPort, len(c.Frontends))
	for _, f := range c.Frontends {
		if have := fresh[f.Addr]; len(have) > 0 {
			f.Serving = append(have[:len(have):len(have)], f.Serving...)
		}
		fresh[f.Addr] = f.Serving
	}
	q.mu.Lock()
	q.waiting.nodePortAddrs = c.NodePortAddrs
	for _, r := range c.Restored {
		if q.waiting.restored == nil {
			q.waiting.restored = make(map[Restored]struct{}, len(c.Restored))
		}
		q.waiting.restored[r] = struct{}{}
	}
	if len(c.ServiceCIDRs) > 0 {
		q.waiting.serviceCIDRs = c.ServiceCIDRs
	}
	if q.waiting.serving == nil {
		q.waiting.serving = fresh
	} else {
		maps.Copy(q.waiting.serving, fresh)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (q *Queue) take() (pending, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.waiting
	q.waiting = pending{nodePortAddrs: p.nodePortAddrs}
	return p, len(p.serving) > 0 || len(p.restored) > 0 || len(p.serviceCIDRs) > 0
}

// giveBack puts work that failed back, except for what has been put anew.
func (q *Queue) giveBack(p pending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.Copy(p.serving, q.waiting.serving)
	q.waiting.serving = p.serving
	if p.restored != nil {
		maps.Copy(p.restored, q.waiting.restored)
		q.waiting.restored = p.restored
	}
	if len(q.waiting.serviceCIDRs) == 0 {
		q.waiting.serviceCIDRs = p.serviceCIDRs
	}
}

func (p pending) config() Config {
	c := Config{NodePortAddrs: p.nodePortAddrs, ServiceCIDRs: p.serviceCIDRs, Frontends: make([]Frontend, 0, len(p.serving))}
	for a, s := range p.serving {
		c.Frontends = append(c.Frontends, Frontend{a, s})
	}
	for r := range p.restored {
		c.Restored = append(c.Restored, r)
	}
	return c
}

// Run does the work until ctx ends, and returns its error. A failure is told to Done, and tried again.
func (q *Queue) Run(ctx context.Context) error {
	retry := q.options.Retry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.wake:
		}
		for {
			p, some := q.take()
			if !some {
				break
			}
			start := time.Now()
			plan, err := q.reconciler.Apply(ctx, p.config())
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if q.options.Done != nil {
				q.options.Done(plan, err, time.Since(start))
			}
			if err == nil {
				retry = q.options.Retry
				continue
			}
			q.giveBack(p)
			if err := wait(ctx, retry); err != nil {
				return err
			}
			retry = min(2*retry, maxRetry)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
