package kubenode

import (
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
)

// Metrics tell of the Kubernetes API. They are a prometheus.Collector.
type Metrics struct {
	source   atomic.Pointer[Source]
	requests *prometheus.CounterVec
	relists  *prometheus.CounterVec
	events   *prometheus.CounterVec
	fixed    []prometheus.Collector
	received atomic.Pointer[func() int64]
	age      *prometheus.Desc
	live     *prometheus.Desc
	nodes    *prometheus.Desc
	bytes    *prometheus.Desc
}

const prefix = "podnet_agent_kube_"

// NewMetrics returns metrics of which the usual labels stand at 0.
func NewMetrics() *Metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	m := &Metrics{
		requests: vec("requests_total", "Requests to the API server, by verb and HTTP status; code error: there was no answer.", "verb", "code"),
		relists:  vec("lists_total", "Lists of all nodes, by reason.", "reason"),
		events:   vec("watch_events_total", "What the watch of the nodes told, by type.", "type"),
		age: prometheus.NewDesc(prefix+"last_event_age_seconds",
			"Time since the API server last told something: a list, an event or a bookmark, which comes about every minute.", nil, nil),
		live:  prometheus.NewDesc(prefix+"watching", "1 while a watch of the nodes is answered.", nil, nil),
		nodes: prometheus.NewDesc(prefix+"nodes", "Node objects, by what becomes of them.", []string{"state"}, nil),
		bytes: prometheus.NewDesc(prefix+"received_bytes_total", "Bytes of Node objects read from the API server, decompressed.", nil, nil),
	}
	for _, verb := range []string{"list", "watch", "patch", "event"} {
		m.requests.WithLabelValues(verb, "200")
		m.requests.WithLabelValues(verb, "error")
	}
	for _, r := range []string{reasonStart, reasonExpired, reasonRestored, reasonShrunk, reasonFailed} {
		m.relists.WithLabelValues(r)
	}
	for _, e := range []string{"ADDED", "MODIFIED", "DELETED", "BOOKMARK"} {
		m.events.WithLabelValues(e)
	}
	m.fixed = []prometheus.Collector{m.requests, m.relists, m.events}
	return m
}

// Received has the metrics tell how much was read.
func (m *Metrics) Received(bytes func() int64) { m.received.Store(&bytes) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.fixed {
		c.Describe(to)
	}
	for _, d := range []*prometheus.Desc{m.age, m.live, m.nodes, m.bytes} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.fixed {
		c.Collect(to)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	age, live, counts := 0.0, 0.0, map[string]int{}
	if s := m.source.Load(); s != nil {
		if heard := s.heard.Load(); heard != nil {
			age = time.Since(*heard).Seconds()
		}
		if s.live.Load() {
			live = 1
		}
		counts = s.store.count()
	}
	gauge(m.age, age)
	gauge(m.live, live)
	for _, state := range []string{stateUsed, stateNoPodCIDR, stateRefused, stateConflict} {
		gauge(m.nodes, float64(counts[state]), state)
	}
	bytes := 0.0
	if f := m.received.Load(); f != nil {
		bytes = float64((*f)())
	}
	to <- prometheus.MustNewConstMetric(m.bytes, prometheus.CounterValue, bytes)
}

// count counts a request by its outcome.
func (m *Metrics) count(verb string, err error) {
	code := "200"
	var status *kubeapi.StatusError
	switch {
	case err == nil:
	case errors.As(err, &status):
		code = strconv.Itoa(status.Code)
	default:
		code = "error"
	}
	m.requests.WithLabelValues(verb, code).Inc()
}
