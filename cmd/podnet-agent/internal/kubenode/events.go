package kubenode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
)

const (
	normal  = "Normal"
	warning = "Warning"
)

const (
	eventNamespace = "default" // where Events about objects without a namespace are
	eventAgain     = 10 * time.Minute
	eventRetry     = time.Minute
	eventsKept     = 32
)

// recorder writes Events about this node. The same Event is counted, not written again, and that at most every 10 minutes; of others there are at most
// 10 at once and two a minute.
type recorder struct {
	api     Writer
	metrics *Metrics
	log     *slog.Logger
	o       PublisherOptions
	known   map[[2]string]*occurrence // by reason and message
	budget  bucket
	next    time.Time // not before: the API server refused one
	refused string
}

type occurrence struct {
	name  string // "": it could not be written
	count int
	last  time.Time // when it was written or counted
}

func newRecorder(api Writer, m *Metrics, log *slog.Logger, o PublisherOptions) recorder {
	return recorder{api: api, metrics: m, log: log, o: o, known: map[[2]string]*occurrence{}, budget: bucket{size: 10, every: 30 * time.Second}}
}

// record writes an Event or counts it. Events are for people: one that cannot be written is lost.
func (r *recorder) record(ctx context.Context, node kubeapi.Node, kind, reason, message string) {
	now := time.Now()
	key := [2]string{reason, message}
	have := r.known[key]
	if have != nil && now.Sub(have.last) < eventAgain || now.Before(r.next) {
		return
	}
	if r.budget.take(now) > 0 {
		return
	}
	if have == nil {
		if len(r.known) >= eventsKept {
			clear(r.known)
		}
		level := slog.LevelInfo
		if kind == warning {
			level = slog.LevelWarn
		}
		r.log.Log(ctx, level, "event", "reason", reason, "message", message)
	} else if have.name != "" && r.again(ctx, have, now) {
		return
	}
	r.create(ctx, node, kind, key, now)
}

// again counts an Event once more, and reports whether it is still there to be counted.
func (r *recorder) again(ctx context.Context, have *occurrence, now time.Time) bool {
	err := r.api.PatchEvent(ctx, eventNamespace, have.name, map[string]any{"count": have.count + 1, "lastTimestamp": now.UTC().Format(time.RFC3339)})
	r.metrics.count("event", err)
	var status *kubeapi.StatusError
	if errors.As(err, &status) && status.Code == 404 {
		return false // the API server keeps Events for an hour
	}
	r.outcome(err, now)
	have.last = now
	have.count++
	return true
}

func (r *recorder) create(ctx context.Context, node kubeapi.Node, kind string, key [2]string, now time.Time) {
	stamp := now.UTC().Format(time.RFC3339)
	name := fmt.Sprintf("%.200s.%x", r.o.NodeName, now.UnixNano())
	err := r.api.CreateEvent(ctx, eventNamespace, map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"name": name, "namespace": eventNamespace},
		"involvedObject": map[string]any{"apiVersion": "v1", "kind": "Node", "name": r.o.NodeName, "uid": node.UID},
		"type":           kind, "reason": key[0], "message": key[1],
		"source":             map[string]any{"component": "podnet-agent", "host": r.o.NodeName},
		"reportingComponent": "podnet-agent", "reportingInstance": r.o.NodeName,
		"firstTimestamp": stamp, "lastTimestamp": stamp, "count": 1,
	})
	r.metrics.count("event", err)
	r.outcome(err, now)
	if err != nil {
		r.known[key] = &occurrence{}
		return
	}
	r.known[key] = &occurrence{name: name, count: 1, last: now}
}

func (r *recorder) outcome(err error, now time.Time) {
	if err == nil {
		r.refused = ""
		return
	}
	r.next = now.Add(eventRetry)
	if text := err.Error(); text != r.refused {
		r.log.Warn("an Event cannot be written", "err", err)
		r.refused = text
	}
}
