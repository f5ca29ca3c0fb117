package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// MaxRangeSets is how many addresses one lease can hold.
const MaxRangeSets = 4

// Record is what a [Store] keeps: the whole lease of one owner, every family in one record, so that a lease is written or lost as one.
// A released lease stays as a record with the time of its release, until the PodAllocator puts another lease in its place.
type Record struct {
	Owner    Owner
	Addrs    []netip.Prefix // each address with the length of its subnet, in the order of the range sets; at most MaxRangeSets
	Seq      uint64         // order of allocation: the highest one is where round robin goes on
	Static   bool           // somebody asked for these addresses: round robin does not go on from them
	Released time.Time      // zero while the lease is held
}

// Store keeps the records of a [PodAllocator]. The allocator does the thinking; a store does exclusion, durability and numbering.
// [MemoryStore] and ipam/filestore are stores; ipam/ipamtest.TestStore says whether another one is.
type Store interface {
	// Update calls fn with exclusive access among all users of the store, in this process and in others. When fn returns nil, what it put is
	// committed, and durable when Update returns nil. When fn returns an error, Update returns it and nothing that fn put is kept. When
	// the commit fails, Update returns an error and does its best to keep nothing; what might be kept all the same is seen by the next
	// Update as records, under another version. Each record is kept whole or not at all; several records of one Update are
	// not one atom: a crash may keep some of them.
	//
	// Update returns without having called fn when it cannot get access in bounded time or ctx ends.
	Update(ctx context.Context, fn func(Tx) error) error
}

// Tx is access to a store inside of one Update. It must not be used after fn has returned.
type Tx interface {
	// Version changes with every Update that wrote: it is one more after an Update that put something and returned nil, and any other
	// new value after everything else (a failed commit, a store made anew). It is never 0. Who remembers the version
	// after its own Update and finds it again knows that nobody else wrote.
	Version() uint64
	// Records visits every record with its slot. Slots are small numbers from 0. What this Update has put is not seen.
	// Bad records are not visited, and their slots stay out of use. After an error nothing is known of the records.
	Records(visit func(slot int, r Record)) error
	// Put writes r to a slot that Records or Put has named, in place of what it holds, or to a free one if slot is negative. It returns the slot.
	Put(slot int, r Record) (int, error)
}

// MemoryStore is a [Store] that forgets. Its zero value is not ready: use [NewMemoryStore].
type MemoryStore struct {
	gate    chan struct{} // holds one token: taking it is the lock, and waiting for it can end with ctx
	records []Record
	version uint64
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{gate: make(chan struct{}, 1), version: 1}
}

// Update implements [Store].
func (s *MemoryStore) Update(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memory store: %w", err)
	}
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("memory store: %w", ctx.Err())
	}
	defer func() { <-s.gate }()
	tx := memoryTx{store: s, next: len(s.records)}
	if err := fn(&tx); err != nil {
		return err
	}
	if len(tx.puts) == 0 {
		return nil
	}
	for _, p := range tx.puts {
		if p.slot == len(s.records) {
			s.records = append(s.records, p.record)
		} else {
			s.records[p.slot] = p.record
		}
	}
	s.version++
	return nil
}

type memoryTx struct {
	store *MemoryStore
	puts  []memoryPut
	next  int
}

type memoryPut struct {
	slot   int
	record Record
}

func (tx *memoryTx) Version() uint64 { return tx.store.version }

func (tx *memoryTx) Records(visit func(int, Record)) error {
	for i, r := range tx.store.records {
		visit(i, r)
	}
	return nil
}

func (tx *memoryTx) Put(slot int, r Record) (int, error) {
	if slot >= tx.next {
		return 0, fmt.Errorf("memory store: put: no slot %d", slot)
	}
	if slot < 0 {
		slot = tx.next
		tx.next++
	}
	tx.puts = append(tx.puts, memoryPut{slot, r})
	return slot, nil
}
