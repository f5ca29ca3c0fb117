package nfnl

import (
	"iter"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Message is a message of a transaction, for those who do what the kernel does: nfnltest.
type Message struct {
	Kind   uint16 // NFT_MSG_NEWTABLE, ...
	Flags  uint16 // NLM_F_CREATE, ...
	Family Family
	Body   []byte // attributes
}

// Messages returns the messages in the order in which the kernel sees them.
func (t *Transaction) Messages() ([]Message, error) {
	if t.err != nil {
		return nil, t.err
	}
	var all []Message
	if t.changes == 0 {
		return nil, nil
	}
	buffers, _ := t.finish()
	for _, b := range buffers {
		for m := range messages(b) {
			all = append(all, Message{Kind: uint16(m.kind()), Flags: m.flags, Family: m.family, Body: m.body})
		}
	}
	return all, nil
}

// Refusal is the Error of a refused message, the first has number 0. element is the number of the element that is to blame, -1 if it is not about one.
func (t *Transaction) Refusal(message, element int, errno syscall.Errno) *Error {
	k := nack{errno: errno}
	if s, i := t.at(message + 1); s != nil && element >= 0 {
		b := s.enc.buf[s.messages[i].start:]
		n := 0
		for _, v := range attrs(attr(b[headerLen+genLen:native.Uint32(b)], unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			if n == element {
				k.offset = cap(b) - cap(v) - attrHeaderLen
				break
			}
			n++
		}
	}
	return t.refusal(message+1, k)
}

// Attrs walks over netlink attributes; a truncated one ends the walk.
func Attrs(b []byte) iter.Seq2[uint16, []byte] { return attrs(b) }

// Attr returns the first attribute of a type, nil if there is none.
func Attr(b []byte, typ uint16) []byte { return attr(b, typ) }

// Text returns a string without its terminating zero.
func Text(b []byte) string { return text(b) }

// ParseChain reads the body of a message about a chain.
func ParseChain(body []byte) Chain { return decodeChain(body) }

// ParseSet reads the body of a message about a set.
func ParseSet(body []byte) Set { return decodeSet(body) }

// ParseElement reads an element. The bytes are copied.
func ParseElement(b []byte) Element {
	x := decodeElement(b)
	x.Key, x.Data = slices.Clone(x.Key), slices.Clone(x.Data)
	return x
}

// ParseComment reads the comment in a rule's userdata, whoever wrote it.
func ParseComment(userdata []byte) string { return comment(userdata) }
