package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// usualLeases is room made at once: a process that lives for one allocation spends more on growing than on the room.
const usualLeases = 1024

// maxResting bounds how many released records are kept for their release times alone.
const maxResting = 1 << 16

// index is what a PodAllocator knows about the records of its store: valid as long as the store's version is the one it was built for.
type index struct {
	*blueprint
	version uint64
	records []Record           // by slot
	owners  map[Owner]int      // slot of the held record
	twins   map[Owner][]int    // further held records of an owner; only a damaged store has them
	strays  map[netip.Addr]int // leases without a bit of their own: out of range, not for hand-out, or leased twice
	resting map[netip.Addr]resting
	waiting map[int]int // slot of a released record -> how many of its addresses rest
	free    []int       // slots of released records that nothing needs any more
	seq     uint64
	leases  int
}

// build makes the index from nothing. The leases come first; then the released records, the last released first, for an address may be in several.
func (x *index) build(fresh *blueprint, tx Tx, now time.Time) error {
	*x = index{
		blueprint: fresh, records: slices.Grow(x.records[:0], usualLeases), owners: make(map[Owner]int, usualLeases), twins: make(map[Owner][]int),
		strays: make(map[netip.Addr]int), resting: make(map[netip.Addr]resting), waiting: make(map[int]int),
	}
	var released []int
	newest, seq := -1, uint64(0)
	err := tx.Records(func(slot int, r Record) {
		x.put(slot, r)
		x.seq = max(x.seq, r.Seq)
		if !r.Static && r.Seq > seq {
			newest, seq = slot, r.Seq
		}
		if r.Released.IsZero() {
			x.hold(slot)
		} else {
			released = append(released, slot)
		}
	})
	if err != nil {
		return err // with a version that no store has
	}
	slices.SortFunc(released, func(a, b int) int {
		if c := x.records[b].Released.Compare(x.records[a].Released); c != 0 {
			return c
		}
		return cmp.Compare(x.records[b].Seq, x.records[a].Seq)
	})
	for _, slot := range released {
		x.rest(slot, now)
	}
	for i := range x.sets {
		slices.Reverse(x.sets[i].rest.entries)
	}
	if newest >= 0 {
		for _, a := range x.records[newest].Addrs {
			x.goOnFrom(a.Addr())
		}
	}
	x.version = tx.Version()
	return nil
}

// put remembers what a slot holds.
func (x *index) put(slot int, r Record) {
	for len(x.records) <= slot {
		x.records = append(x.records, Record{})
	}
	x.records[slot] = r
}

// hold marks the addresses of a lease as used.
func (x *index) hold(slot int) {
	r := x.records[slot]
	x.leases++
	if _, twin := x.owners[r.Owner]; twin {
		x.twins[r.Owner] = append(x.twins[r.Owner], slot)
	} else {
		x.owners[r.Owner] = slot
	}
	for _, p := range r.Addrs {
		a := p.Addr()
		x.wake(a)
		set, s := x.locate(a)
		if s != nil {
			if n := s.offsetOf(a); n < s.busy.size && s.busy.set(n) {
				x.sets[set].used++
				continue
			}
		}
		x.strays[a]++
	}
}

// drop forgets a lease; its addresses rest or are free.
func (x *index) drop(slot int, now time.Time) {
	r := x.records[slot]
	x.leases--
	delete(x.owners, r.Owner)
	delete(x.twins, r.Owner) // who drops one drops all of them
	for _, p := range r.Addrs {
		a := p.Addr()
		if n := x.strays[a]; n > 1 {
			x.strays[a] = n - 1
		} else if n == 1 {
			delete(x.strays, a)
		} else if set, s := x.locate(a); s != nil {
			s.busy.clear(s.offsetOf(a))
			x.sets[set].used--
		}
	}
	x.rest(slot, now)
}

// rest keeps back those addresses of a released record that nobody holds and whose time is not over.
func (x *index) rest(slot int, now time.Time) {
	r := x.records[slot]
	for _, p := range r.Addrs {
		e := resting{p.Addr(), slot, r.Released}
		set, s := x.locate(e.addr)
		if s == nil || e.over(now, x.delay) {
			continue
		}
		if n := s.offsetOf(e.addr); n < s.busy.size && s.busy.set(n) {
			x.resting[e.addr] = e
			x.waiting[slot]++
			x.sets[set].rest.push(e)
		}
	}
	if x.waiting[slot] == 0 {
		x.free = append(x.free, slot)
	}
}

// wake ends the rest of an address, if it rests.
func (x *index) wake(a netip.Addr) {
	e, ok := x.resting[a]
	if !ok {
		return
	}
	delete(x.resting, a)
	_, s := x.locate(a)
	s.busy.clear(s.offsetOf(a))
	if x.waiting[e.slot]--; x.waiting[e.slot] == 0 {
		delete(x.waiting, e.slot)
		x.free = append(x.free, e.slot)
	}
}

// wakeRested ends the rests that are over.
func (x *index) wakeRested(now time.Time) {
	for i := range x.sets {
		for q := &x.sets[i].rest; ; q.pop() {
			e, ok := q.front(x.resting)
			if !ok || !e.over(now, x.delay) {
				break
			}
			x.wake(e.addr)
		}
	}
}

// pick chooses an address of a set: the next free one in the round, or the longest-free of those that rest.
func (x *index) pick(set int) (netip.Addr, error) {
	t := &x.sets[set]
	for i := 0; i <= len(t.spans); i++ {
		s := &t.spans[(t.at+i)%len(t.spans)]
		from, to := uint64(0), s.busy.size
		switch i {
		case 0:
			from = t.offset
		case len(t.spans): // once round: the part of the first span that was skipped
			to = min(t.offset, to)
		}
		if n, ok := s.busy.nextClear(from, to); ok {
			return s.addrAt(n), nil
		}
	}
	if e, ok := t.rest.front(x.resting); ok {
		return e.addr, nil
	}
	return netip.Addr{}, &ExhaustedError{Range: t.String(), Used: t.used, Capacity: t.capacity()}
}

// goOnFrom sets the place where round robin goes on to the one after a.
func (x *index) goOnFrom(a netip.Addr) {
	set, s := x.locate(a)
	if s == nil {
		return
	}
	t := &x.sets[set]
	for i := range t.spans {
		if &t.spans[i] == s {
			t.at, t.offset = i, s.offsetOf(a)+1
		}
	}
}

// check says whether a static request for a can be met.
func (x *index) check(a netip.Addr) (set int, err error) {
	set, s := x.locate(a)
	if s == nil {
		return 0, &NotInRangeError{a, "is outside every range"}
	}
	if why, ok := x.excluded[a]; ok {
		return 0, &NotInRangeError{a, why}
	}
	_, rests := x.resting[a]
	n := s.offsetOf(a)
	if x.strays[a] > 0 || n < s.busy.size && s.busy.has(n) && !rests {
		return 0, &InUseError{a, x.holder(a)}
	}
	return set, nil
}

// holder looks for the owner of an address: only for errors, for it reads every record.
func (x *index) holder(a netip.Addr) Owner {
	for _, r := range x.records {
		if !r.Released.IsZero() {
			continue
		}
		for _, p := range r.Addrs {
			if p.Addr() == a {
				return r.Owner
			}
		}
	}
	return Owner{}
}

// slotFor chooses the slot for a lease of addrs: one that will be free when they are taken, or a new one (-1).
func (x *index) slotFor(addrs []netip.Prefix) int {
	for i, p := range addrs {
		e, ok := x.resting[p.Addr()]
		if !ok {
			continue
		}
		n := 0
		for _, q := range addrs[i:] {
			if f, ok := x.resting[q.Addr()]; ok && f.slot == e.slot {
				n++
			}
		}
		if n == x.waiting[e.slot] {
			return e.slot
		}
	}
	if len(x.free) == 0 && len(x.waiting) >= maxResting {
		x.forgetOldest()
	}
	if n := len(x.free); n > 0 {
		return x.free[n-1]
	}
	return -1
}

// forgetOldest ends the rest of the addresses of the record that was released first, so that its slot can be used.
func (x *index) forgetOldest() {
	var oldest *resting
	for i := range x.sets {
		if e, ok := x.sets[i].rest.front(x.resting); ok && (oldest == nil || e.released.Before(oldest.released)) {
			oldest = &e
		}
	}
	if oldest == nil {
		return
	}
	for _, p := range x.records[oldest.slot].Addrs {
		if e, ok := x.resting[p.Addr()]; ok && e.slot == oldest.slot {
			x.wake(e.addr)
		}
	}
}

// take makes r the lease in slot. The addresses wake, and the slot is free no more, before the record is replaced.
func (x *index) take(slot int, r Record) {
	for _, p := range r.Addrs {
		x.wake(p.Addr())
	}
	for i := len(x.free) - 1; i >= 0; i-- { // it is the last one, or close to it
		if x.free[i] == slot {
			x.free = slices.Delete(x.free, i, i+1)
			break
		}
	}
	x.put(slot, r)
	x.hold(slot)
	x.seq = r.Seq
}

// address adds the subnet's length and the gateway to an address, if it lies in the ranges.
func (x *index) address(p netip.Prefix) Address {
	if _, s := x.locate(p.Addr()); s != nil {
		return Address{netip.PrefixFrom(p.Addr(), s.Subnet.Bits()), s.Gateway}
	}
	return Address{Prefix: p}
}

func (x *index) addresses(r Record) []Address {
	got := make([]Address, len(r.Addrs))
	for i, p := range r.Addrs {
		got[i] = x.address(p)
	}
	return got
}

// held returns the lease that its owner asks for once more, in the order of the range sets, if the ranges and the request allow it.
func (x *index) held(r Record, req Request) ([]Address, error) {
	got := make([]Address, len(x.sets))
	found := 0
	for _, p := range r.Addrs {
		set, s := x.locate(p.Addr())
		if s == nil || x.excluded[p.Addr()] != "" || got[set].Prefix.IsValid() {
			return nil, &MismatchError{r.Owner, r.Addrs}
		}
		got[set] = x.address(p)
		found++
	}
	for _, a := range req.Addrs {
		if !slices.ContainsFunc(r.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return nil, &MismatchError{r.Owner, r.Addrs}
		}
	}
	if found != len(x.sets) {
		return nil, &MismatchError{r.Owner, r.Addrs}
	}
	return got, nil
}
