package ipam

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// oracle is the allocator as a naive program would write it: maps and scans.
type oracle struct {
	delay    time.Duration
	usable   [2]map[netip.Addr]bool
	held     map[Owner][2]netip.Addr
	holder   map[netip.Addr]Owner
	released map[netip.Addr]time.Time
}

func newOracle(delay time.Duration) *oracle {
	o := &oracle{delay: delay, held: make(map[Owner][2]netip.Addr), holder: make(map[netip.Addr]Owner), released: make(map[netip.Addr]time.Time)}
	o.usable = [2]map[netip.Addr]bool{{}, {}}
	for _, s := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.6", "10.0.1.4", "10.0.1.5", "10.0.1.6"} {
		o.usable[0][netip.MustParseAddr(s)] = true
	}
	for a := netip.MustParseAddr("fd00::2"); a != netip.MustParseAddr("fd00::10"); a = a.Next() {
		o.usable[1][a] = true
	}
	return o
}

// fuzzConfig is two small ranges for IPv4 and one for IPv6, so that a short run meets exhaustion, wrapping and pressure.
func fuzzConfig(delay time.Duration) PodConfig {
	return PodConfig{
		RangeSets: [][]Range{
			{
				{Subnet: netip.MustParsePrefix("10.0.0.0/29")},
				{Subnet: netip.MustParsePrefix("10.0.1.0/29"), Start: netip.MustParseAddr("10.0.1.4")},
			},
			{{Subnet: netip.MustParsePrefix("fd00::/124")}},
		},
		Reserved:   []netip.Addr{netip.MustParseAddr("10.0.0.5")},
		ReuseDelay: delay,
	}
}

// mayGive says whether the oracle would accept that a is given to anybody now.
func (o *oracle) mayGive(t *testing.T, set int, a netip.Addr, static bool) {
	t.Helper()
	if !o.usable[set][a] {
		t.Fatalf("%s is not for hand-out in set %d", a, set)
	}
	if other, taken := o.holder[a]; taken {
		t.Fatalf("%s is held by %s", a, other)
	}
	at, was := o.released[a]
	if static || !was || time.Since(at) >= o.delay {
		return
	}
	for b := range o.usable[set] { // a rests: then nothing else is free, and nothing rests for longer
		if _, taken := o.holder[b]; taken || b == a {
			continue
		}
		if bt, was := o.released[b]; !was || time.Since(bt) >= o.delay || bt.Before(at) {
			t.Fatalf("%s rests since %v, but %s could have been used (%v)", a, at, b, bt)
		}
	}
}

func (o *oracle) full(set int) bool {
	for a := range o.usable[set] {
		if _, taken := o.holder[a]; !taken {
			return false
		}
	}
	return true
}

func (o *oracle) release(owner Owner) {
	for _, a := range o.held[owner] {
		if a.IsValid() {
			delete(o.holder, a)
			o.released[a] = time.Now()
		}
	}
	delete(o.held, owner)
}

// runProgram runs a program of operations, two bytes each, on allocators and oracle.
func runProgram(t *testing.T, program []byte) {
	if len(program) == 0 {
		return
	}
	ctx := context.Background()
	delay := time.Duration(program[0]%4) * 5 * time.Second
	o, store := newOracle(delay), NewMemoryStore()
	var allocators [2]*PodAllocator
	renew := func(i int) {
		a, err := NewPodAllocator(store, fuzzConfig(delay))
		if err != nil {
			t.Fatal(err)
		}
		allocators[i] = a
	}
	renew(0)
	renew(1)
	for i := 1; i+1 < len(program); i += 2 {
		op, arg := program[i], program[i+1]
		p := allocators[op>>7]
		owner := Owner{string('a' + rune(arg%16)), "eth0"}
		switch op % 8 {
		case 0, 1, 2:
			o.allocate(t, p, owner, Request{})
		case 3:
			a := netip.AddrFrom4([4]byte{10, 0, arg >> 4 & 1, arg >> 5})
			if arg>>4&1 != 0 && op&8 != 0 {
				a = netip.AddrFrom16([16]byte{0xfd, 15: arg >> 3})
			}
			o.allocate(t, p, owner, Request{Addrs: []netip.Addr{a}})
		case 4, 5:
			if err := p.Release(ctx, owner); err != nil {
				t.Fatal(err)
			}
			o.release(owner)
		case 6:
			time.Sleep(time.Duration(arg) * 100 * time.Millisecond)
		case 7:
			if arg%4 == 0 { // a process ends, another one begins
				renew(int(op >> 7))
			} else if arg%16 == 1 {
				o.retain(t, p, Owner{"b", "eth0"})
			}
		}
		time.Sleep(time.Millisecond) // no two releases at one moment
	}
	o.compare(t, allocators[0])
	o.compare(t, allocators[1])
}

func (o *oracle) allocate(t *testing.T, p *PodAllocator, owner Owner, req Request) {
	t.Helper()
	got, err := p.Allocate(context.Background(), owner, req)
	have, held := o.held[owner]
	switch {
	case errors.Is(err, ErrExhausted):
		if held || !o.full(0) && !o.full(1) {
			t.Fatalf("%s: %v, but there is room", owner, err)
		}
		return
	case errors.Is(err, ErrInUse):
		var e *InUseError
		if errors.As(err, &e); o.holder[e.Addr] != e.Owner || e.Owner == owner {
			t.Fatalf("%s: %v, the oracle says %v", owner, err, o.holder[e.Addr])
		}
		return
	case errors.Is(err, ErrNotInRange):
		if a := req.Addrs[0]; o.usable[0][a] || o.usable[1][a] {
			t.Fatalf("%s: %v", owner, err)
		}
		return
	case errors.Is(err, ErrMismatch):
		if !held || have[0] == req.Addrs[0] || have[1] == req.Addrs[0] {
			t.Fatalf("%s: %v", owner, err)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	addrs := [2]netip.Addr{got[0].Prefix.Addr(), got[1].Prefix.Addr()}
	if held {
		if addrs != have {
			t.Fatalf("%s had %v and now gets %v", owner, have, addrs)
		}
		return
	}
	for set, a := range addrs {
		static := len(req.Addrs) > 0 && req.Addrs[0] == a
		o.mayGive(t, set, a, static)
		o.holder[a] = owner
		delete(o.released, a)
	}
	o.held[owner] = addrs
}

func (o *oracle) retain(t *testing.T, p *PodAllocator, keep Owner) {
	t.Helper()
	released, err := p.Retain(context.Background(), []Owner{keep})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range released {
		if _, held := o.held[r]; !held || r == keep {
			t.Fatalf("retain released %s", r)
		}
		o.release(r)
	}
	if _, held := o.held[keep]; len(o.held) > 1 || len(o.held) == 1 && !held {
		t.Fatalf("retain left %v", o.held)
	}
}

func (o *oracle) compare(t *testing.T, p *PodAllocator) {
	t.Helper()
	leases, err := p.Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(leases) != len(o.held) {
		t.Fatalf("%d leases, the oracle has %d", len(leases), len(o.held))
	}
	for _, l := range leases {
		if got := [2]netip.Addr{l.Addresses[0].Prefix.Addr(), l.Addresses[1].Prefix.Addr()}; got != o.held[l.Owner] {
			t.Fatalf("%s: %v, the oracle has %v", l.Owner, got, o.held[l.Owner])
		}
	}
	st, err := p.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for set, s := range st.RangeSets {
		if s.Used != uint64(len(o.held)) || s.Capacity != uint64(len(o.usable[set])) || st.Leases != len(o.held) {
			t.Fatalf("set %d: %+v for %d leases of %d", set, s, len(o.held), len(o.usable[set]))
		}
	}
}

// FuzzPodAllocator compares with the oracle. Run it with -fuzzminimizetime 1x: shortening inputs of a synctest bubble eats all the time otherwise.
func FuzzPodAllocator(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 4, 1, 0, 3})
	f.Add([]byte{1, 0, 0, 0, 1, 128, 2, 0, 3, 0, 4, 128, 5, 0, 6, 0, 7, 4, 3, 128, 8, 6, 10, 4, 2, 0, 9})
	f.Add([]byte{2, 3, 66, 11, 255, 131, 66, 7, 0, 0, 2, 7, 1, 6, 255, 0, 3})
	for i := range 16 { // random runs, the same ones every time
		r := rand.NewChaCha8([32]byte{byte(i)})
		program := make([]byte, 1000)
		_, _ = r.Read(program)
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		synctest.Test(t, func(t *testing.T) { runProgram(t, program[:min(len(program), 4000)]) })
	})
}

func TestPodAllocatorAgainstOracle(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		program := make([]byte, 800)
		for i := range program {
			program[i] = byte(r.Uint32())
		}
		synctest.Test(t, func(t *testing.T) {
			t.Helper()
			runProgram(t, program)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
