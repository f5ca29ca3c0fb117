package kube

import (
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/podnet/podnet/service"
)

// store is the end of a reflector. It converts the objects and passes them on, and keeps only who they are: an informer would keep every object a second time.
type store struct {
	source *Source
	name   string
	set    func(object any) (identity, bool) // false: the object is none of ours
	remove func(key string, id identity)

	guarded bool
	listed  atomic.Bool // once
	changes atomic.Uint64

	mu    sync.Mutex
	known map[string]identity
	held  map[string]time.Time // missing in a list; gone at that time
}

// identity is what has to be known of an object to remove it, and to write an Event about it.
type identity struct {
	of  service.Name
	uid string
}

func newStore(s *Source, name string, set func(any) (identity, bool), remove func(string, identity)) *store {
	return &store{source: s, name: name, set: set, remove: remove, known: map[string]identity{}, held: map[string]time.Time{}}
}

// Add, Update, Delete, Replace, Resync and Transformer are what a cache.Reflector calls.
func (s *store) Add(object any) error { return s.Update(object) }

// Update takes an object that is new or changed.
func (s *store) Update(object any) error {
	s.changes.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update(object)
}

func (s *store) update(object any) error {
	key, err := cache.MetaNamespaceKeyFunc(object)
	if err != nil {
		return err
	}
	delete(s.held, key)
	id, ours := s.set(object)
	was, known := s.known[key]
	switch {
	case known && (!ours || was.of != id.of): // not ours any more, or a slice that belongs to another Service now
		s.remove(key, was)
		delete(s.known, key)
	case !ours:
		return nil
	}
	if ours {
		s.known[key] = id
	}
	return nil
}

// Delete takes an object that is gone.
func (s *store) Delete(object any) error {
	s.changes.Add(1)
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(key)
	return nil
}

func (s *store) drop(key string) {
	if id, ok := s.known[key]; ok {
		s.remove(key, id)
	}
	delete(s.known, key)
	delete(s.held, key)
}

// guardFrom is the number of objects from which a missing half is held: fewer go away together in ordinary work.
const guardFrom = 8

// Replace takes a whole list.
func (s *store) Replace(objects []any, _ string) error {
	s.mu.Lock()
	gone := make(map[string]bool, len(s.known))
	for key := range s.known {
		gone[key] = true
	}
	for _, o := range objects {
		if key, err := cache.MetaNamespaceKeyFunc(o); err == nil {
			delete(gone, key)
		}
	}
	for _, o := range objects {
		s.changes.Add(1)
		if err := s.update(o); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	if hold := s.guarded && len(s.known) >= guardFrom && 2*len(gone) > len(s.known); hold {
		until := time.Now().Add(s.source.o.Hold)
		for key := range gone {
			if _, already := s.held[key]; !already {
				s.held[key] = until
			}
		}
		s.source.o.Logger.Warn("more than half are missing in a list: kept, in case that is a fault", "kind", s.name, "missing", len(gone), "hold", s.source.o.Hold)
	} else {
		for key := range gone {
			s.drop(key)
		}
	}
	s.listed.Store(true)
	s.mu.Unlock()
	s.source.listed()
	return nil
}

// letGo drops what was held for long enough.
func (s *store) letGo(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, until := range s.held {
		if !now.Before(until) {
			s.drop(key)
			n++
		}
	}
	if n > 0 {
		s.source.o.Logger.Warn("still missing: removed", "kind", s.name, "removed", n)
	}
}

// Resync does nothing: whoever takes the objects compares them with what is there.
func (s *store) Resync() error { return nil }

// Bookmark is told that the watch is alive.
func (s *store) Bookmark(string) error { return nil }

// Transformer makes objects small before a list of them is gathered.
func (s *store) Transformer() cache.TransformFunc { return shrink }

func (s *store) identity(key string) identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key]
}

func (s *store) counts() (known, held int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known), len(s.held)
}

// shrink drops what is not read.
func shrink(object any) (any, error) {
	if m, err := meta.Accessor(object); err == nil {
		m.SetManagedFields(nil)
		m.SetOwnerReferences(nil)
		m.SetFinalizers(nil)
		m.SetAnnotations(only(m.GetAnnotations(), AnnotationScheduler, annotationKubeRouter, corev1.EndpointsLastChangeTriggerTime))
		m.SetLabels(only(m.GetLabels(), LabelProxyName, corev1.LabelTopologyZone, corev1.IsHeadlessService, discoveryv1.LabelServiceName))
	}
	switch o := object.(type) {
	case *corev1.Service:
		o.Spec.Selector, o.Status.Conditions = nil, nil
	case *discoveryv1.EndpointSlice:
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			e.TargetRef, e.Zone, e.Hostname, e.DeprecatedTopology = nil, nil, nil, nil
		}
	case *corev1.Node:
		o.Status.Images, o.Status.Conditions, o.Status.VolumesAttached, o.Status.VolumesInUse = nil, nil, nil, nil
	}
	return object, nil
}

func only(in map[string]string, keys ...string) map[string]string {
	var out map[string]string
	for _, k := range keys {
		if v, ok := in[k]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
