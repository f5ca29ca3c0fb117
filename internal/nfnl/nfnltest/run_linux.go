package nfnltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
)

// batch is a transaction that is being done, on a copy of the tables.
type batch struct {
	k       *Kernel
	socket  *owner // of Own
	tables  []*table
	touched map[nfnl.Table]bool
	element int // that is being done, -1 if it is not about one
	changed bool
}

// run does a transaction and keeps the result if it succeeds and keep says so. As the kernel, it goes on after a refusal and names them all.
func (k *Kernel) run(tx *nfnl.Transaction, socket *owner, keep bool) (map[nfnl.Table]bool, error) {
	messages, err := tx.Messages()
	if err != nil {
		return nil, err
	}
	if k.Most > 0 && tx.Size() > k.Most {
		return nil, fmt.Errorf("%d bytes: %w", tx.Size(), nfnl.ErrTooLarge)
	}
	b := batch{k: k, socket: socket, touched: map[nfnl.Table]bool{}}
	for _, t := range k.tables {
		b.tables = append(b.tables, t.clone())
	}
	var refused nfnl.Refused
	for i, m := range messages {
		b.element = -1
		before := b.size()
		errno := b.message(m)
		b.changed = b.changed || b.size() != before || m.Kind == unix.NFT_MSG_NEWSET // counts even if it is there (6.18)
		if errno != 0 {
			refused = append(refused, tx.Refusal(i, b.element, errno))
		}
	}
	if len(refused) > 0 {
		return nil, refused
	}
	if keep {
		k.tables = b.tables
		if b.changed {
			k.genid++
		}
		k.counts.Commits++
		k.counts.Changes += tx.Len()
	}
	return b.touched, nil
}

func (b *batch) message(m nfnl.Message) syscall.Errno {
	name := nfnl.Table{Family: m.Family, Name: nfnl.Text(nfnl.Attr(m.Body, unix.NFTA_TABLE_NAME))} // the first attribute of all kinds
	if m.Family != nfnl.IPv4 && m.Family != nfnl.IPv6 {
		return unix.EOPNOTSUPP
	}
	b.touched[name] = true
	t := find(b.tables, name)
	if t != nil && t.owner != nil && t.owner != b.socket {
		return unix.EPERM
	}
	if m.Kind == unix.NFT_MSG_NEWTABLE {
		if t == nil {
			t = &table{name: name, flags: binary.BigEndian.Uint32(nfnl.Attr(m.Body, unix.NFTA_TABLE_FLAGS))}
			if t.flags&nfnl.FlagOwner != 0 {
				t.owner = b.socket
			}
			b.tables = append(b.tables, t)
		}
		return 0
	}
	if t == nil {
		return unix.ENOENT
	}
	switch m.Kind {
	case unix.NFT_MSG_DELTABLE:
		b.tables = slices.DeleteFunc(b.tables, func(o *table) bool { return o == t })
	case unix.NFT_MSG_NEWCHAIN:
		return t.addChain(nfnl.ParseChain(m.Body))
	case unix.NFT_MSG_DELCHAIN:
		return t.deleteChain(nfnl.Text(nfnl.Attr(m.Body, unix.NFTA_CHAIN_NAME)))
	case unix.NFT_MSG_NEWRULE:
		return t.addRule(m.Body, b.k.Lacks)
	case unix.NFT_MSG_DELRULE:
		return t.deleteRules(m.Body)
	case unix.NFT_MSG_NEWSET:
		return t.addSet(m.Body)
	case unix.NFT_MSG_DELSET:
		return t.deleteSet(nfnl.Text(nfnl.Attr(m.Body, unix.NFTA_SET_NAME)))
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return b.elements(t, m)
	default:
		return unix.EOPNOTSUPP
	}
	return 0
}

// size counts everything: a message adds, or removes, or changes nothing.
func (b *batch) size() int {
	n := len(b.tables)
	for _, t := range b.tables {
		n += len(t.chains) + len(t.sets)
		for _, c := range t.chains {
			n += len(c.rules)
		}
		for _, s := range t.sets {
			n += len(s.elements)
		}
	}
	return n
}

const maxName = 255 // NFT_NAME_MAXLEN - 1

func (t *table) addChain(c nfnl.Chain) syscall.Errno {
	if len(c.Name) > maxName {
		return unix.ERANGE
	}
	if old := t.chain(c.Name); old != nil {
		if old.Type != c.Type || old.Hook != c.Hook || old.Priority != c.Priority {
			return unix.EOPNOTSUPP
		}
		old.Chain = c
		return 0
	}
	if c.Type != "" && c.Type != "nat" && c.Type != "filter" {
		return unix.EOPNOTSUPP
	}
	t.chains = append(t.chains, &chain{Chain: c})
	return 0
}

func (t *table) deleteChain(name string) syscall.Errno {
	c := t.chain(name)
	if c == nil {
		return unix.ENOENT
	}
	for _, o := range t.chains {
		if o != c && slices.ContainsFunc(o.rules, func(r *rule) bool { return r.leadsTo(name) }) {
			return unix.EBUSY
		}
	}
	for _, s := range t.sets {
		for _, x := range s.elements {
			if x.Verdict.Chain == name {
				return unix.EBUSY
			}
		}
	}
	t.chains = slices.DeleteFunc(t.chains, func(o *chain) bool { return o == c })
	return 0
}

func (t *table) deleteRules(body []byte) syscall.Errno {
	c := t.chain(nfnl.Text(nfnl.Attr(body, unix.NFTA_RULE_CHAIN)))
	if c == nil {
		return unix.ENOENT
	}
	handle := nfnl.Attr(body, unix.NFTA_RULE_HANDLE)
	if handle == nil {
		c.rules = nil
		return 0
	}
	n := len(c.rules)
	c.rules = slices.DeleteFunc(c.rules, func(r *rule) bool { return r.handle == number(handle) })
	if len(c.rules) == n {
		return unix.ENOENT
	}
	return 0
}

func (t *table) addSet(body []byte) syscall.Errno {
	s := nfnl.ParseSet(body)
	keyLen, dataLen := number(nfnl.Attr(body, unix.NFTA_SET_KEY_LEN)), number(nfnl.Attr(body, unix.NFTA_SET_DATA_LEN))
	if len(s.Name) > maxName {
		return unix.ERANGE
	}
	if nfnl.Attr(body, unix.NFTA_SET_ID) == nil || keyLen == 0 || keyLen > 64 || dataLen > 64 {
		return unix.EINVAL
	}
	if s.Interval || uint64(s.Key.Len()) != keyLen || uint64(s.Data.Len()) != dataLen {
		return unix.EOPNOTSUPP
	}
	if old := t.set(s.Name); old != nil {
		if old.Set != s {
			return unix.EEXIST
		}
		return 0
	}
	t.sets = append([]*set{{s, map[string]nfnl.Element{}}}, t.sets...) // the kernel lists the newest first
	return 0
}

func (t *table) deleteSet(name string) syscall.Errno {
	s := t.set(name)
	if s == nil {
		return unix.ENOENT
	}
	for _, c := range t.chains {
		if slices.ContainsFunc(c.rules, func(r *rule) bool { return r.uses(name) }) {
			return unix.EBUSY
		}
	}
	t.sets = slices.DeleteFunc(t.sets, func(o *set) bool { return o == s })
	return 0
}

func (b *batch) elements(t *table, m nfnl.Message) syscall.Errno {
	s := t.set(nfnl.Text(nfnl.Attr(m.Body, unix.NFTA_SET_ELEM_LIST_SET)))
	if s == nil {
		return unix.ENOENT
	}
	list := nfnl.Attr(m.Body, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	if list == nil {
		if m.Kind == unix.NFT_MSG_NEWSETELEM {
			return unix.EINVAL
		}
		clear(s.elements)
		return 0
	}
	for typ, v := range nfnl.Attrs(list) {
		b.element++
		if typ != unix.NFTA_LIST_ELEM {
			return unix.EINVAL
		}
		do := b.addElement
		if m.Kind == unix.NFT_MSG_DELSETELEM {
			do = deleteElement
		}
		if errno := do(t, s, nfnl.ParseElement(v)); errno != 0 {
			return errno
		}
	}
	return 0
}

func (b *batch) addElement(t *table, s *set, x nfnl.Element) syscall.Errno {
	if b.k.Refuse != nil {
		if errno := b.k.Refuse(s.Name, x); errno != 0 {
			return errno
		}
	}
	switch {
	case len(x.Key) != s.Key.Len(), x.Timeout != 0 && !s.Timeout, x.IntervalEnd:
		return unix.EINVAL
	case s.Data == 0 && (x.Data != nil || x.Verdict.Kind != nfnl.NoVerdict):
		return unix.EINVAL
	case s.Data == nfnl.TypeVerdict && x.Verdict.Kind == nfnl.NoVerdict:
		return unix.EINVAL
	case s.Data > nfnl.TypeVerdict && len(x.Data) != s.Data.Len():
		return unix.EINVAL
	}
	if c := x.Verdict.Chain; c != "" {
		to := t.chain(c)
		switch {
		case to == nil:
			return unix.ENOENT
		case to.Type != "":
			return unix.EOPNOTSUPP
		}
	}
	if old, there := s.elements[string(x.Key)]; there {
		if !bytes.Equal(old.Data, x.Data) || old.Verdict != x.Verdict {
			return unix.EEXIST
		}
		return 0
	}
	if s.Size != 0 && len(s.elements) >= int(s.Size) {
		return unix.ENFILE
	}
	x.Expires = x.Timeout
	s.elements[string(x.Key)] = x
	return 0
}

func deleteElement(_ *table, s *set, x nfnl.Element) syscall.Errno {
	if len(x.Key) != s.Key.Len() {
		return unix.EINVAL
	}
	if _, there := s.elements[string(x.Key)]; !there {
		return unix.ENOENT
	}
	delete(s.elements, string(x.Key))
	return 0
}

// number reads an attribute in network order.
func number(b []byte) uint64 {
	var n uint64
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}
