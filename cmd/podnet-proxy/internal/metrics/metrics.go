// Package metrics holds what Prometheus reads of podnet-proxy: kube-proxy's metrics under kube-proxy's names, so that dashboards and alerts work on, and its own.
//
// What it does: [Metrics.Sync] counts a sync of a service.Reconciler; what can be asked at any time ([Sources]) is asked when Prometheus asks. kube-proxy has one
// sync per IP family; podnet-proxy syncs both at once, so that the series of both families say the same.
//
// Of kube-proxy's metrics these are left out: the two of nfacct, whose counters podnet-proxy has no rules for, and iptables_total and iptables_last by table, which
// podnet_proxy_kernel_writes_total is instead of.
//
// What it owns: a registry of its own. Privileges: none. Concurrency: everything may be called by several goroutines at once.
package metrics

import (
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/podnet/podnet/service"
)

// Sources are asked when Prometheus asks. All of them are needed.
type Sources struct {
	Pending          func() int // Services that wait for a sync
	ServiceChanges   func() uint64
	EndpointChanges  func() uint64
	Held             func() int // Services and EndpointSlices that are missing in a list and kept
	APIErrors        func() uint64
	Heard            func() time.Time // when the source last said something
	EventsLost       func() uint64
	HealthCheckPorts func() int       // that are open
	Queued           func() time.Time // when a change last began to wait
}

// Options are the settings of Metrics.
type Options struct {
	Version  string
	Mode     string // nftables, ipvs or iptables
	Families []service.Family
	Sources  Sources
	Start    time.Time // when the process began: changes from before are not measured
}

// Metrics are the metrics of one podnet-proxy. Make them with New.
type Metrics struct {
	o        Options
	registry *prometheus.Registry

	duration, full, partial, programming, conntrackDuration  *prometheus.HistogramVec
	last, noLocal                                            *prometheus.GaugeVec
	failures, cleanupFailures                                *prometheus.CounterVec
	partialRestoreFailures, conntrackDeleted, healthz, livez *prometheus.CounterVec

	writes, heals, syncFailures, conntrackFailures prometheus.Counter
	services, failed, faulty                       prometheus.Gauge

	mu       sync.Mutex
	triggers map[service.Name][]time.Time // changes that are not in the kernel yet
	faults   map[service.Name]bool
}

const kube = "kubeproxy"

// New returns metrics of which those without labels and those with a family stand at 0.
func New(o Options) *Metrics {
	m := &Metrics{o: o, registry: prometheus.NewRegistry(), triggers: map[service.Name][]time.Time{}, faults: map[service.Name]bool{}}
	if m.o.Start.IsZero() {
		m.o.Start = time.Now()
	}
	m.kube()
	m.own()
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gatherer returns what /metrics shows.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

func (m *Metrics) histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: kube, Name: name, Help: help, Buckets: buckets}, []string{"ip_family"})
	m.registry.MustRegister(v)
	for _, f := range m.o.Families {
		v.WithLabelValues(f.String())
	}
	return v
}

func (m *Metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: kube, Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) counter(name, help string, label string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: kube, Name: name, Help: help}, []string{label})
	m.registry.MustRegister(v)
	if label == "ip_family" {
		for _, f := range m.o.Families {
			v.WithLabelValues(f.String())
		}
	}
	return v
}

// ask registers a metric without labels that a function knows.
func (m *Metrics) ask(kind prometheus.ValueType, namespace, name, help string, value func() float64) {
	if kind == prometheus.CounterValue {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, value))
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value))
}

// kube registers kube-proxy's metrics of v1.36, those of the mode only, as it does.
func (m *Metrics) kube() {
	sync := prometheus.ExponentialBuckets(0.001, 2, 15)
	m.duration = m.histogram("sync_proxy_rules_duration_seconds", "Time of a sync.", sync)
	m.last = m.gauge("sync_proxy_rules_last_timestamp_seconds", "When the kernel last was as wanted, in seconds since 1970.", "ip_family")
	for _, f := range m.o.Families {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: kube, Name: "sync_proxy_rules_last_queued_timestamp_seconds", Help: "When a sync was last asked for, in seconds since 1970.",
			ConstLabels: prometheus.Labels{"ip_family": f.String()},
		}, func() float64 { return seconds(m.o.Sources.Queued()) }))
	}
	pending := func() float64 { return float64(m.o.Sources.Pending()) }
	m.ask(prometheus.GaugeValue, kube, "sync_proxy_rules_service_changes_pending", "Services that wait for a sync.", pending)
	m.ask(prometheus.GaugeValue, kube, "sync_proxy_rules_endpoint_changes_pending", "Services that wait for a sync; the same as for changes of Services.", pending)
	m.ask(prometheus.CounterValue, kube, "sync_proxy_rules_service_changes_total", "Changes of Services that were received.", func() float64 { return float64(m.o.Sources.ServiceChanges()) })
	m.ask(prometheus.CounterValue, kube, "sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices that were received.", func() float64 { return float64(m.o.Sources.EndpointChanges()) })
	m.healthz = m.counter("proxy_healthz_total", "Answers of /healthz.", "code")
	m.livez = m.counter("proxy_livez_total", "Answers of /livez.", "code")
	m.programming = m.histogram("network_programming_duration_seconds", "Time from what changed endpoints (the EndpointSlice tells when) until the kernel was told.", programmingBuckets())
	m.noLocal = m.gauge("sync_proxy_rules_no_local_endpoints_total", "Services that a traffic policy Local makes unreachable on this node.", "traffic_policy", "ip_family")
	for _, f := range m.o.Families {
		m.last.WithLabelValues(f.String())
		m.noLocal.WithLabelValues("internal", f.String())
		m.noLocal.WithLabelValues("external", f.String())
	}
	m.conntrackDuration = m.histogram("conntrack_reconciler_sync_duration_seconds", "Time to find and delete stale flows.", sync)
	m.conntrackDeleted = m.counter("conntrack_reconciler_deleted_entries_total", "Stale flows that were deleted.", "ip_family")
	switch m.o.Mode {
	case "nftables", "iptables":
		m.full = m.histogram("sync_full_proxy_rules_duration_seconds", "Time of a sync that compared everything.", sync)
		m.partial = m.histogram("sync_partial_proxy_rules_duration_seconds", "Time of a sync of what changed.", sync)
	}
	switch m.o.Mode {
	case "nftables":
		m.failures = m.counter("sync_proxy_rules_nftables_sync_failures_total", "Syncs that failed.", "ip_family")
		m.cleanupFailures = m.counter("sync_proxy_rules_nftables_cleanup_failures_total", "Always 0: what is not used any more goes with the sync.", "ip_family")
	case "iptables":
		m.failures = m.counter("sync_proxy_rules_iptables_restore_failures_total", "Syncs that failed.", "ip_family")
		m.partialRestoreFailures = m.counter("sync_proxy_rules_iptables_partial_restore_failures_total", "Always 0: a sync that failed is repeated as a full one, and counted above.", "ip_family")
	case "ipvs":
		m.failures = m.counter("sync_proxy_rules_iptables_restore_failures_total", "Syncs that failed.", "ip_family")
	}
}

func programmingBuckets() []float64 {
	b := append(prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59)...)
	b = append(b, prometheus.LinearBuckets(60, 5, 12)...)
	return append(b, prometheus.LinearBuckets(120, 30, 7)...)
}

// own registers podnet-proxy's own metrics.
func (m *Metrics) own() {
	const own = "podnet_proxy"
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: own, Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: own, Name: name, Help: help})
		m.registry.MustRegister(g)
		return g
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: own, Name: "build_info", Help: "1, with version and mode in labels."}, []string{"version", "goversion", "mode"})
	info.WithLabelValues(m.o.Version, runtime.Version(), m.o.Mode).Set(1)
	m.registry.MustRegister(info)
	m.services = gauge("services", "Services that are programmed.")
	m.failed = gauge("services_failed", "Services that the kernel did not take, or not wholly. The log and Events tell which.")
	m.faulty = gauge("services_faulty", "Services of which a part is left out because it is wrong. The log and Events tell which.")
	m.writes = counter("kernel_writes_total", "Objects that were written to the kernel or removed from it.")
	m.heals = counter("heals_total", "Syncs that had to repair something though nothing else was wanted: someone else had changed it.")
	m.syncFailures = counter("sync_failures_total", "Syncs that failed as a whole; they are repeated.")
	m.conntrackFailures = counter("conntrack_failures_total", "Times that stale flows could not be deleted; that is repeated.")
	s := m.o.Sources
	m.ask(prometheus.GaugeValue, own, "held", "Services and EndpointSlices that were missing in a list with more than half of all, and are kept for a while.", func() float64 { return float64(s.Held()) })
	m.ask(prometheus.CounterValue, own, "source_errors_total", "Requests to the API server that failed, or looks at the files.", func() float64 { return float64(s.APIErrors()) })
	m.ask(prometheus.GaugeValue, own, "source_heard_timestamp_seconds", "When the API server last said something, in seconds since 1970; at least each 100 s if it is well.", func() float64 { return seconds(s.Heard()) })
	m.ask(prometheus.CounterValue, own, "events_lost_total", "Events about Services that could not be written.", func() float64 { return float64(s.EventsLost()) })
	m.ask(prometheus.GaugeValue, own, "health_check_ports", "healthCheckNodePorts that are open.", func() float64 { return float64(s.HealthCheckPorts()) })
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// Answer counts an answer of /healthz or /livez.
func (m *Metrics) Answer(path string, code int) {
	v := m.livez
	if path == "/healthz" {
		v = m.healthz
	}
	v.WithLabelValues(strconv.Itoa(code)).Inc()
}

// Changed notes that endpoints of a Service changed because of something at a time. The next sync with the Service ends the measurement.
func (m *Metrics) Changed(of service.Name, at time.Time) {
	if at.Before(m.o.Start) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.triggers) >= 4096 { // of Services that are not there
		clear(m.triggers)
	}
	const most = 100 // one per slice; what comes faster than it is synced says nothing new
	if t := m.triggers[of]; len(t) < most {
		m.triggers[of] = append(t, at)
	}
}

// Conntrack counts a search for stale flows.
func (m *Metrics) Conntrack(deleted map[service.Family]int, err error, took time.Duration) {
	if err != nil {
		m.conntrackFailures.Inc()
	}
	for _, f := range m.o.Families {
		m.conntrackDuration.WithLabelValues(f.String()).Observe(took.Seconds())
		m.conntrackDeleted.WithLabelValues(f.String()).Add(float64(deleted[f]))
	}
}
