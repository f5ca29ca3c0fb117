package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podnet/podnet/service"
)

// Limits of a Recorder.
const (
	eventQueue   = 256              // Events that wait; more are lost
	eventAgain   = 10 * time.Minute // between two of the same
	eventsKnown  = 4096             // of which it is known when they were written
	eventBurst   = 25
	eventEvery   = 2 * time.Second // one more than the burst
	eventTimeout = 15 * time.Second
	maxMessage   = 1024 // bytes; core/v1 Event
)

// Recorder writes Events about Services. Events are for people: what cannot be written is lost. The same Event is written at most every 10 minutes,
// and of all Events 25 at once and then one in 2 s, so that thousands of faulty Services do not load the API server.
type Recorder struct {
	source    *Source
	component string
	log       *slog.Logger
	queue     chan event

	mu    sync.Mutex
	known map[event]time.Time
	lost  uint64
}

type event struct {
	of              service.Name
	reason, message string
}

// NewRecorder returns a Recorder that writes to the Source's API server, in the name of a component such as "podnet-proxy". It writes nothing before Run.
func NewRecorder(s *Source, component string) *Recorder {
	return &Recorder{source: s, component: component, log: s.o.Logger, queue: make(chan event, eventQueue), known: map[event]time.Time{}}
}

// Warn writes a warning about a Service, soon. It never waits.
func (r *Recorder) Warn(of service.Name, reason, message string) {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	e := event{of, reason, message}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.known[e]; ok && now.Sub(at) < eventAgain {
		return
	}
	if len(r.known) >= eventsKnown {
		clear(r.known)
	}
	select {
	case r.queue <- e:
		r.known[e] = now
	default:
		r.lost++
	}
}

// Lost returns how many Events could not be written.
func (r *Recorder) Lost() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// Run writes until ctx ends, and returns its error.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(eventEvery)
	defer tick.Stop()
	budget, refused := eventBurst, ""
	for {
		queue := r.queue
		if budget == 0 {
			queue = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			budget = min(budget+1, eventBurst)
		case e := <-queue:
			budget--
			err := r.write(ctx, e)
			text := ""
			if err != nil && ctx.Err() == nil {
				r.mu.Lock()
				r.lost++
				r.mu.Unlock()
				if text = err.Error(); text != refused {
					r.log.Warn("an Event cannot be written", "service", e.of.String(), "err", err)
				}
			}
			refused = text
		}
	}
}

func (r *Recorder) write(ctx context.Context, e event) error {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	now := metav1.Now()
	name := e.of.Name
	if len(name) > 200 {
		name = name[:200]
	}
	return r.source.client.core.Post().Namespace(e.of.Namespace).Resource("events").Body(&corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", strings.TrimRight(name, ".-"), now.UnixNano()), Namespace: e.of.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: e.of.Namespace, Name: e.of.Name, UID: types.UID(r.source.UID(e.of))},
		Type:           corev1.EventTypeWarning, Reason: e.reason, Message: e.message,
		Source:              corev1.EventSource{Component: r.component, Host: r.source.o.NodeName},
		ReportingController: r.component, ReportingInstance: r.source.o.NodeName,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}).Do(ctx).Error()
}
