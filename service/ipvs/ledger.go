package ipvs

// ledger holds what is wanted and what is there, and knows where the two may differ.
type ledger[K comparable, V comparable] struct {
	want  map[K]wanted[V]
	have  map[K]V
	dirty map[K]struct{}
}

// wanted is a value and how often it is wanted: several programs may want the same.
type wanted[V any] struct {
	value V
	refs  int
}

func newLedger[K comparable, V comparable]() ledger[K, V] {
	return ledger[K, V]{map[K]wanted[V]{}, map[K]V{}, map[K]struct{}{}}
}

// acquire wants a value; it reports whether that is the first time. release wants it no more; it reports whether that was the last time.
func (l *ledger[K, V]) acquire(k K, v V) (first bool) {
	refs := l.want[k].refs + 1
	l.want[k] = wanted[V]{v, refs}
	l.dirty[k] = struct{}{}
	return refs == 1
}

func (l *ledger[K, V]) release(k K) (last bool) {
	w, ok := l.want[k]
	if !ok {
		return false
	}
	l.dirty[k] = struct{}{}
	if w.refs--; w.refs > 0 {
		l.want[k] = w
		return false
	}
	delete(l.want, k)
	return true
}

// reset forgets what is wanted and doubts everything.
func (l *ledger[K, V]) reset() {
	clear(l.want)
	clear(l.dirty)
	for k := range l.have {
		l.dirty[k] = struct{}{}
	}
}

// differences calls come for what is wanted and not so there, and leave for what is there and not wanted. What is left as it is stays dirty if keep says so.
func (l *ledger[K, V]) differences(come func(k K, v V, replaces bool), leave func(k K, v V) (keep bool)) {
	for k := range l.dirty {
		w, wants := l.want[k]
		have, has := l.have[k]
		switch {
		case wants && (!has || have != w.value):
			come(k, w.value, has)
		case wants:
			delete(l.dirty, k)
		case has:
			if leave(k, have) {
				continue
			}
		default:
			delete(l.dirty, k)
		}
	}
}

// compact makes a map no larger than what is in it: to go through one that once held everything takes as long as then.
func compact[K comparable, V any](m map[K]V) map[K]V {
	small := make(map[K]V, len(m))
	for k, v := range m {
		small[k] = v
	}
	return small
}

// came and left say what was done.
func (l *ledger[K, V]) came(k K, v V) {
	l.have[k] = v
	delete(l.dirty, k)
}

func (l *ledger[K, V]) left(k K) {
	delete(l.have, k)
	delete(l.dirty, k)
}
