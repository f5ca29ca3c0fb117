package kubenode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
)

// API is what a Source asks of the API server.
type API interface {
	ListNodes(ctx context.Context, limit int, continued string, add func(kubeapi.Node)) (kubeapi.ListMeta, error)
	WatchNodes(ctx context.Context, version string, timeout time.Duration, event func(kubeapi.Event)) error
}

// Options are what a Source works with.
type Options struct {
	NodeName string         // of this node
	Keys     flannel.Keys   // of the annotations
	Net      netconf.Config // what other nodes have to fit
	State    string         // path of the file with the last good state; "" = none
	Metrics  *Metrics       // nil = none
	Logger   *slog.Logger   // nil = discard
}

// Source keeps the nodes of the cluster as the API server has them.
type Source struct {
	api     API
	o       Options
	log     *slog.Logger
	metrics *Metrics
	store   *store
	own     chan struct{}             // this node changed; room for one
	heard   atomic.Pointer[time.Time] // when the API server last told something
	live    atomic.Bool               // a watch is running
	older   atomic.Bool               // the API server went back to an older state: versions that were seen mean nothing

	// Of Run's goroutine only.
	version  string // of the nodes; "" = list them
	reason   string // of the next list
	unsure   bool   // whether the API server still has what led to version: it may have been restored
	failures int
	relist   time.Time // when to list though the watch goes on; zero = not
	warned   string    // the fault in the log
}

// The reasons of a list.
const (
	reasonStart    = "start"
	reasonExpired  = "expired"  // the API server does not know any more what came after our version
	reasonRestored = "restored" // its state is older than ours
	reasonShrunk   = "shrunk"   // the last list lacked more than half of the nodes
	reasonFailed   = "failed"   // the last list did not come through
)

// New returns a Source. It asks nobody before Run.
func New(api API, o Options) *Source {
	s := &Source{api: api, o: o, log: o.Logger, metrics: o.Metrics, own: make(chan struct{}, 1), reason: reasonStart}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics == nil {
		s.metrics = NewMetrics()
	}
	s.store = newStore(converter{o.Keys, o.Net}, o.NodeName)
	s.metrics.source.Store(s)
	return s
}

// Snapshot returns what is known now.
func (s *Source) Snapshot() node.Snapshot { return s.store.take() }

const (
	pageSize = 500
	// watchAtLeast to twice that is how long a watch lasts, so that those of many agents do not end together (client-go does the same).
	watchAtLeast = 5 * time.Minute
	diskAfter    = 5 * time.Second // the API server has not answered by then: the last good state counts
	faultAfter   = 3               // failures in a row, from which it is worth a word
	backoffMost  = 20 * time.Second
	steady       = 10 * time.Second // a watch that lasted so long was no failure
)

// Run keeps the snapshot up to date until ctx ends, and calls notify after each change. What fails is tried again.
func (s *Source) Run(ctx context.Context, notify func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.save(ctx) })
	late := time.AfterFunc(diskAfter, func() {
		if s.load() {
			notify()
		}
	})
	defer late.Stop()
	for ctx.Err() == nil {
		err := s.step(ctx, notify)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			s.failures = 0
			s.recovered(notify)
			continue
		}
		s.failures++
		s.failed(err, notify)
		if !sleep(ctx, s.wait(err)) {
			break
		}
	}
	return ctx.Err()
}

// step lists or watches once.
func (s *Source) step(ctx context.Context, notify func()) error {
	if s.version == "" {
		return s.list(ctx, notify)
	}
	if s.unsure {
		if err := s.checkRestored(ctx); err != nil || s.version == "" {
			return err
		}
		s.unsure = false
	}
	began := time.Now()
	err := s.watch(ctx, notify)
	s.unsure = true
	if time.Since(began) > steady {
		s.failures = 0
	}
	var status *kubeapi.StatusError
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.As(err, &status) && status.Gone():
		s.expire(reasonExpired)
		// All agents are told so at the same moment when an API server starts: they come back spread out by the size of what they ask for.
		sleep(ctx, rand.N(time.Millisecond+time.Duration(s.store.count()[stateUsed])*2*time.Millisecond))
		return nil
	case err != nil:
		return fmt.Errorf("watch nodes: %w", err)
	case !s.relist.IsZero() && !time.Now().Before(s.relist):
		s.expire(reasonShrunk)
	case time.Since(began) < time.Second:
		return errors.New("watch nodes: ended at once")
	}
	return nil
}

func (s *Source) expire(reason string) { s.version, s.reason, s.unsure = "", reason, false }

// list reads all nodes, page by page.
func (s *Source) list(ctx context.Context, notify func()) error {
	s.metrics.relists.WithLabelValues(s.reason).Inc()
	listing := s.store.begin(time.Now())
	continued := ""
	for {
		meta, err := s.api.ListNodes(ctx, pageSize, continued, func(n kubeapi.Node) {
			listing.add(n)
			s.announceOwn(n.Name)
		})
		s.metrics.count("list", err)
		var status *kubeapi.StatusError
		if err != nil {
			if errors.As(err, &status) && status.Gone() {
				s.reason = reasonExpired // it took longer than the API server keeps the state of a list
			} else {
				s.reason = reasonFailed
			}
			return fmt.Errorf("list nodes: %w", err)
		}
		s.hear()
		if continued = meta.Continue; continued == "" {
			s.version = meta.ResourceVersion
			break
		}
	}
	first := !s.store.known()
	shrunk := listing.end()
	s.relist = time.Time{}
	if shrunk && s.reason != reasonShrunk {
		s.relist = time.Now().Add(30 * time.Second)
		s.log.Warn("more than half of the nodes are gone at once; listing again soon", "in", 30*time.Second)
	}
	if first {
		s.log.Info("nodes listed", "nodes", len(listing.named), "version", s.version)
	}
	s.announceOwn(s.o.NodeName)
	notify()
	return nil
}

// watch follows the nodes from the version on.
func (s *Source) watch(ctx context.Context, notify func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !s.relist.IsZero() {
		defer time.AfterFunc(time.Until(s.relist), cancel).Stop()
	}
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stopped)
	wg.Go(func() { s.expireLoop(stopped, notify) })

	err := s.api.WatchNodes(ctx, s.version, watchAtLeast+rand.N(watchAtLeast), func(e kubeapi.Event) {
		s.event(e, notify)
	})
	s.live.Store(false)
	if ctx.Err() != nil {
		err = nil
	}
	s.metrics.count("watch", err)
	return err
}

// expireLoop lets go what is only held for a while.
func (s *Source) expireLoop(stopped <-chan struct{}, notify func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stopped:
			return
		case now := <-tick.C:
			if changed, _ := s.store.expire(now); changed {
				notify()
			}
		}
	}
}

// begun: the API server answers.
func (s *Source) begun(notify func()) {
	s.live.Store(true)
	s.recovered(notify)
}

func (s *Source) event(e kubeapi.Event, notify func()) {
	s.hear()
	if e.Type == kubeapi.Opened {
		s.begun(notify)
		return
	}
	s.metrics.events.WithLabelValues(e.Type).Inc()
	if e.Node.ResourceVersion != "" {
		s.version = e.Node.ResourceVersion
	}
	changed := false
	switch e.Type {
	case "ADDED", "MODIFIED":
		changed = s.store.put(e.Node, time.Now())
	case "DELETED":
		changed = s.store.remove(e.Node)
	default:
		return
	}
	s.announceOwn(e.Node.Name)
	if changed {
		notify()
	}
}

// checkRestored finds out whether the API server's state is older than ours: then a watch would wait, silently, for what it believes to
// lie ahead (etcd restored from a backup). Versions are numbers that grow (Kubernetes v1.35, KEP-5504); where they are not, this says nothing.
func (s *Source) checkRestored(ctx context.Context) error {
	ours, err := strconv.ParseUint(s.version, 10, 64)
	if err != nil {
		return nil
	}
	meta, err := s.api.ListNodes(ctx, 1, "", func(kubeapi.Node) {})
	s.metrics.count("list", err)
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	if theirs, err := strconv.ParseUint(meta.ResourceVersion, 10, 64); err == nil && theirs < ours {
		s.log.Warn("the API server's state is older than what was seen before: listing anew", "seen", ours, "now", theirs)
		s.older.Store(true)
		s.expire(reasonRestored)
	}
	return nil
}

func (s *Source) hear() {
	now := time.Now()
	s.heard.Store(&now)
}

func (s *Source) announceOwn(name string) {
	if name != s.o.NodeName {
		return
	}
	select {
	case s.own <- struct{}{}:
	default:
	}
}

// failed keeps what is known, from the disk if need be, and says so once it is more than a hiccup.
func (s *Source) failed(err error, notify func()) {
	loaded := !s.store.known() && s.load()
	fault := ""
	var status *kubeapi.StatusError
	if s.failures >= faultAfter || !s.store.known() || errors.As(err, &status) && (status.Code == 401 || status.Code == 403) {
		fault = "nodes are kept as they were: Kubernetes API: " + oneLine(err)
	}
	news := false
	if fault != "" {
		news = s.store.setFault(fault)
	}
	if text := oneLine(err); text != s.warned && (fault != "" || s.failures == 1) {
		s.log.Warn("Kubernetes API", "err", err)
		s.warned = text
	}
	if loaded || news {
		s.announceOwn(s.o.NodeName)
		notify()
	}
}

func (s *Source) recovered(notify func()) {
	if s.version == "" {
		return
	}
	if s.warned != "" {
		s.log.Info("Kubernetes API answers again", "version", s.version)
		s.warned = ""
	}
	if s.store.setFault("") {
		s.announceOwn(s.o.NodeName)
		notify()
	}
}

// wait is how long to wait after a failure: what the server says, or from half a second up to 20, spread by half, so that agents which failed
// together do not come back together.
func (s *Source) wait(err error) time.Duration {
	d := backoffMost
	if s.failures < 8 {
		d = min(d, 500*time.Millisecond<<(s.failures-1))
	}
	d = d/2 + rand.N(d)
	var status *kubeapi.StatusError
	if errors.As(err, &status) && status.Wait > 0 {
		d = max(d, status.Wait+rand.N(status.Wait/2+1))
	}
	return d
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
