package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// active measures the first sync, changes and a restart.
func (b *bench) active(p *proxyRun, m *measured, s serviceSettings) error {
	m.started = true
	if s.profile > 0 {
		p.startProfile(s.profile)
	}
	at, err := p.first(s.limit)
	if errors.Is(err, errNotFinished) {
		fmt.Printf("service: %s: %v\n", p.name, err)
		_, m.high, err = memory(p.cmd.Process.Pid)
		return err
	}
	if err != nil {
		return err
	}
	m.first = at.Sub(p.begun)
	if listed, ok := p.api.listed(); ok {
		m.fromList = at.Sub(listed)
		if p.mode == "ipvs" { // connections may be answered before the rules that belong to them are there
			done, err := p.synced(s.limit)
			if errors.Is(err, errNotFinished) {
				fmt.Printf("service: %s: answers after %v, first sync %v\n", p.name, m.first, err)
				return nil
			}
			if err != nil {
				return err
			}
			m.synced = done.Sub(listed)
		}
	}
	if err := p.settle(); err != nil {
		return err
	}
	m.firstCPU = p.cpu()
	if s.logs != "" {
		_, p.allocs, _ = getAt(p.host, "127.0.0.1:10249", "/debug/pprof/allocs")
	}
	fmt.Printf("service: %s: first sync %v, %v after the list; CPU %v\n", p.name, m.first.Round(time.Millisecond), m.fromList.Round(time.Millisecond), m.firstCPU)
	if err := p.single(m, s); err != nil {
		return err
	}
	if n := p.world.dataset.services / 100; p.gen != nil && s.changes > 0 && n > 1 {
		if err := p.settle(); err != nil {
			return err
		}
		if m.burst, err = p.burst(n, s.limit); err != nil {
			return fmt.Errorf("%d changes at once: %w", n, err)
		}
		fmt.Printf("service: %s: %d Services change at once: %v\n", p.name, n, m.burst)
	}
	if m.rss, m.high, err = memory(p.cmd.Process.Pid); err != nil || p.world.dataset.services != 5000 {
		return err
	}
	if m.restart, err = p.restart(p.world.dataset.services/2, spare(2000), s.limit); err != nil {
		return err
	}
	fmt.Printf("service: %s: restart %v\n", p.name, m.restart)
	return p.settle()
}

// single measures changes of one endpoint, one after the other.
func (p *proxyRun) single(m *measured, s serviceSettings) error {
	rng := rand.New(rand.NewPCG(1, 2)) // the same changes for all
	before := p.cpu()
	for n := range s.changes {
		i, j := rng.IntN(p.world.dataset.services), rng.IntN(p.world.dataset.endpoints)
		took, err := p.change(i, j, spare(n), s.limit)
		if err != nil {
			return err
		}
		m.changes.add(took)
		// What follows a change is over, and so is the 100 ms that podnet-proxy waits between two syncs.
		time.Sleep(120*time.Millisecond + time.Duration(rng.Int64N(int64(50*time.Millisecond))) + took/4)
		if total := sum(m.changes); total > 25*time.Second && len(m.changes) >= 3 || total > time.Minute {
			break
		}
	}
	if len(m.changes) > 0 {
		m.changeCPU = (p.cpu() - before) / time.Duration(len(m.changes))
		fmt.Printf("service: %s: %d changes, p50 %v, p90 %v; CPU %v each\n", p.name, len(m.changes), m.changes.quantile(0.5), m.changes.quantile(0.9), m.changeCPU)
	}
	return nil
}
