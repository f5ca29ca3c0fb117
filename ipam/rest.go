package ipam

import (
	"net/netip"
	"time"
)

// resting is an address that was released and is kept back: its bit stays set.
type resting struct {
	addr     netip.Addr
	slot     int // of the released record that remembers it
	released time.Time
}

// over says whether the address has rested for long enough. A wall clock that was set back by more than the delay ends the rest too: nobody
// knows any more how long it was.
func (r resting) over(now time.Time, delay time.Duration) bool {
	age := now.Sub(r.released)
	return age >= delay || -age > delay
}

// restQueue holds the resting addresses of one range set, the longest-free one first. Who takes an address out of turn (a static request)
// does not touch the queue: entries that index.resting does not confirm are skipped.
type restQueue struct {
	entries []resting
	head    int
}

func (q *restQueue) push(r resting) { q.entries = append(q.entries, r) }

// front returns the first entry that still counts.
func (q *restQueue) front(counts map[netip.Addr]resting) (resting, bool) {
	for q.head < len(q.entries) {
		if r := q.entries[q.head]; counts[r.addr] == r {
			return r, true
		}
		q.head++
	}
	q.entries, q.head = q.entries[:0], 0
	return resting{}, false
}

// pop drops the first entry. The room that it frees is given back when it is half of the queue.
func (q *restQueue) pop() {
	q.head++
	if q.head > 64 && q.head*2 > len(q.entries) {
		n := copy(q.entries, q.entries[q.head:])
		q.entries, q.head = q.entries[:n], 0
	}
}
