package main

import (
	"fmt"
	"net/netip"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/podnet/podnet/internal/netns"
)

// changed is the EndpointSlice in which endpoint j of Service i has another address.
func (p *proxyRun) changed(i, j int, to netip.Addr) *discoveryv1.EndpointSlice {
	slice := p.world.slice(i, j/perSlice)
	slice.Endpoints[j%perSlice].Addresses[0] = to.String()
	slice.Generation++
	return slice
}

// change replaces one endpoint of a Service by another one, and returns how long it took until the kernel held that: in nftables, until the ruleset's generation changed, after which
// connections show that it was this change; else until a connection reaches the new endpoint.
func (p *proxyRun) change(i, j int, to netip.Addr, limit time.Duration) (took time.Duration, err error) {
	slice := p.changed(i, j, to)
	var generation uint32
	if p.gen != nil {
		if generation, err = p.gen.get(); err != nil {
			return 0, err
		}
	}
	err = netns.Do(p.client, func() error {
		start := p.api.modify(slicesPath, slice)
		deadline := start.Add(limit)
		for {
			at := time.Now()
			if p.gen != nil {
				if generation, at, err = p.gen.next(generation, deadline); err != nil {
					return err
				}
			}
			seen, err := p.reaches(i, to)
			if err != nil {
				return err
			}
			if seen && p.gen == nil {
				at = time.Now()
			}
			if seen {
				took = at.Sub(start)
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("change of Service %d: %w", i, errNotFinished)
			}
			if err := p.alive(); err != nil {
				return err
			}
			if p.gen == nil {
				pause(start)
			}
		}
	})
	return took, err
}

// reaches reports whether connections to a Service get to an endpoint. With random choice among 10, 120 connections miss it once in 300,000 times. Of more than 100 endpoints it
// asks none in particular: then the generation must do.
func (p *proxyRun) reaches(i int, endpoint netip.Addr) (bool, error) {
	n := p.world.dataset.endpoints
	many := n > 100
	tries := 12 * n
	if p.mode == "ipvs" {
		tries = 2 * n // round robin
	}
	if many {
		tries = 1
	}
	var last error
	for range tries {
		from, _, err := ask(p.world.clusterIP(i), servicePort, time.Second)
		if err == nil && (many || from == endpoint) {
			return true, nil
		}
		if err != nil {
			last = err
		}
	}
	if last != nil {
		return false, fmt.Errorf("%s: Service %d: %w", p.name, i, last)
	}
	return false, nil
}

// burst replaces the first endpoint of n Services at once, and returns how long it took until the last one was in effect.
func (p *proxyRun) burst(n int, limit time.Duration) (took time.Duration, err error) {
	every := p.world.dataset.services / n
	slices := make([]*discoveryv1.EndpointSlice, n)
	for k := range slices {
		slices[k] = p.changed(k*every, 0, spare(1000+k))
	}
	generation, err := p.gen.get()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for _, s := range slices {
		p.api.modify(slicesPath, s)
	}
	// Between a transaction and the look whether it was the one, another may come: done counts what is in effect, and the next look begins there.
	err = netns.Do(p.client, func() error {
		for done := 0; done < n; {
			var at time.Time
			if generation, at, err = p.gen.next(generation, start.Add(limit)); err != nil {
				return err
			}
			took = at.Sub(start)
			for seen := true; seen && done < n; {
				if seen, err = p.reaches(done*every, spare(1000+done)); err != nil {
					return err
				}
				if seen {
					done++
				}
			}
		}
		return nil
	})
	return took, err
}

// restart kills the proxy, changes an endpoint, and starts the proxy again. It returns how long it took from then until the change was in effect. Connections are made
// meanwhile; each has to be answered.
func (p *proxyRun) restart(i int, to netip.Addr, limit time.Duration) (took time.Duration, err error) {
	p.kill()
	p.api.modify(slicesPath, p.changed(i, 0, to))
	if err := p.start(); err != nil {
		return 0, err
	}
	err = netns.Do(p.client, func() error {
		for {
			seen, err := p.reaches(i, to)
			if err != nil {
				return fmt.Errorf("after a restart: %w", err)
			}
			if took = time.Since(p.begun); seen {
				return nil
			}
			if took > limit {
				return fmt.Errorf("after a restart: %w", errNotFinished)
			}
			if err := p.alive(); err != nil {
				return err
			}
			pause(p.begun)
		}
	})
	return took, err
}
