package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// watchIdle is how long a watch may be silent. The API server sends a bookmark about every minute; a connection that is half open, or a balancer in between that lost its
// server, sends nothing for ever.
const watchIdle = 100 * time.Second

var errSilent = fmt.Errorf("neither an event nor a bookmark for %v", watchIdle)

// Status is what a Source knows of its API server and its objects.
type Status struct {
	Services, Slices         int    // known
	HeldServices, HeldSlices int    // missing in a list, and kept
	ServiceChanges           uint64 // received
	SliceChanges             uint64

	Heard    time.Time // when the API server last sent something; zero: never
	Errors   uint64    // lists and watches that failed
	Err      error     // of the kind that failed last, until it works again
	Expired  uint64    // watches that ended because their version was too old (410 Gone): everything is listed anew
	Waiting  string    // what Synced waits for; "" once it is closed
	IsSynced bool
}

// Status returns how the Source is.
func (s *Source) Status() Status {
	var st Status
	st.Services, st.HeldServices = s.services.counts()
	st.Slices, st.HeldSlices = s.slices.counts()
	st.ServiceChanges, st.SliceChanges = s.services.changes.Load(), s.slices.changes.Load()
	s.health.fill(&st)
	s.mu.Lock()
	st.Waiting, st.IsSynced = s.waiting, s.isSynced
	s.mu.Unlock()
	if st.Waiting == "" && !st.IsSynced {
		st.Waiting = "the API server"
	}
	return st
}

// health is how the API server answers.
type health struct {
	log *slog.Logger

	mu      sync.Mutex
	heard   time.Time
	errors  uint64
	expired uint64
	failing map[string]error // by kind
	missing map[string]bool  // kinds that the API server does not have, or that we may not read
	suspect map[string]bool  // kinds that failed since the API server's state was last known to be ours or later
}

// listWatch has a reflector list and watch, and notes how that goes.
func (s *Source) listWatch(r resource) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			out, err := r.doList(ctx, o)
			s.outcome(ctx, r.name, err)
			return out, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			ctx, cancel := context.WithCancel(ctx)
			var w watch.Interface
			err := s.checkRestored(ctx, r, version(o.ResourceVersion))
			if err == nil {
				w, err = r.doWatch(ctx, o)
			}
			s.outcome(ctx, r.name, err)
			if err != nil {
				cancel()
				return nil, err
			}
			return s.lively(ctx, r.name, w, cancel), nil
		},
	}
}

// outcome notes how a request went. A kind that is only wanted (servicecidrs) does not keep the rest from beginning when it is refused.
func (s *Source) outcome(ctx context.Context, kind string, err error) {
	if ctx.Err() != nil {
		return
	}
	if s.health.outcome(kind, err) {
		s.listed()
	}
}

func (h *health) outcome(kind string, err error) (refused bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failing == nil {
		h.failing, h.missing, h.suspect = map[string]error{}, map[string]bool{}, map[string]bool{}
	}
	was := h.failing[kind]
	if err == nil {
		h.heard = time.Now()
		delete(h.failing, kind)
		delete(h.missing, kind)
		if was != nil {
			h.log.Info("the API server answers again", "kind", kind)
		}
		return false
	}
	h.errors++
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		h.expired++
		return false // the reflector lists anew; nobody has to know
	}
	h.failing[kind], h.suspect[kind] = err, true
	if was == nil || was.Error() != err.Error() {
		h.log.Warn("the API server does not answer as wanted; everything stays as it is", "kind", kind, "err", err)
	}
	refused = !h.missing[kind] && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err))
	h.missing[kind] = h.missing[kind] || refused
	return refused
}

// lacks reports whether a kind is refused.
func (h *health) lacks(kind string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.missing[kind]
}

func (h *health) suspects(kind string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.suspect[kind]
}

func (h *health) trust(kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.suspect, kind)
}

func (h *health) fill(st *Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Heard, st.Errors, st.Expired = h.heard, h.errors, h.expired
	for _, err := range h.failing {
		st.Err = err
	}
}

func (h *health) hear() {
	h.mu.Lock()
	h.heard = time.Now()
	h.mu.Unlock()
}

// livelyWatch ends a watch that has been silent for too long.
type livelyWatch struct {
	inner  watch.Interface
	events chan watch.Event
	cancel context.CancelFunc
}

func (w *livelyWatch) Stop() {
	w.cancel()
	w.inner.Stop()
}

func (w *livelyWatch) ResultChan() <-chan watch.Event { return w.events }

func (s *Source) lively(ctx context.Context, kind string, inner watch.Interface, cancel context.CancelFunc) watch.Interface {
	w := &livelyWatch{inner: inner, events: make(chan watch.Event), cancel: cancel}
	s.watches.Go(func() { // ends with the context of Run
		defer close(w.events)
		defer w.Stop()
		idle := time.NewTimer(watchIdle)
		defer idle.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-idle.C:
				s.health.outcome(kind, errSilent)
				return
			case e, ok := <-inner.ResultChan():
				if !ok {
					return
				}
				s.health.hear()
				if e.Type == watch.Error {
					s.health.outcome(kind, apierrors.FromObject(e.Object))
				}
				idle.Reset(watchIdle)
				select {
				case w.events <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	return w
}

// checkRestored finds out whether the API server's state is older than ours: then a watch would wait, silently, for what it believes to lie ahead (etcd restored from a
// backup). It asks only after a failure, which a restore is not without.
func (s *Source) checkRestored(ctx context.Context, r resource, ours uint64) error {
	if ours == 0 || !s.health.suspects(r.name) {
		return nil
	}
	out, err := r.doList(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	list, err := meta.ListAccessor(out)
	if err != nil {
		return nil
	}
	if theirs := version(list.GetResourceVersion()); theirs != 0 && theirs < ours {
		s.o.Logger.Warn("the API server's state is older than what was seen before: everything is listed anew", "kind", r.name, "seen", ours, "now", theirs)
		return apierrors.NewResourceExpired(fmt.Sprintf("state at version %d, older than %d", theirs, ours))
	}
	s.health.trust(r.name)
	return nil
}

// version is a resourceVersion as a number, which they are and grow (Kubernetes 1.35, KEP-5504), or 0.
func version(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return v
}
