package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Range is part of a subnet from which pod addresses are handed out. The zero Start is the first address after the network address, the zero End the last
// one before the broadcast address (IPv4) or the last of all (IPv6), the zero Gateway the first address after the network address. The network
// address, an IPv4 broadcast address and the gateways of all ranges are never handed out, even between Start and End.
type Range struct {
	Subnet  netip.Prefix // no host bits; at most /30 or /126
	Start   netip.Addr
	End     netip.Addr
	Gateway netip.Addr // in the subnet, or an IPv6 link-local address
}

// PodConfig says what a [PodAllocator] hands out.
type PodConfig struct {
	// RangeSets has one element per address that a pod gets: one for IPv4, two for dual-stack, at most MaxRangeSets. The ranges of a set are
	// of one family and are used one after the other. No range overlaps another one, in whatever set.
	RangeSets [][]Range
	// Reserved are addresses never handed out. Those outside the ranges do no harm.
	Reserved []netip.Addr
	// ReuseDelay is how long a released address rests while others are free. When none is, the longest-free one is used. 0 is no delay:
	// round robin alone keeps a released address back for as long as it can.
	ReuseDelay time.Duration
}

// Owner is who holds a lease.
type Owner struct {
	ContainerID string // 1 to 128 bytes of A-Z a-z 0-9 _ . - beginning with a letter or digit, without ".."
	Ifname      string // 1 to 15 bytes, without '/', ':', '%', space and control bytes; not "." or ".."
}

func (o Owner) String() string { return o.ContainerID + "/" + o.Ifname }

// Address is one address of a lease.
type Address struct {
	Prefix  netip.Prefix // the address, with the length of its subnet
	Gateway netip.Addr   // invalid if the address lies outside the configured ranges
}

// Request is what an owner asks for.
type Request struct {
	// Addrs are addresses that the owner must get, at most one of each range set. The other sets give any.
	// A static request does not wait for the reuse delay.
	Addrs []netip.Addr
}

// Lease is an owner with its addresses, in the order of the range sets.
type Lease struct {
	Owner     Owner
	Addresses []Address
}

// Stats are the figures of one moment.
type Stats struct {
	Leases    int             // held, including those outside the configured ranges
	RangeSets []RangeSetStats // one per range set
}

// RangeSetStats are the figures of one range set. Capacity saturates.
type RangeSetStats struct {
	Range    string // "10.0.0.1-10.0.0.254"
	Capacity uint64 // addresses that can be handed out with nothing in use
	Used     uint64 // leased
	Resting  uint64 // free, but released less than ReuseDelay ago
}

// PodAllocator hands out pod addresses. Make it with [NewPodAllocator].
type PodAllocator struct {
	store  Store
	config PodConfig
	gate   chan struct{} // holds one token: taking it is the lock on index, and waiting for it can end with ctx
	index  index
	wrote  bool // this Update has put something
}

// NewPodAllocator validates cfg. It does not touch the store.
func NewPodAllocator(store Store, cfg PodConfig) (*PodAllocator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("pod allocator: %w", err)
	}
	cfg.Reserved = slices.Clone(cfg.Reserved)
	cfg.RangeSets = slices.Clone(cfg.RangeSets)
	for i := range cfg.RangeSets {
		cfg.RangeSets[i] = slices.Clone(cfg.RangeSets[i])
	}
	return &PodAllocator{store: store, config: cfg, gate: make(chan struct{}, 1)}, nil
}

// Allocate gives the owner one address of every range set, or none at all. An owner that holds a lease gets it again; if it is not what
// the request and the ranges ask for, that is a [*MismatchError].
func (p *PodAllocator) Allocate(ctx context.Context, owner Owner, req Request) ([]Address, error) {
	var got []Address
	err := owner.Validate()
	if err == nil {
		err = req.validate()
	}
	if err == nil {
		err = p.update(ctx, func(tx Tx, now time.Time) error {
			var err error
			got, err = p.allocate(tx, now, owner, req)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("allocate address: %w", err)
	}
	return got, nil
}

func (p *PodAllocator) allocate(tx Tx, now time.Time, owner Owner, req Request) ([]Address, error) {
	x := &p.index
	if slot, ok := x.owners[owner]; ok {
		return x.held(x.records[slot], req)
	}
	var want [MaxRangeSets]netip.Addr
	for _, a := range req.Addrs {
		set, err := x.check(a)
		if err != nil {
			return nil, err
		}
		if want[set].IsValid() {
			return nil, &ConfigError{"addrs", a.String(), fmt.Sprintf("want one address of each range set: %s is of the same", want[set])}
		}
		want[set] = a
	}
	x.wakeRested(now)
	r := Record{Owner: owner, Seq: x.seq + 1, Static: len(req.Addrs) > 0, Addrs: make([]netip.Prefix, len(x.sets))}
	got := make([]Address, len(x.sets))
	for i := range x.sets {
		a := want[i]
		if !a.IsValid() {
			var err error
			if a, err = x.pick(i); err != nil {
				return nil, err
			}
		}
		got[i] = x.address(netip.PrefixFrom(a, a.BitLen()))
		r.Addrs[i] = got[i].Prefix
	}
	slot, err := p.put(tx, x.slotFor(r.Addrs), r)
	if err != nil {
		return nil, err
	}
	x.take(slot, r)
	for i := range x.sets {
		if !want[i].IsValid() {
			x.goOnFrom(got[i].Prefix.Addr())
		}
	}
	return got, nil
}

func (r Request) validate() error {
	var v faults
	if len(r.Addrs) > MaxRangeSets {
		v.add("addrs", len(r.Addrs), "want at most %d", MaxRangeSets)
		return v.err()
	}
	for i, a := range r.Addrs {
		if why := faultOfAddr(a); why != "" {
			v.add(fmt.Sprintf("addrs[%d]", i), a, "%s", why)
		}
	}
	return v.err()
}

// Release frees what the owner holds, also outside the configured ranges. Holding nothing is no error.
func (p *PodAllocator) Release(ctx context.Context, owner Owner) error {
	err := owner.Validate()
	if err == nil {
		err = p.update(ctx, func(tx Tx, now time.Time) error { return p.release(tx, now, owner) })
	}
	if err != nil {
		return fmt.Errorf("release address: %w", err)
	}
	return nil
}

func (p *PodAllocator) release(tx Tx, now time.Time, owner Owner) error {
	x := &p.index
	slot, ok := x.owners[owner]
	if !ok {
		return nil
	}
	for _, slot := range append([]int{slot}, x.twins[owner]...) {
		r := x.records[slot]
		r.Released = now
		if _, err := p.put(tx, slot, r); err != nil {
			return err
		}
		x.put(slot, r)
		x.drop(slot, now)
	}
	return nil
}

// Lookup returns what the owner holds, and an error that matches [ErrNotFound] and fs.ErrNotExist if that is nothing.
func (p *PodAllocator) Lookup(ctx context.Context, owner Owner) ([]Address, error) {
	var got []Address
	err := owner.Validate()
	if err == nil {
		err = p.update(ctx, func(Tx, time.Time) error {
			slot, ok := p.index.owners[owner]
			if !ok {
				return fmt.Errorf("%s: %w", owner, ErrNotFound)
			}
			got = p.index.addresses(p.index.records[slot])
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look up address: %w", err)
	}
	return got, nil
}

// Retain releases every lease whose owner is not in valid, and returns those owners in order. When the store fails in the midst, some of
// them may have been released all the same; a second call finishes the work.
func (p *PodAllocator) Retain(ctx context.Context, valid []Owner) (released []Owner, err error) {
	keep := make(map[Owner]bool, len(valid))
	for _, o := range valid {
		keep[o] = true
	}
	err = p.update(ctx, func(tx Tx, now time.Time) error {
		for o := range p.index.owners {
			if !keep[o] {
				released = append(released, o)
			}
		}
		slices.SortFunc(released, compareOwners)
		for _, o := range released {
			if err := p.release(tx, now, o); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("retain addresses: %w", err)
	}
	return released, nil
}

// Leases returns all leases in the order of their owners.
func (p *PodAllocator) Leases(ctx context.Context) ([]Lease, error) {
	var leases []Lease
	err := p.update(ctx, func(Tx, time.Time) error {
		for o, slot := range p.index.owners {
			leases = append(leases, Lease{o, p.index.addresses(p.index.records[slot])})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	slices.SortFunc(leases, func(a, b Lease) int { return compareOwners(a.Owner, b.Owner) })
	return leases, nil
}

// Stats returns the figures of this moment.
func (p *PodAllocator) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := p.update(ctx, func(_ Tx, now time.Time) error {
		x := &p.index
		x.wakeRested(now)
		st = Stats{Leases: x.leases, RangeSets: make([]RangeSetStats, len(x.sets))}
		for i := range x.sets {
			t := &x.sets[i]
			st.RangeSets[i] = RangeSetStats{Range: t.String(), Capacity: t.capacity(), Used: t.used}
		}
		for a := range x.resting {
			set, _ := x.locate(a)
			st.RangeSets[set].Resting++
		}
		return nil
	})
	if err != nil {
		return Stats{}, fmt.Errorf("address figures: %w", err)
	}
	return st, nil
}

// update calls fn in an Update of the store, with an index that is true to the store.
func (p *PodAllocator) update(ctx context.Context, fn func(Tx, time.Time) error) error {
	select {
	case p.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.gate }()
	p.wrote = false
	err := p.store.Update(ctx, func(tx Tx) error {
		now := time.Now().Round(0) // wall clock only: other processes read it
		if tx.Version() != p.index.version {
			fresh, err := p.config.compile()
			if err != nil {
				return err
			}
			if err := p.index.build(fresh, tx, now); err != nil {
				return err
			}
		}
		return fn(tx, now)
	})
	switch {
	case p.wrote && err == nil:
		p.index.version++
	case p.wrote:
		p.index.version = 0 // it holds what was not committed
	}
	return err
}

func (p *PodAllocator) put(tx Tx, slot int, r Record) (int, error) {
	p.wrote = true
	return tx.Put(slot, r)
}

func compareOwners(a, b Owner) int {
	return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Ifname, b.Ifname))
}
