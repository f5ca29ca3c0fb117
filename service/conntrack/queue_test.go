package conntrack_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

// TestQueue: work that comes together is done together, the latest word counts, and what failed is done again later.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &conntracktest.Kernel{}
		k.Track(udp("10.244.1.1:1", "10.96.0.1:53", "10.244.2.1:53"), udp("10.244.1.1:2", "10.96.0.2:53", "10.244.2.2:53"), udp("10.244.1.1:3", "10.96.0.99:53", "10.244.2.3:53"))
		broken := errors.New("broken")
		dumps := 0
		k.Fault(func(c conntracktest.Call) error {
			if c.Method == "Flows" {
				if dumps++; dumps <= 2 {
					return broken
				}
			}
			return nil
		})
		var mu sync.Mutex
		var did []error // of the queue's goroutine
		var gone int
		q := conntrack.NewQueue(conntrack.New(k, conntrack.Options{}), conntrack.QueueOptions{Done: func(p conntrack.Plan, err error, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			did = append(did, err)
			gone += p.Stale
		}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- q.Run(ctx) }()
		settled := func() ([]error, int) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(did), gone
		}
		done, _ := settled()
		if len(done) > 0 {
			t.Fatalf("work without a Put: %v", done)
		}

		q.Put(conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.1:53"), front("10.96.0.2:53")}, ServiceCIDRs: prefixes("10.96.0.0/12")})
		done, _ = settled()
		if len(done) != 1 || !errors.Is(done[0], broken) {
			t.Fatalf("done %v, want one failure", done)
		}
		// Meanwhile the second has got an endpoint, whose flow stays.
		q.Put(conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.2:53", "10.244.2.2:53")}})
		time.Sleep(999 * time.Millisecond)
		done, _ = settled()
		if len(done) != 1 {
			t.Fatalf("tried again within the second: %v", done)
		}
		time.Sleep(time.Millisecond)
		done, _ = settled()
		if len(done) != 2 {
			t.Fatalf("done %v after 1 s, want a second failure", done)
		}
		time.Sleep(2 * time.Second)
		done, deleted := settled()
		if len(done) != 3 || done[2] != nil || deleted != 2 {
			t.Fatalf("done %v, deleted %d, want success after 2 s more, and 2", done, deleted)
		}
		if have := k.Dump(); strings.Count(have, "\n") != 1 || !strings.Contains(have, "10.96.0.2") {
			t.Errorf("left:\n%s", have)
		}

		// ServiceCIDRs were for once: a flow that nobody knows is left alone now.
		k.Track(udp("10.244.1.1:4", "10.96.0.98:53", "10.244.2.3:53"))
		for range 3 {
			q.Put(conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.1:53")}})
		}
		done, _ = settled()
		if len(done) > 5 || strings.Count(k.Dump(), "\n") != 2 {
			t.Errorf("%d Applies; left:\n%s", len(done), k.Dump())
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestQueueRestored: what was restored counts until it was applied, whatever comes meanwhile.
func TestQueueRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &conntracktest.Kernel{}
		k.Track(as(conntrack.TCP, udp("10.244.1.1:1", "10.96.0.1:80", "10.96.0.1:80")), as(conntrack.TCP, udp("10.244.1.1:2", "10.96.0.2:80", "10.96.0.2:80")))
		var works atomic.Bool
		k.Fault(func(conntracktest.Call) error {
			if works.Load() {
				return nil
			}
			return errors.New("broken")
		})
		q := conntrack.NewQueue(conntrack.New(k, conntrack.Options{}), conntrack.QueueOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- q.Run(ctx) }()
		restored := func(addr string) conntrack.Config {
			return conntrack.Config{Restored: []conntrack.Restored{{Protocol: conntrack.TCP, Addr: netip.MustParseAddrPort(addr)}}}
		}
		q.Put(restored("10.96.0.1:80"))
		synctest.Wait()
		q.Put(restored("10.96.0.2:80"))
		synctest.Wait()
		works.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		if left := k.Dump(); left != "" {
			t.Errorf("left:\n%s", left)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}
