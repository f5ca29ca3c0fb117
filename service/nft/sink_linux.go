package nft

import (
	"github.com/podnet/podnet/internal/nfnl"
)

// sink takes the elements that come and go for one table, and writes what is not yet so.
type sink struct {
	table nfnl.Table
	names [setKinds]string
	tx    *nfnl.Transaction // nil: nothing is written, see run.undo
	have  *snapshot         // what the kernel has, nil: what the state says

	without [setKinds]bool // these sets are left out

	attempt  int   // number of the transaction, for have
	conflict []int // tags of changes that want what another change of this transaction wants

	added, removed [sizedKinds]int
}

// add has an element there.
func (s *sink) add(set setKind, key, data []byte) {
	if s.tx == nil || s.without[set] {
		return
	}
	if s.have != nil {
		switch s.have.claim(set, key, data, s.attempt) {
		case same:
			return
		case taken:
			s.conflict = append(s.conflict, s.tx.Tag)
			return
		case other:
			s.remove(set, key)
		}
	}
	if set < sizedKinds {
		s.added[set]++
	}
	s.tx.AddElement(s.table, s.names[set], nfnl.Element{Key: key, Data: data})
}

// remove has an element gone.
func (s *sink) remove(set setKind, key []byte) {
	if s.tx == nil || s.without[set] {
		return
	}
	if set < sizedKinds {
		s.removed[set]++
	}
	s.tx.DeleteElement(s.table, s.names[set], nfnl.Element{Key: key})
}

// put adds an element without data, or removes it.
func (s *sink) put(there bool, set setKind, key []byte) {
	if there {
		s.add(set, key, nil)
	} else {
		s.remove(set, key)
	}
}
