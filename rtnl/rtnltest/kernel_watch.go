package rtnltest

import (
	"context"
	"slices"
	"sync"

	"github.com/podnet/podnet/rtnl"
)

type watcher struct {
	groups rtnl.Groups
	mu     sync.Mutex
	notify func(rtnl.Event) // nil once Watch returned
}

type delivery struct {
	to    *watcher
	event rtnl.Event
}

func (w *watcher) deliver(e rtnl.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notify != nil {
		w.notify(e)
	}
}

// Watch calls notify for every change of the selected groups until ctx ends. Like the kernel it is silent about IPv4 routes that go
// with their device, an address or a nexthop object.
func (n *FakeNetns) Watch(ctx context.Context, g rtnl.Groups, notify func(rtnl.Event)) error {
	w := &watcher{groups: g, notify: notify}
	n.k.mu.Lock()
	n.watchers = append(n.watchers, w)
	n.k.mu.Unlock()
	<-ctx.Done()
	n.k.mu.Lock()
	n.watchers = slices.DeleteFunc(n.watchers, func(x *watcher) bool { return x == w })
	n.k.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notify = nil
	return ctx.Err()
}

// Watchers returns how many calls of Watch are under way in the namespace.
func (n *FakeNetns) Watchers() int {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	return len(n.watchers)
}

// Overflow tells every watcher of a namespace that notifications were lost, as the kernel does with ENOBUFS.
func (k *Kernel) Overflow(netns string) {
	n := k.Netns(netns)
	k.mu.Lock()
	defer k.unlock()
	for _, w := range n.watchers {
		k.events = append(k.events, delivery{w, rtnl.Event{Overflow: true}})
	}
}

// emit queues an event for the watchers of its group.
func (n *FakeNetns) emit(e rtnl.Event) {
	for _, w := range n.watchers {
		g := w.groups
		wanted := map[string]bool{"link": g.Links, "addr": g.Addrs, "route": g.Routes, "nexthop": g.Routes, "neigh": g.Neighs}
		if wanted[e.Object] {
			n.k.events = append(n.k.events, delivery{w, e})
		}
	}
}

func (d *device) emit(object string, deleted bool) {
	d.ns.emit(rtnl.Event{Object: object, Deleted: deleted, Link: d.Name})
}
