package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var bg = context.Background()

func addrs(list ...string) []netip.Addr {
	var as []netip.Addr
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func owner(id string) Owner { return Owner{id, "eth0"} }

// sets makes one range set per string of subnets, separated by spaces.
func sets(list ...string) PodConfig {
	var cfg PodConfig
	for _, s := range list {
		var set []Range
		for _, subnet := range strings.Fields(s) {
			set = append(set, Range{Subnet: netip.MustParsePrefix(subnet)})
		}
		cfg.RangeSets = append(cfg.RangeSets, set)
	}
	return cfg
}

func mustPods(t testing.TB, s Store, cfg PodConfig) *PodAllocator {
	t.Helper()
	p, err := NewPodAllocator(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// give allocates and returns the addresses as text.
func give(t testing.TB, p *PodAllocator, id string, static ...string) string {
	t.Helper()
	got, err := p.Allocate(bg, owner(id), Request{Addrs: addrs(static...)})
	if err != nil {
		t.Fatal(err)
	}
	return text(got)
}

func text(list []Address) string {
	var parts []string
	for _, a := range list {
		parts = append(parts, a.Prefix.String()+" via "+a.Gateway.String())
	}
	return strings.Join(parts, ", ")
}

func free(t testing.TB, p *PodAllocator, id string) {
	t.Helper()
	if err := p.Release(bg, owner(id)); err != nil {
		t.Fatal(err)
	}
}

func TestRangeDefaults(t *testing.T) {
	a := netip.MustParseAddr
	for _, test := range []struct {
		name     string
		cfg      PodConfig
		first    string // lease
		last     string
		capacity uint64
	}{
		{"IPv4", sets("10.0.0.0/24"), "10.0.0.2/24 via 10.0.0.1", "10.0.0.254/24 via 10.0.0.1", 253},
		{"smallest IPv4", sets("10.0.0.0/30"), "10.0.0.2/30 via 10.0.0.1", "10.0.0.2/30 via 10.0.0.1", 1},
		{"smallest IPv6", sets("fd00::/126"), "fd00::2/126 via fd00::1", "fd00::3/126 via fd00::1", 2},
		{"whole subnet", PodConfig{RangeSets: [][]Range{{{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Start: a("10.0.0.0"), End: a("10.0.0.7")}}}},
			"10.0.0.2/29 via 10.0.0.1", "10.0.0.6/29 via 10.0.0.1", 5},
		{"part", PodConfig{RangeSets: [][]Range{{{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Start: a("10.0.0.10"), End: a("10.0.0.12")}}}},
			"10.0.0.10/24 via 10.0.0.1", "10.0.0.12/24 via 10.0.0.1", 3},
		{"gateway in the midst", PodConfig{RangeSets: [][]Range{{{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Gateway: a("10.0.0.3")}}}},
			"10.0.0.1/29 via 10.0.0.3", "10.0.0.6/29 via 10.0.0.3", 5},
		{"gateway of another range", PodConfig{RangeSets: [][]Range{{
			{Subnet: netip.MustParsePrefix("10.0.0.0/28"), Start: a("10.0.0.1"), End: a("10.0.0.3"), Gateway: a("10.0.0.9")},
			{Subnet: netip.MustParsePrefix("10.0.0.0/28"), Start: a("10.0.0.8"), End: a("10.0.0.10"), Gateway: a("10.0.0.2")},
		}}}, "10.0.0.1/28 via 10.0.0.9", "10.0.0.10/28 via 10.0.0.2", 4},
		{"reserved", PodConfig{RangeSets: sets("10.0.0.0/29").RangeSets, Reserved: addrs("10.0.0.2", "10.0.0.6", "192.0.2.1", "fd00::1")},
			"10.0.0.3/29 via 10.0.0.1", "10.0.0.5/29 via 10.0.0.1", 3},
		{"link-local gateway", PodConfig{RangeSets: [][]Range{{{Subnet: netip.MustParsePrefix("fd00::/126"), Gateway: a("fe80::1")}}}},
			"fd00::1/126 via fe80::1", "fd00::3/126 via fe80::1", 3},
		{"two ranges", sets("10.0.0.0/30 10.0.9.0/30"), "10.0.0.2/30 via 10.0.0.1", "10.0.9.2/30 via 10.0.9.1", 2},
		{"dual-stack", sets("10.0.0.0/30", "fd00::/126"), "10.0.0.2/30 via 10.0.0.1, fd00::2/126 via fd00::1", "10.0.0.2/30 via 10.0.0.1, fd00::2/126 via fd00::1", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := mustPods(t, NewMemoryStore(), test.cfg)
			last := ""
			for i := range test.capacity {
				last = give(t, p, fmt.Sprint("c", i))
				if i == 0 && last != test.first {
					t.Errorf("first: %s, want %s", last, test.first)
				}
			}
			if last != test.last {
				t.Errorf("last: %s, want %s", last, test.last)
			}
			var e *ExhaustedError
			if _, err := p.Allocate(bg, owner("more"), Request{}); !errors.As(err, &e) || !errors.Is(err, ErrExhausted) || e.Used != test.capacity || e.Capacity != test.capacity {
				t.Errorf("one more: %v", err)
			}
			free(t, p, "c0")
			if got := give(t, p, "more"); !strings.HasPrefix(got, strings.Split(test.first, ",")[0]) {
				t.Errorf("after a release: %s", got)
			}
		})
	}
}

func TestHugeRange(t *testing.T) {
	p := mustPods(t, NewMemoryStore(), sets("fd00::/16"))
	give(t, p, "a")
	for _, far := range []string{"fd00:ffff::1", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} { // beyond what a bitmap reaches
		if got := give(t, p, "far"+far[len(far)-1:], far); got != far+"/16 via fd00::1" {
			t.Errorf("static: %s", got)
		}
		var e *InUseError
		if _, err := p.Allocate(bg, owner("other"), Request{Addrs: addrs(far)}); !errors.As(err, &e) || e.Owner != owner("far"+far[len(far)-1:]) {
			t.Errorf("static and taken: %v", err)
		}
	}
	if got := give(t, p, "b"); got != "fd00::3/16 via fd00::1" {
		t.Errorf("next: %s", got)
	}
	free(t, p, "far1")
	give(t, p, "other", "fd00:ffff::1")
}

func TestStaticRequest(t *testing.T) {
	p := mustPods(t, NewMemoryStore(), PodConfig{RangeSets: sets("10.0.0.0/24 10.0.1.0/24", "fd00::/64").RangeSets, Reserved: addrs("10.0.0.9")})
	if got := give(t, p, "a", "fd00::77", "10.0.1.5"); got != "10.0.1.5/24 via 10.0.1.1, fd00::77/64 via fd00::1" {
		t.Errorf("both: %s", got)
	}
	if got := give(t, p, "b", "fd00::78"); got != "10.0.0.2/24 via 10.0.0.1, fd00::78/64 via fd00::1" {
		t.Errorf("one: %s", got)
	}
	if got := give(t, p, "c"); got != "10.0.0.3/24 via 10.0.0.1, fd00::2/64 via fd00::1" {
		t.Errorf("a static request moved the round: %s", got)
	}
	if got := give(t, p, "a", "10.0.1.5"); got != "10.0.1.5/24 via 10.0.1.1, fd00::77/64 via fd00::1" {
		t.Errorf("again: %s", got)
	}
	for _, test := range []struct {
		id    string
		addrs []string
		is    error
		text  string
	}{
		{"x", []string{"10.0.1.5"}, ErrInUse, "address 10.0.1.5 is in use by a/eth0"},
		{"x", []string{"10.0.0.50", "fd00::77"}, ErrInUse, "fd00::77 is in use by a/eth0"},
		{"x", []string{"192.0.2.1"}, ErrNotInRange, "address 192.0.2.1 is outside every range"},
		{"x", []string{"10.0.0.1"}, ErrNotInRange, "10.0.0.1 is a gateway"},
		{"x", []string{"10.0.0.9"}, ErrNotInRange, "10.0.0.9 is reserved"},
		{"x", []string{"10.0.0.0"}, ErrNotInRange, "10.0.0.0 is outside every range"},
		{"x", []string{"10.0.0.7", "10.0.1.7"}, nil, "want one address of each range set"},
		{"x", []string{"127.0.0.1"}, nil, "addrs[0] 127.0.0.1: want unicast"},
		{"x", []string{"::ffff:10.0.0.7"}, nil, "want plain IPv4"},
		{"x", []string{"fe80::1%eth0"}, nil, "want no zone"},
		{"x", []string{"10.0.0.3", "10.0.0.3", "10.0.0.3", "10.0.0.3", "10.0.0.3"}, nil, "want at most 4"},
		{"a", []string{"10.0.1.6"}, ErrMismatch, "a/eth0 already holds [10.0.1.5/24 fd00::77/64]"},
	} {
		_, err := p.Allocate(bg, owner(test.id), Request{Addrs: addrs(test.addrs...)})
		if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%v: %v, want %q", test.addrs, err, test.text)
		}
	}
	if st, err := p.Stats(bg); err != nil || st.Leases != 3 || st.RangeSets[0].Used != 3 {
		t.Errorf("refused requests left something: %+v, %v", st, err)
	}
	if _, err := p.Lookup(bg, owner("x")); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("look up: %v", err)
	}
}

// TestReuseDelay: nothing rests for less than the delay while something else is free; then the longest-free one is taken.
func TestReuseDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sets("10.0.0.0/29") // .2 to .6
		cfg.ReuseDelay = time.Minute
		store := NewMemoryStore()
		p := mustPods(t, store, cfg)
		var got []string
		next := func(id string) { got = append(got, give(t, p, id)[:8]) }
		for _, id := range []string{"a", "b", "c"} {
			next(id) // .2 .3 .4
		}
		for _, id := range []string{"b", "a", "c"} {
			free(t, p, id)
			time.Sleep(time.Second)
		}
		next("d") // .5
		p = mustPods(t, store, cfg)
		next("e") // .6
		next("f") // .3: free for the longest time
		next("g") // .2
		free(t, p, "d")
		time.Sleep(2 * time.Minute)
		next("h") // nothing rests any more: the round goes on after .2
		if d := cmp.Diff([]string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.2", "10.0.0.4"}, got); d != "" {
			t.Error(d)
		}
	})
}

// TestRoundRobin: without a delay, what was just released is still given last; also by another allocator.
func TestRoundRobin(t *testing.T) {
	store := NewMemoryStore()
	cfg := sets("10.0.0.0/29")
	var got []string
	for range 12 {
		p := mustPods(t, store, cfg)
		got = append(got, give(t, p, "a")[7:8])
		free(t, mustPods(t, store, cfg), "a")
	}
	if s := strings.Join(got, ""); s != "234562345623" {
		t.Errorf("round: %s", s)
	}
	if len(store.records) != 1 {
		t.Errorf("%d records for one lease at a time", len(store.records))
	}
}

// TestRangesChangeWhileLive: old leases stay what they are, and releasable.
func TestRangesChangeWhileLive(t *testing.T) {
	store := NewMemoryStore()
	before := mustPods(t, store, sets("10.0.0.0/24"))
	for _, id := range []string{"a", "b", "c"} {
		give(t, before, id)
	}
	after := mustPods(t, store, sets("10.1.0.0/24", "fd00::/64"))
	if got, err := after.Lookup(bg, owner("a")); err != nil || len(got) != 1 || got[0].Prefix.String() != "10.0.0.2/24" || got[0].Gateway.IsValid() {
		t.Errorf("look up: %v, %v", got, err)
	}
	var e *MismatchError
	if _, err := after.Allocate(bg, owner("a"), Request{}); !errors.As(err, &e) || !errors.Is(err, ErrMismatch) {
		t.Errorf("allocate for an owner with an old lease: %v", err)
	}
	give(t, after, "d")
	if st, err := after.Stats(bg); err != nil || st.Leases != 4 || st.RangeSets[0].Used != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	free(t, after, "a")
	give(t, after, "a")
	if released, err := after.Retain(bg, []Owner{owner("a"), owner("c")}); err != nil || !slices.Equal(released, []Owner{owner("b"), owner("d")}) {
		t.Errorf("retain: %v, %v", released, err)
	}
	free(t, after, "c")
	if leases, err := after.Leases(bg); err != nil || len(leases) != 1 || leases[0].Owner != owner("a") {
		t.Errorf("%v, %v", leases, err)
	}
	back := mustPods(t, store, PodConfig{RangeSets: sets("10.1.0.0/24", "fd00::/64").RangeSets, Reserved: addrs("10.1.0.3")})
	if _, err := back.Allocate(bg, owner("a"), Request{}); !errors.Is(err, ErrMismatch) {
		t.Errorf("allocate for the holder of a now reserved address: %v", err)
	}
	swapped := mustPods(t, store, sets("fd00::/64", "10.1.0.0/24"))
	if got := give(t, swapped, "a"); got != "fd00::3/64 via fd00::1, 10.1.0.3/24 via 10.1.0.1" {
		t.Errorf("with the sets in another order: %s", got)
	}
}

// TestDamagedStore: two leases of one address, and two of one owner, come out when all are released.
func TestDamagedStore(t *testing.T) {
	store := NewMemoryStore()
	p := netip.MustParsePrefix("10.0.0.2/29")
	err := store.Update(bg, func(tx Tx) error {
		for i, o := range []Owner{owner("a"), owner("b"), owner("b")} {
			if _, err := tx.Put(-1, Record{Owner: o, Addrs: []netip.Prefix{p}, Seq: uint64(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a := mustPods(t, store, sets("10.0.0.0/29"))
	for _, id := range []string{"b", "a"} {
		if _, err := a.Allocate(bg, owner("x"), Request{Addrs: addrs("10.0.0.2")}); !errors.Is(err, ErrInUse) {
			t.Errorf("before the release of %s: %v", id, err)
		}
		free(t, a, id)
	}
	give(t, a, "x", "10.0.0.2")
	if st, err := mustPods(t, store, sets("10.0.0.0/29")).Stats(bg); err != nil || st.Leases != 1 || st.RangeSets[0].Used != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// failing is a store whose commits fail as it is told.
type failing struct {
	*MemoryStore
	put, commit, read error
}

func (f *failing) Update(ctx context.Context, fn func(Tx) error) error {
	return f.MemoryStore.Update(ctx, func(tx Tx) error {
		if err := fn(failingTx{tx, f}); err != nil {
			return err
		}
		return f.commit
	})
}

type failingTx struct {
	Tx
	f *failing
}

func (tx failingTx) Put(slot int, r Record) (int, error) {
	if tx.f.put != nil {
		return 0, tx.f.put
	}
	return tx.Tx.Put(slot, r)
}

func (tx failingTx) Records(visit func(int, Record)) error {
	if tx.f.read != nil {
		visit(0, Record{Owner: owner("half"), Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/29")}})
		return tx.f.read
	}
	return tx.Tx.Records(visit)
}

func TestStoreFails(t *testing.T) {
	broken := errors.New("broken")
	for _, fail := range []failing{{put: broken}, {commit: broken}, {read: broken}} {
		f := fail
		f.MemoryStore = NewMemoryStore()
		give(t, mustPods(t, f.MemoryStore, sets("10.0.0.0/29")), "a")
		p := mustPods(t, &f, sets("10.0.0.0/29"))
		for range 10 {
			if _, err := p.Allocate(bg, owner("b"), Request{}); !errors.Is(err, broken) {
				t.Errorf("%+v: allocate: %v", fail, err)
			}
			if err := p.Release(bg, owner("a")); !errors.Is(err, broken) {
				t.Errorf("%+v: release: %v", fail, err)
			}
		}
		f.put, f.commit, f.read = nil, nil, nil
		if got := give(t, p, "b"); got != "10.0.0.3/29 via 10.0.0.1" {
			t.Errorf("%+v: afterwards: %s", fail, got)
		}
		if leases, err := p.Leases(bg); err != nil || len(leases) != 2 {
			t.Errorf("%+v: %v, %v", fail, leases, err)
		}
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	p := mustPods(t, NewMemoryStore(), sets("10.0.0.0/24", "fd00::/64"))
	done := make(chan error)
	for w := range 8 {
		go func() {
			var err error
			for i := 0; i < 100 && err == nil; i++ {
				o := owner(fmt.Sprint("w", w, "i", i%10))
				if _, err = p.Allocate(bg, o, Request{}); err == nil && i%2 == 0 {
					err = p.Release(bg, o)
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if _, err := p.Allocate(ctx, owner("a"), Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// TestRoundAcrossAllocators: the place in the round is where the last allocation was that was not static, whoever made it.
func TestRoundAcrossAllocators(t *testing.T) {
	store, cfg := NewMemoryStore(), sets("10.0.0.0/28")
	p := mustPods(t, store, cfg)
	for _, id := range []string{"a", "b", "c"} {
		give(t, p, id) // .2 .3 .4
	}
	give(t, mustPods(t, store, cfg), "d") // .5
	free(t, mustPods(t, store, cfg), "d")
	if got := give(t, mustPods(t, store, cfg), "e"); got != "10.0.0.6/28 via 10.0.0.1" {
		t.Errorf("after .5: %s", got)
	}
	give(t, mustPods(t, store, cfg), "f", "10.0.0.11")
	if got := give(t, mustPods(t, store, cfg), "g"); got != "10.0.0.7/28 via 10.0.0.1" {
		t.Errorf("after .6 and a static .11: %s", got)
	}
}

// TestClockSetBack: releases that seem to be far in the future do not rest until then.
func TestClockSetBack(t *testing.T) {
	for _, test := range []struct {
		ahead time.Duration
		want  uint64 // resting
	}{{time.Second, 1}, {time.Hour, 0}} {
		store := NewMemoryStore()
		err := store.Update(bg, func(tx Tx) error {
			_, err := tx.Put(-1, Record{Owner: owner("a"), Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/29")}, Released: time.Now().Add(test.ahead)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		cfg := sets("10.0.0.0/29")
		cfg.ReuseDelay = time.Minute
		if st, err := mustPods(t, store, cfg).Stats(bg); err != nil || st.RangeSets[0].Resting != test.want {
			t.Errorf("%v ahead: %+v, %v", test.ahead, st, err)
		}
	}
}
