package main

import (
	"context"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/health"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/leftover"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/metrics"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/servicefile"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/kube"
)

// source is where Services come from: a kube.Source or a servicefile.Source.
type source interface {
	Run(context.Context) error
	Synced() <-chan struct{}
	Status() kube.Status
	Node() kube.Node
}

// wiring is what serves, put together.
type wiring struct {
	*proxy
	mode       string
	dataplane  service.Dataplane
	reconciler *service.Reconciler
	source     source
	recorder   *kube.Recorder // nil without Kubernetes
	flows      *conntrack.Queue
	checks     *health.Services
	proxyCheck *health.Proxy
	metrics    *metrics.Metrics

	node   atomic.Pointer[service.Node] // as it was told last
	first  bool                         // the next good sync is the first; used by the goroutine of the sync
	stands chan keep                    // gets a value after it
	begun  atomic.Int64                 // when the Reconciler was started, in nanoseconds since 1970
	queued atomic.Int64                 // when a change last began to wait
}

// keep says which of kube-proxy's virtual servers stay; nil: none.
type keep func(leftover.Server) bool

// checkPorts is how often a healthCheckNodePort that could not be opened is tried again.
const checkPorts = 5 * time.Second

func (p *proxy) wire(chosen choice) (*wiring, error) {
	w := &wiring{proxy: p, mode: chosen.mode, dataplane: chosen.dataplane, first: true, stands: make(chan keep, 1)}
	families := families()
	w.reconciler = service.New(chosen.dataplane, service.Options{Logger: p.log, MinSyncPeriod: minSync(p.config.MinSyncPeriod), OnSync: w.synced})
	if err := w.openSource(); err != nil {
		return nil, err
	}
	w.proxyCheck = &health.Proxy{State: w.state, Limit: 2 * p.config.SyncPeriod, Families: families, Count: func(path string, code int) { w.metrics.Answer(path, code) }}
	w.checks = health.NewServices(health.ServicesOptions{Healthy: w.proxyCheck.Healthy, Addrs: w.checkAddrs, Failed: w.checkFailed})
	w.metrics = metrics.New(metrics.Options{Version: version, Mode: chosen.mode, Families: families, Start: p.start, Sources: w.sources()})
	w.flows = conntrack.NewQueue(conntrack.New(&conntrack.Conn{}, conntrack.Options{}), conntrack.QueueOptions{Done: w.flowsDone})
	return w, nil
}

// minSync translates kube-proxy's minSyncPeriod, in which 0 is none. Up to its default of a second a change need not wait: a sync costs what changed, and no more.
func minSync(d time.Duration) time.Duration {
	if d <= time.Second {
		return 0 // the Reconciler's own
	}
	return d
}

func (w *wiring) openSource() error {
	c := w.config
	toNode := func(n kube.Node, cidrs []netip.Prefix) (service.Node, bool) {
		out, ok := node(c, w.mode, n, cidrs, time.Since(w.start))
		if ok {
			w.node.Store(&out)
		}
		return out, ok
	}
	if c.Services != "" {
		w.source = servicefile.New(c.Services, w.reconciler, servicefile.Options{NodeName: c.NodeName, Poll: c.SyncPeriod, Hold: hold(c.Hold), Node: toNode, Logger: w.log})
		return nil
	}
	config, err := kubeConfig(c.Kubernetes)
	if err != nil {
		return err
	}
	s, err := kube.New(config, w.reconciler, kube.Options{NodeName: c.NodeName, Node: toNode, Hold: hold(c.Hold), Logger: w.log,
		Changed: func(of service.Name, at time.Time) { w.metrics.Changed(of, at) }})
	if err != nil {
		return err
	}
	w.source, w.recorder = s, kube.NewRecorder(s, "podnet-proxy")
	return nil
}

// hold translates the flag, in which 0 is off, to the sources, in which a negative time is.
func hold(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// run starts everything. Each goroutine ends with ctx.
func (w *wiring) run(ctx context.Context, all *sync.WaitGroup, fail context.CancelCauseFunc) {
	w.serveHTTP(ctx, all, fail)
	all.Go(func() { _ = w.source.Run(ctx) })
	if w.recorder != nil {
		all.Go(func() { _ = w.recorder.Run(ctx) })
	}
	all.Go(func() { _ = w.flows.Run(ctx) })
	all.Go(func() { _ = w.checks.Run(ctx, checkPorts) })
	all.Go(func() { w.afterFirst(ctx) })
	all.Go(func() {
		if !w.await(ctx) {
			return
		}
		w.begun.Store(time.Now().UnixNano())
		_ = w.reconciler.Run(ctx)
	})
}

// await waits until the source has told everything, and says what it waits for. Until then the kernel stays as it is, so that a restart cuts nothing.
func (w *wiring) await(ctx context.Context) bool {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.source.Synced():
			s := w.source.Status()
			w.log.Info("all Services are known", "services", s.Services, "slices", s.Slices, "took", time.Since(w.start).Round(time.Millisecond))
			return true
		case <-tick.C:
			s := w.source.Status()
			w.log.Info("waits; the kernel stays as it is", "for", s.Waiting, "err", s.Err)
		}
	}
}

// state is what health depends on.
func (w *wiring) state() health.State {
	s := w.reconciler.Status()
	begun := w.begun.Load()
	switch {
	case begun == 0: // starting up, which kube-proxy calls healthy
		s.Pending = time.Time{}
	case s.Synced.IsZero():
		s.Pending = time.Unix(0, begun)
	}
	if !s.Pending.IsZero() {
		w.queued.Store(s.Pending.UnixNano())
	}
	n := w.source.Node()
	return health.State{Pending: s.Pending, Synced: s.Synced, Node: n.Exists && !n.Deleting}
}

func (w *wiring) sources() metrics.Sources {
	at := func(ns int64) time.Time {
		if ns == 0 {
			return time.Time{}
		}
		return time.Unix(0, ns)
	}
	return metrics.Sources{
		Pending:         w.reconciler.Pending,
		ServiceChanges:  func() uint64 { return w.source.Status().ServiceChanges },
		EndpointChanges: func() uint64 { return w.source.Status().SliceChanges },
		Held:            func() int { s := w.source.Status(); return s.HeldServices + s.HeldSlices },
		APIErrors:       func() uint64 { return w.source.Status().Errors },
		Heard:           func() time.Time { return w.source.Status().Heard },
		EventsLost: func() uint64 {
			if w.recorder == nil {
				return 0
			}
			return w.recorder.Lost()
		},
		HealthCheckPorts: func() int { return w.checks.Len() },
		Queued:           func() time.Time { return at(w.queued.Load()) },
	}
}

// synced is told of every sync.
func (w *wiring) synced(r service.Report, err error) {
	w.queued.Store(time.Now().Add(-r.Took).UnixNano())
	w.metrics.Sync(r, err)
	if err != nil {
		return
	}
	for name, fault := range r.Failed {
		w.tell(name, "NotProgrammed", fault.Error())
	}
	for name, faults := range r.Faults {
		for _, f := range faults {
			w.tell(name, "Invalid", f.Error())
		}
	}
	for _, c := range r.Changes {
		w.checks.Set(c.Name, c.After.HealthCheckNodePort, c.After.LocalReady)
	}
	w.flows.Put(w.staleFlows(r))
	if w.first {
		w.first = false
		w.stands <- w.taken(r)
	}
}

// afterFirst does what has to wait until the kernel is as wanted.
func (w *wiring) afterFirst(ctx context.Context) {
	var ours keep
	select {
	case <-ctx.Done():
		return
	case ours = <-w.stands:
	}
	debug.FreeOSMemory() // the lists of the start are garbage now
	if err := w.cleanupModes(ctx, w.mode); err != nil && ctx.Err() == nil {
		w.log.Warn("what another mode left could not be removed", "err", err)
	}
	if w.config.ReplaceKubeProxy {
		if err := w.cleanupKubeProxy(ctx, ours); err != nil && ctx.Err() == nil {
			w.log.Warn("not everything that kube-proxy left could be removed; podnet-proxy --cleanup-kube-proxy tries again", "err", err)
		}
	}
}

// tell writes an Event about a Service.
func (w *wiring) tell(name service.Name, reason, message string) {
	if w.recorder != nil {
		w.recorder.Warn(name, reason, message)
	}
}

// checkAddrs are the addresses for healthCheckNodePorts: those of NodePorts.
func (w *wiring) checkAddrs() []netip.Addr {
	n := w.node.Load()
	if n == nil || len(n.NodePortAddrs) == 0 {
		return nil
	}
	return localAddrs(n.NodePortAddrs)
}

func (w *wiring) checkFailed(of service.Name, port uint16, err error) {
	w.log.Warn("healthCheckNodePort cannot be opened; tried again", "service", of.String(), "port", port, "err", err)
	w.tell(of, "FailedToStartServiceHealthcheck", "node "+w.config.NodeName+": "+err.Error())
}
