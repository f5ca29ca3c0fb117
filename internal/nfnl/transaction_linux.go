package nfnl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// The steps of a transaction, see the package's documentation.
const (
	stepObjects = iota
	stepElementsGo
	stepElementsCome
	stepObjectsGo
	steps
)

// messageBytes is how large a message with elements gets. The list of elements is one attribute, whose length has 16 bits.
const messageBytes = 60 << 10

// Transaction is a list of changes that the kernel does all or none. The zero Transaction is empty and ready to use.
type Transaction struct {
	// Tag is given to the changes that follow. An error names the tag of the change that was refused.
	Tag int // 32 bits of it

	sections []*section
	last     *section // that took the last element
	setID    uint32
	changes  int
	err      error

	committed uint32
}

// section is a run of messages: elements of one set that come or go, or objects.
type section struct {
	step  int
	table Table
	set   string

	enc      encoder
	list     int // start of the open list of elements, 0 if there is no open message
	messages []messageInfo
	runs     []run
	changes  int
}

// messageInfo says which changes of its section a message holds.
type messageInfo struct {
	start int // in the section's buffer
	first int // change
}

// run is the tag of the changes up to a number.
type run struct{ until, tag int32 }

// Len returns how many changes there are.
func (t *Transaction) Len() int { return t.changes }

// Genid returns the number of the commit that made the changes; 0 if there was none, because all was so already.
func (t *Transaction) Genid() uint32 { return t.committed }

// SetGenid is for those who do what the kernel does: nfnltest.
func (t *Transaction) SetGenid(id uint32) { t.committed = id }

// Size returns how many bytes Commit sends.
func (t *Transaction) Size() int {
	n := 2 * (headerLen + genLen)
	for _, s := range t.sections {
		n += len(s.enc.buf)
	}
	return n
}

// Reset empties the transaction and keeps its memory, unless that is a lot.
func (t *Transaction) Reset() {
	const most = 256 << 10
	kept := t.sections[:0]
	for _, s := range t.sections {
		if cap(s.enc.buf) <= most {
			*s = section{step: s.step, table: s.table, set: s.set, enc: encoder{buf: s.enc.buf[:0]}, messages: s.messages[:0], runs: s.runs[:0]}
			kept = append(kept, s)
		}
	}
	clear(t.sections[len(kept):])
	*t = Transaction{sections: kept}
}

func (t *Transaction) section(step int, table Table, set string) *section {
	if s := t.last; s != nil && s.step == step && s.set == set && s.table == table {
		return s
	}
	for _, s := range t.sections {
		if s.step == step && s.set == set && s.table == table {
			t.last = s
			return s
		}
	}
	s := &section{step: step, table: table, set: set}
	t.sections = append(t.sections, s)
	t.last = s
	return s
}

// count notes a change and its tag.
func (t *Transaction) count(s *section) {
	t.changes++
	s.changes++
	if n := len(s.runs); n > 0 && s.runs[n-1].tag == int32(t.Tag) {
		s.runs[n-1].until = int32(s.changes)
		return
	}
	s.runs = append(s.runs, run{int32(s.changes), int32(t.Tag)})
}

// object adds a message about something that is no element.
func (t *Transaction) object(step int, kind, flags uint16, table Table, body func(*encoder)) {
	s := t.section(step, Table{}, "")
	s.messages = append(s.messages, messageInfo{len(s.enc.buf), s.changes})
	t.count(s)
	s.enc.begin(kind, flags, table.Family)
	body(&s.enc)
	s.enc.end()
}

// AddTable makes a table. One that exists stays as it is.
func (t *Transaction) AddTable(table Table) { t.addTable(table, 0) }

func (t *Transaction) addTable(table Table, flags uint32) {
	t.object(stepObjects, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, table, func(e *encoder) {
		e.text(unix.NFTA_TABLE_NAME, table.Name)
		e.u32(unix.NFTA_TABLE_FLAGS, flags)
	})
}

// DeleteTable removes a table with all that is in it. To empty a table that may be missing: AddTable, DeleteTable, AddTable.
func (t *Transaction) DeleteTable(table Table) {
	t.object(stepObjects, unix.NFT_MSG_DELTABLE, 0, table, func(e *encoder) { e.text(unix.NFTA_TABLE_NAME, table.Name) })
}

// AddChain makes a chain. One that exists stays, and gets the policy; another hook, type or priority is refused (EEXIST or EOPNOTSUPP).
func (t *Transaction) AddChain(table Table, c Chain) {
	t.object(stepObjects, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, table, func(e *encoder) {
		e.text(unix.NFTA_CHAIN_TABLE, table.Name)
		e.text(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Type == "" {
			return
		}
		hook := e.nest(unix.NFTA_CHAIN_HOOK)
		e.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Hook))
		e.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
		e.endNest(hook)
		e.u32(unix.NFTA_CHAIN_POLICY, c.policy())
		e.text(unix.NFTA_CHAIN_TYPE, c.Type)
	})
}

func (c Chain) policy() uint32 {
	if c.Drop {
		return nfDrop
	}
	return nfAccept
}

// DeleteChain removes a chain with its rules, after all other changes. What still leads to it makes it EBUSY.
func (t *Transaction) DeleteChain(table Table, name string) {
	t.object(stepObjectsGo, unix.NFT_MSG_DELCHAIN, 0, table, func(e *encoder) {
		e.text(unix.NFTA_CHAIN_TABLE, table.Name)
		e.text(unix.NFTA_CHAIN_NAME, name)
	})
}

// FlushChain removes the rules of a chain, so that AddRule writes them anew.
func (t *Transaction) FlushChain(table Table, name string) {
	t.object(stepObjects, unix.NFT_MSG_DELRULE, 0, table, func(e *encoder) {
		e.text(unix.NFTA_RULE_TABLE, table.Name)
		e.text(unix.NFTA_RULE_CHAIN, name)
	})
}

// AddRule appends a rule to its chain. An expression that cannot be encoded makes Commit fail.
func (t *Transaction) AddRule(table Table, r Rule) {
	t.object(stepObjects, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, table, func(e *encoder) {
		e.text(unix.NFTA_RULE_TABLE, table.Name)
		e.text(unix.NFTA_RULE_CHAIN, r.Chain)
		list := e.nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, x := range r.Exprs {
			b, err := marshal(byte(table.Family), x)
			if err != nil && t.err == nil {
				t.err = fmt.Errorf("encode rule of chain %s: %w", r.Chain, err)
			}
			e.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
		}
		e.endNest(list)
		if r.Comment != "" {
			e.bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.Comment))
		}
	})
}

// directed are the keys of ct that belong to a direction. Those with a family in their name are not in google/nftables.
var directed = [...]expr.CtKey{
	expr.CtKeySRC, expr.CtKeyDST, expr.CtKeyPROTOSRC, expr.CtKeyPROTODST, unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP, unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6,
}

// marshal is expr.Marshal, but for the direction of ct: v0.3.0 of google/nftables writes four bytes where the kernel wants one, and logs that.
func marshal(family byte, x expr.Any) ([]byte, error) {
	ct, ok := x.(*expr.Ct)
	if !ok || ct.SourceRegister || !slices.Contains(directed[:], ct.Key) {
		return expr.Marshal(family, x)
	}
	var e encoder
	e.text(unix.NFTA_EXPR_NAME, "ct")
	data := e.nest(unix.NFTA_EXPR_DATA)
	e.u32(unix.NFTA_CT_KEY, uint32(ct.Key))
	e.u32(unix.NFTA_CT_DREG, ct.Register)
	e.bytes(unix.NFTA_CT_DIRECTION, []byte{byte(ct.Direction)})
	e.endNest(data)
	return e.buf, nil
}

// DeleteRule removes a rule by its handle.
func (t *Transaction) DeleteRule(table Table, r Rule) {
	t.object(stepObjects, unix.NFT_MSG_DELRULE, 0, table, func(e *encoder) {
		e.text(unix.NFTA_RULE_TABLE, table.Name)
		e.text(unix.NFTA_RULE_CHAIN, r.Chain)
		e.u64(unix.NFTA_RULE_HANDLE, r.Handle)
	})
}

// DeleteSet removes a set with its elements, after all other changes. A rule that uses it makes it EBUSY.
func (t *Transaction) DeleteSet(table Table, name string) {
	t.object(stepObjectsGo, unix.NFT_MSG_DELSET, 0, table, func(e *encoder) {
		e.text(unix.NFTA_SET_TABLE, table.Name)
		e.text(unix.NFTA_SET_NAME, name)
	})
}

// FlushSet removes all elements of a set, before others are added.
func (t *Transaction) FlushSet(table Table, name string) {
	t.object(stepObjects, unix.NFT_MSG_DELSETELEM, 0, table, func(e *encoder) {
		e.text(unix.NFTA_SET_ELEM_LIST_TABLE, table.Name)
		e.text(unix.NFTA_SET_ELEM_LIST_SET, name)
	})
}

// AddElement adds an element to a set, or to a map if it has Data or a Verdict. The bytes are copied.
func (t *Transaction) AddElement(table Table, set string, x Element) {
	t.element(stepElementsCome, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, table, set, &x)
}

// DeleteElement removes the element with this key. Data and Verdict do not matter.
func (t *Transaction) DeleteElement(table Table, set string, x Element) {
	x.Data, x.Verdict, x.Timeout = nil, Verdict{}, 0
	t.element(stepElementsGo, unix.NFT_MSG_DELSETELEM, 0, table, set, &x)
}

func (t *Transaction) element(step int, kind, flags uint16, table Table, set string, x *Element) {
	s := t.section(step, table, set)
	e := &s.enc
	e.room()
	if s.list != 0 && len(e.buf)-s.list > messageBytes {
		s.close()
	}
	if s.list == 0 {
		s.messages = append(s.messages, messageInfo{len(e.buf), s.changes})
		e.begin(kind, flags, table.Family)
		e.text(unix.NFTA_SET_ELEM_LIST_TABLE, table.Name)
		e.text(unix.NFTA_SET_ELEM_LIST_SET, set)
		s.list = e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	}
	e.element(x, x.Data != nil || x.Verdict.Kind != NoVerdict)
	t.count(s)
}

// close ends the open message.
func (s *section) close() {
	if s.list != 0 {
		s.enc.endNest(s.list)
		s.enc.end()
		s.list = 0
	}
}

// tag returns the tag of a change of the section.
func (s *section) tag(change int) int {
	i, _ := slices.BinarySearchFunc(s.runs, change+1, func(r run, n int) int { return int(r.until) - n })
	if i == len(s.runs) {
		return 0
	}
	return int(s.runs[i].tag)
}

// finish closes the messages, numbers them from 1 and returns the buffers in order.
func (t *Transaction) finish() (buffers [][]byte, messages int) {
	var last []byte
	for step := range steps {
		for _, s := range t.sections {
			if s.step != step || len(s.messages) == 0 {
				continue
			}
			s.close()
			for _, m := range s.messages {
				messages++
				native.PutUint32(s.enc.buf[m.start+8:], uint32(messages))
			}
			last = s.enc.buf[s.messages[len(s.messages)-1].start:]
			buffers = append(buffers, s.enc.buf)
		}
	}
	// Errors come back anyway; an acknowledgement of the end of the batch needs Linux 6.10.
	native.PutUint16(last[6:], native.Uint16(last[6:])|unix.NLM_F_ACK)
	return buffers, messages
}

// at returns the section and the place in it of message number n, as finish numbered them.
func (t *Transaction) at(n int) (*section, int) {
	for step := range steps {
		for _, s := range t.sections {
			if s.step != step {
				continue
			}
			if n <= len(s.messages) {
				return s, n - 1
			}
			n -= len(s.messages)
		}
	}
	return nil, 0
}

// batch returns the message that begins or ends a batch.
func batch(kind, flags uint16, seq uint32) []byte {
	b := make([]byte, 0, headerLen+genLen)
	b = native.AppendUint32(b, headerLen+genLen)
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0)
	b = append(b, unix.AF_UNSPEC, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES)
}
