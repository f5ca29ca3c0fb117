package servicefile

import (
	"maps"
	"slices"
	"time"

	"github.com/podnet/podnet/service/kube"
)

// guardFrom is the number of Services from which a missing half is held.
const guardFrom = 8

// tell passes on the difference to what was told before.
func (s *Source) tell(want map[string]object) {
	s.hold(want, time.Now())
	node := kube.Node{Exists: true}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		o := want[key]
		if o.node != nil {
			node = *o.node
		}
		s.one(s.told[key], o)
	}
	for key, was := range s.told {
		if _, ok := want[key]; !ok {
			s.one(was, object{})
		}
	}
	s.told = want
	if n, ok := s.o.Node(node, nil); ok {
		s.sink.SetNode(n) // compares itself
	}
}

// one passes on how one object changed.
func (s *Source) one(was, now object) {
	switch {
	case now.service != nil:
		if was.service == nil || !was.service.Equal(*now.service) {
			s.changed(true)
			s.sink.SetService(*now.service)
		}
	case was.service != nil:
		s.changed(true)
		s.sink.DeleteService(was.service.Name)
	}
	if now.slice != nil && (was.slice == nil || was.slice.of != now.slice.of || !was.slice.what.Equal(now.slice.what)) {
		s.changed(false)
		s.sink.SetSlice(now.slice.of, now.slice.name, now.slice.what)
	}
	if was.slice != nil && (now.slice == nil || was.slice.of != now.slice.of) {
		s.changed(false)
		s.sink.DeleteSlice(was.slice.of, was.slice.name)
	}
}

func (s *Source) changed(ofService bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ofService {
		s.status.ServiceChanges++
	} else {
		s.status.SliceChanges++
	}
}

// hold puts back what is missing with more than half of all: an empty directory is a mount that is gone more often than a wish.
func (s *Source) hold(want map[string]object, now time.Time) {
	var missing []string
	for key := range s.told {
		if _, ok := want[key]; !ok {
			missing = append(missing, key)
		} else {
			delete(s.gone, key)
		}
	}
	if s.o.Hold < 0 || len(s.told) < guardFrom || 2*len(missing) <= len(s.told) {
		clear(s.gone)
		return
	}
	fresh := 0
	for _, key := range missing {
		until, ok := s.gone[key]
		if !ok {
			until = now.Add(s.o.Hold)
			s.gone[key] = until
			fresh++
		}
		if now.Before(until) {
			want[key] = s.told[key]
		} else {
			delete(s.gone, key)
		}
	}
	if fresh > 0 {
		s.o.Logger.Warn("more than half of what was described is missing: kept, in case that is a fault", "missing", len(missing), "hold", s.o.Hold)
	}
}
