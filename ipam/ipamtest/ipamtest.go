package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podnet/podnet/ipam"
)

// TestStore runs the contract of [ipam.Store]. Each call of open returns an empty store, and a function that opens it once more, as another
// process would; for a store that lives in memory that function returns the same store.
func TestStore(t *testing.T, open func(t *testing.T) (store ipam.Store, again func() ipam.Store)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s ipam.Store, again func() ipam.Store)
	}{
		{"Empty", testEmpty},
		{"RoundTrip", testRoundTrip},
		{"Overwrite", testOverwrite},
		{"ManyInOneUpdate", testMany},
		{"ErrorKeepsNothing", testErrorKeepsNothing},
		{"Version", testVersion},
		{"Context", testContext},
		{"NoSuchSlot", testNoSuchSlot},
		{"Exclusion", testExclusion},
		{"TwoAllocators", testTwoAllocators},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, again := open(t)
			test.run(t, s, again)
		})
	}
}

// Record returns a valid record that differs from those of other n.
func Record(n int) ipam.Record {
	v4 := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	v6 := netip.AddrFrom16([16]byte{0xfd, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	return ipam.Record{
		Owner: ipam.Owner{ContainerID: fmt.Sprintf("container-%d", n), Ifname: "eth0"},
		Addrs: []netip.Prefix{netip.PrefixFrom(v4, 8), netip.PrefixFrom(v6, 64)},
		Seq:   uint64(n) + 1,
	}
}

// Records returns what is in the store.
func Records(t *testing.T, s ipam.Store) map[int]ipam.Record {
	t.Helper()
	got := make(map[int]ipam.Record)
	update(t, s, func(tx ipam.Tx) error {
		return tx.Records(func(slot int, r ipam.Record) {
			if _, twice := got[slot]; twice || slot < 0 {
				t.Errorf("slot %d: visited twice, or negative", slot)
			}
			got[slot] = r
		})
	})
	return got
}

func update(t *testing.T, s ipam.Store, fn func(ipam.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s ipam.Store, slot int, r ipam.Record) int {
	t.Helper()
	update(t, s, func(tx ipam.Tx) (err error) {
		slot, err = tx.Put(slot, r)
		return err
	})
	return slot
}

func version(t *testing.T, s ipam.Store) (v uint64) {
	t.Helper()
	update(t, s, func(tx ipam.Tx) error { v = tx.Version(); return nil })
	if v == 0 {
		t.Error("version 0")
	}
	return v
}

func diff(t *testing.T, s ipam.Store, want map[int]ipam.Record) {
	t.Helper()
	if d := cmp.Diff(want, Records(t, s), compare...); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

var compare = []cmp.Option{
	cmpopts.EquateApproxTime(0), // the same moment, whatever the location
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func testEmpty(t *testing.T, s ipam.Store, again func() ipam.Store) {
	diff(t, s, map[int]ipam.Record{})
	diff(t, again(), map[int]ipam.Record{})
}

func testRoundTrip(t *testing.T, s ipam.Store, again func() ipam.Store) {
	v4, v6 := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::ffff:1/126")
	long := make([]byte, 128)
	for i := range long {
		long[i] = 'x'
	}
	want := make(map[int]ipam.Record)
	for _, r := range []ipam.Record{
		{Owner: ipam.Owner{ContainerID: "a", Ifname: "e"}, Addrs: []netip.Prefix{v4}, Seq: 1},
		{Owner: ipam.Owner{ContainerID: "a", Ifname: "f"}, Addrs: []netip.Prefix{v6}, Seq: 1 << 63, Static: true},
		{Owner: ipam.Owner{ContainerID: string(long), Ifname: "abcdefghijklmno"}, Addrs: []netip.Prefix{v6, v4, v6, v6}},
		{Owner: ipam.Owner{ContainerID: "b", Ifname: "e"}, Addrs: []netip.Prefix{v4, v6}, Released: time.Unix(1700000000, 123456789)},
		{Owner: ipam.Owner{ContainerID: "c", Ifname: "e"}, Addrs: []netip.Prefix{v4}, Released: time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		want[put(t, s, -1, r)] = r
	}
	diff(t, s, want)
	diff(t, again(), want)
}

func testOverwrite(t *testing.T, s ipam.Store, again func() ipam.Store) {
	a, b := put(t, s, -1, Record(1)), put(t, s, -1, Record(2))
	if a == b {
		t.Fatalf("two records in slot %d", a)
	}
	if slot := put(t, again(), a, Record(3)); slot != a {
		t.Errorf("put in slot %d went to %d", a, slot)
	}
	diff(t, s, map[int]ipam.Record{a: Record(3), b: Record(2)})
}

func testMany(t *testing.T, s ipam.Store, again func() ipam.Store) {
	want := make(map[int]ipam.Record)
	update(t, s, func(tx ipam.Tx) error {
		for i := range 1000 {
			slot, err := tx.Put(-1, Record(i))
			if err != nil {
				return err
			}
			want[slot] = Record(i)
		}
		return nil
	})
	diff(t, again(), want)
	diff(t, s, want)
}

func testErrorKeepsNothing(t *testing.T, s ipam.Store, again func() ipam.Store) {
	a := put(t, s, -1, Record(1))
	before := version(t, s)
	mine := errors.New("mine")
	err := s.Update(context.Background(), func(tx ipam.Tx) error {
		for _, slot := range []int{a, -1, -1} {
			if _, err := tx.Put(slot, Record(9)); err != nil {
				return err
			}
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("update: %v, want the error of the function", err)
	}
	if after := version(t, s); after != before {
		t.Errorf("version %d became %d though nothing was kept", before, after)
	}
	diff(t, s, map[int]ipam.Record{a: Record(1)})
	b := put(t, s, -1, Record(2))
	diff(t, again(), map[int]ipam.Record{a: Record(1), b: Record(2)})
}

func testVersion(t *testing.T, s ipam.Store, again func() ipam.Store) {
	v := version(t, s)
	if got := version(t, again()); got != v {
		t.Errorf("version %d became %d by looking", v, got)
	}
	slot := put(t, s, -1, Record(1))
	if got := version(t, s); got != v+1 {
		t.Errorf("version %d became %d by an update, want one more", v, got)
	}
	put(t, again(), slot, Record(2))
	if got := version(t, s); got != v+2 {
		t.Errorf("version %d became %d by the update of another one, want two more", v, got)
	}
}

func testContext(t *testing.T, s ipam.Store, _ func() ipam.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	called := func(ipam.Tx) error { t.Error("called though the context had ended"); return nil }
	if err := s.Update(ctx, called); !errors.Is(err, context.Canceled) {
		t.Errorf("update with an ended context: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	update(t, s, func(ipam.Tx) error {
		done := make(chan error)
		go func() { done <- s.Update(ctx, called) }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("update that waited when its context ended: %v", err)
		}
		return nil
	})
}

func testNoSuchSlot(t *testing.T, s ipam.Store, _ func() ipam.Store) {
	err := s.Update(context.Background(), func(tx ipam.Tx) error {
		_, err := tx.Put(1<<30, Record(1))
		return err
	})
	if err == nil {
		t.Error("put in a slot that nobody named: no error")
	}
	diff(t, s, map[int]ipam.Record{})
}

// testExclusion counts in the record's Seq, from many goroutines and two openings of the store.
func testExclusion(t *testing.T, s ipam.Store, again func() ipam.Store) {
	slot := put(t, s, -1, ipam.Record{Owner: Record(0).Owner, Addrs: Record(0).Addrs})
	stores := []ipam.Store{s, again()}
	const workers, rounds = 8, 25
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				err := stores[w%2].Update(context.Background(), func(tx ipam.Tx) error {
					var r ipam.Record
					if err := tx.Records(func(i int, found ipam.Record) {
						if i == slot {
							r = found
						}
					}); err != nil {
						return err
					}
					r.Seq++
					_, err := tx.Put(slot, r)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := Records(t, s)[slot].Seq; got != workers*rounds {
		t.Errorf("counted to %d, want %d", got, workers*rounds)
	}
}

// testTwoAllocators lets two allocators take turns on one store until it is empty of addresses.
func testTwoAllocators(t *testing.T, s ipam.Store, again func() ipam.Store) {
	ctx := context.Background()
	cfg := ipam.PodConfig{RangeSets: [][]ipam.Range{
		{{Subnet: netip.MustParsePrefix("10.0.0.0/28")}},
		{{Subnet: netip.MustParsePrefix("fd00::/124")}},
	}}
	var allocators [2]*ipam.PodAllocator
	for i, s := range []ipam.Store{s, again()} {
		a, err := ipam.NewPodAllocator(s, cfg)
		if err != nil {
			t.Fatal(err)
		}
		allocators[i] = a
	}
	owners := make(map[netip.Prefix]ipam.Owner)
	for i := range 13 { // of 16: network, gateway and broadcast are not for hand-out
		o := Record(i).Owner
		got, err := allocators[i%2].Allocate(ctx, o, ipam.Request{})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range got {
			if other, taken := owners[a.Prefix]; taken {
				t.Fatalf("%s given to %s and %s", a.Prefix, other, o)
			}
			owners[a.Prefix] = o
		}
		found, err := allocators[(i+1)%2].Allocate(ctx, o, ipam.Request{})
		if err != nil || cmp.Diff(got, found, cmp.Comparer(func(a, b ipam.Address) bool { return a == b })) != "" {
			t.Fatalf("%s got %v, and of the other allocator %v (%v)", o, got, found, err)
		}
	}
	var exhausted *ipam.ExhaustedError
	if _, err := allocators[0].Allocate(ctx, Record(13).Owner, ipam.Request{}); !errors.As(err, &exhausted) {
		t.Fatalf("full: %v", err)
	}
	if err := allocators[1].Release(ctx, Record(5).Owner); err != nil {
		t.Fatal(err)
	}
	if _, err := allocators[0].Allocate(ctx, Record(13).Owner, ipam.Request{}); err != nil {
		t.Fatalf("after a release: %v", err)
	}
	if n := len(Records(t, s)); n != 13 {
		t.Errorf("%d records for 13 leases", n)
	}
}
