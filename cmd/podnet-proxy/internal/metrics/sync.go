package metrics

import (
	"time"

	"github.com/podnet/podnet/service"
)

// Sync counts a sync of a Reconciler: its Options.OnSync.
func (m *Metrics) Sync(r service.Report, err error) {
	if err != nil {
		m.syncFailures.Inc()
	} else {
		m.writes.Add(float64(r.Writes))
		m.services.Set(float64(r.Services))
		m.failed.Set(float64(len(r.Failed)))
		if r.Full && r.Writes > 0 && len(r.Changes) == 0 {
			m.heals.Inc()
		}
	}
	now := time.Now()
	for _, f := range m.o.Families {
		family := f.String()
		m.duration.WithLabelValues(family).Observe(r.Took.Seconds())
		if by := m.partial; by != nil {
			if r.Full || err != nil {
				by = m.full
			}
			by.WithLabelValues(family).Observe(r.Took.Seconds())
		}
		if err != nil {
			m.failures.WithLabelValues(family).Inc()
			continue
		}
		m.last.WithLabelValues(family).Set(seconds(now))
		m.noLocal.WithLabelValues("internal", family).Set(float64(r.NoLocalInternal))
		m.noLocal.WithLabelValues("external", family).Set(float64(r.NoLocalExternal))
	}
	if err == nil {
		m.reached(r, now)
	}
}

// reached ends the measurements of the Services that the kernel has now, and counts the faulty ones.
func (m *Metrics) reached(r service.Report, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range r.Planned {
		if r.Failed[n] != nil {
			continue
		}
		for _, at := range m.triggers[n] {
			for _, f := range m.o.Families {
				m.programming.WithLabelValues(f.String()).Observe(max(now.Sub(at), 0).Seconds())
			}
		}
		delete(m.triggers, n)
	}
	for _, n := range r.Planned {
		if len(r.Faults[n]) > 0 {
			m.faults[n] = true
		} else {
			delete(m.faults, n)
		}
	}
	m.faulty.Set(float64(len(m.faults)))
}
