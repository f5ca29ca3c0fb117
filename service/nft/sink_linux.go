package nft

import (
	"github.com/podnet/podnet/internal/nfnl"
)

// sink takes the elements that come and go for one table, and writes what is not yet so.
type sink struct {
	table nfnl.Table
	tx    *nfnl.Transaction // nil: nothing is written, see Dataplane.undo
	have  *snapshot         // what the kernel has, nil: what the state says

	attempt  int   // number of the transaction, for have
	conflict []int // tags of changes that want what another change of this transaction wants
}

// add has an element there.
func (s *sink) add(set string, key, data []byte) {
	if s.tx == nil {
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
			s.tx.DeleteElement(s.table, set, nfnl.Element{Key: key})
		}
	}
	s.tx.AddElement(s.table, set, nfnl.Element{Key: key, Data: data})
}

// remove has an element gone.
func (s *sink) remove(set string, key []byte) {
	if s.tx != nil {
		s.tx.DeleteElement(s.table, set, nfnl.Element{Key: key})
	}
}
