package agent

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are what Prometheus reads, in a registry of their own.
type Metrics struct {
	registry    *prometheus.Registry
	peers       prometheus.Gauge
	duration    prometheus.Histogram
	errors      *prometheus.CounterVec
	writes      *prometheus.CounterVec
	heals       prometheus.Counter
	lastSuccess prometheus.Gauge
	invalid     prometheus.Gauge
	overflows   prometheus.Counter
}

// NewMetrics returns metrics of which the counters of each concern stand at 0.
func NewMetrics(version string, concerns []string) *Metrics {
	const prefix = "podnet_agent_"
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	perConcern := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{"concern"})
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		peers:    gauge("peers", "Other nodes that the agent works for."),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "reconcile_duration_seconds", Help: "Time of a pass over everything that the agent keeps.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		errors:      perConcern("reconcile_errors_total", "Passes in which a concern did not come to stand."),
		writes:      perConcern("kernel_writes_total", "Objects written or removed, by concern."),
		heals:       counter("heals_total", "Passes that had to repair something though nothing else was wanted: someone else had changed it."),
		lastSuccess: gauge("last_success_timestamp_seconds", "Time of the last pass after which everything stood, in seconds since 1970."),
		invalid:     gauge("node_descriptions_invalid", "Node descriptions, or parts of them, that are left out. The log and /readyz tell which."),
		overflows:   counter("events_overflow_total", "Times that the kernel dropped notifications because they came faster than they were read."),
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "build_info", Help: "1, with the version in labels."}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	for _, c := range concerns {
		m.errors.WithLabelValues(c)
		m.writes.WithLabelValues(c)
	}
	m.registry.MustRegister(m.peers, m.duration, m.errors, m.writes, m.heals, m.lastSuccess, m.invalid, m.overflows, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Overflow counts lost notifications.
func (m *Metrics) Overflow() { m.overflows.Inc() }

// Registerer takes the metrics of what the agent works with.
func (m *Metrics) Registerer() prometheus.Registerer { return m.registry }

// Gatherer returns what /metrics shows.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }
