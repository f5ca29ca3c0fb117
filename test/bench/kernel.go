package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podnet/podnet/rtnl"
)

// kernelEvents is what the kernel told of the agent's entries.
type kernelEvents struct {
	mu       sync.Mutex
	route    int       // routes made
	last     time.Time // the last of them
	entry    int       // neighbour and FDB entries since arm
	first    time.Time // the first of them
	overflow bool
	err      error
}

// watch listens until ctx ends.
func (k *kernelEvents) watch(ctx context.Context, conn *rtnl.Conn) {
	vteps := map[string]bool{}
	err := conn.Watch(ctx, rtnl.Groups{Links: true, Routes: true, Neighs: true}, func(e rtnl.Event) {
		k.mu.Lock()
		defer k.mu.Unlock()
		now := time.Now()
		switch {
		case e.Overflow:
			k.overflow = true
		case e.Object == "link" && e.Link != "eth0" && e.Link != "far0" && e.Link != "lo":
			vteps[e.Link] = true
		case e.Object == "route" && !e.Deleted && e.Protocol == rtnl.ProtocolVXLAN:
			k.route++
			k.last = now
		case e.Object == "neigh" && vteps[e.Link]:
			if k.entry == 0 {
				k.first = now
			}
			k.entry++
		}
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

func (k *kernelEvents) state() (routes int, last time.Time, entries int, first time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err = k.err; err == nil && k.overflow {
		err = errors.New("the kernel's notifications came faster than they were read: run it again on a machine that is less busy")
	}
	return k.route, k.last, k.entry, k.first, err
}

// routes waits for n routes, and returns when the last of them came.
func (k *kernelEvents) routes(n int, limit time.Duration) (time.Time, error) {
	have := 0
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		routes, last, _, _, err := k.state()
		if err != nil {
			return last, err
		}
		if routes >= n {
			return last, nil
		}
		have = routes
	}
	return time.Time{}, fmt.Errorf("%d routes after %v, want %d", have, limit, n)
}

// arm forgets what was told of entries.
func (k *kernelEvents) arm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entry = 0
}

// next waits for the first entry since arm, and returns when it came.
func (k *kernelEvents) next(limit time.Duration) (time.Time, error) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		_, _, entries, first, err := k.state()
		if err != nil {
			return first, err
		}
		if entries > 0 {
			return first, nil
		}
	}
	return time.Time{}, fmt.Errorf("the kernel told of nothing in %v", limit)
}
