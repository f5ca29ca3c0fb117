package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

// track is a way from a client to an endpoint.
type track struct {
	name   string
	client string // netns path
	target func(n int) netip.Addr
	port   uint16
	rounds []float64 // connections per second of each
	shake  sample    // how long the handshake took
	next   int       // Service to connect to
	failed atomic.Int64
}

// dataPath measures connections through Services beside those that go to an endpoint without one, each to another Service. Rounds are short and take turns, so that what else the machine
// does meets all alike; the proxies themselves are stopped meanwhile.
func (b *bench) dataPath(runs []*proxyRun, s serviceSettings) (map[string]*track, error) {
	tracks := map[string]*track{}
	var order []*track
	add := func(t *track) { tracks[t.name] = t; order = append(order, t) }
	for _, p := range runs {
		if p.ended {
			continue
		}
		p.signal(syscall.SIGSTOP)
		w := p.world
		// Far apart from each other, and not those that were changed last.
		add(&track{name: p.name, client: p.client, port: servicePort, target: func(n int) netip.Addr { return w.clusterIP(n * 7919 % w.dataset.services) }})
		if tracks["direct"] == nil {
			add(&track{name: "direct", client: p.client, port: targetPort, target: func(n int) netip.Addr { return w.endpoint(n*7919%w.dataset.services, n%w.endpoints) }})
		}
	}
	const rounds = 12
	for range rounds {
		for _, t := range order {
			if err := t.many(s.connections / rounds); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
		for range 10 {
			for _, t := range order {
				if err := t.singly(25); err != nil {
					return nil, fmt.Errorf("%s: %w", t.name, err)
				}
			}
		}
	}
	for _, t := range order {
		fmt.Printf("service: %s: %.0f connections per second, %d failed; handshake p50 %v p99 %v\n", t.name, t.rate(), t.failed.Load(), t.shake.quantile(0.5), t.shake.quantile(0.99))
	}
	return tracks, nil
}

func (b *bench) pathRows(tracks map[string]*track, s serviceSettings) {
	ours, theirs, direct := tracks["podnet-proxy"], tracks["kube-proxy"], tracks["direct"]
	if ours == nil || theirs == nil {
		return
	}
	what := func(text, direct string) string {
		return fmt.Sprintf("%s, %d Services: %s (without a Service: %s)", s.mode, s.pathAt, text, direct)
	}
	rates := func(t *track) string { return fmt.Sprintf("%.0f", t.rate()) }
	us := func(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d)/1000) }
	b.table.ratio(what("connections per second", rates(direct)), rates(ours), rates(theirs), ours.rate()/theirs.rate(), ">= 1")
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		o, p, d := ours.shake.quantile(q.at), theirs.shake.quantile(q.at), direct.shake.quantile(q.at)
		b.table.ratio(what("handshake, "+q.name, us(d)), us(o), us(p), float64(p)/float64(o), ">= 1")
	}
}

// rate is the median of the rounds, in connections per second.
func (t *track) rate() float64 {
	sorted := slices.Sorted(slices.Values(t.rounds))
	return sorted[len(sorted)/2]
}

// singly makes n connections one after the other.
func (t *track) singly(n int) error {
	return netns.Do(t.client, func() error {
		for range n {
			t.next++
			_, handshake, err := ask(t.target(t.next), t.port, 3*time.Second)
			if err != nil {
				return err
			}
			t.shake.add(handshake)
		}
		return nil
	})
}

// many makes connections from four threads for some time.
func (t *track) many(d time.Duration) error {
	var made atomic.Int64
	errs := make([]error, 4)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range errs {
		wg.Go(func() {
			errs[i] = netns.Do(t.client, func() error {
				for n := i; time.Since(start) < d; n += len(errs) {
					if _, _, err := ask(t.target(n), t.port, 3*time.Second); err != nil {
						if t.failed.Add(1) > 100 {
							return err
						}
						continue
					}
					made.Add(1)
				}
				return nil
			})
		})
	}
	wg.Wait()
	t.rounds = append(t.rounds, float64(made.Load())/time.Since(start).Seconds())
	return errors.Join(errs...)
}
