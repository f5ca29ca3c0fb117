package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Error is a change that the kernel refused, or the whole transaction.
type Error struct {
	Op     string // such as "add element of frontends"; "commit" if it is about the transaction as a whole
	Tag    int    // under which the change was made
	Whole  bool   // the transaction as a whole
	Key    []byte // of an element, if the kernel named it
	Errno  syscall.Errno
	Detail string // the kernel's words
}

// Error returns op, the kernel's words and the errno.
func (e *Error) Error() string {
	s := "nftables: " + e.Op
	if len(e.Key) > 0 {
		s += fmt.Sprintf(" %x", e.Key)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s + ": " + e.Errno.Error()
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is matches fs.ErrNotExist and fs.ErrExist by the kernel's errno for missing and existing objects.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && e.Errno == unix.ENOENT || target == fs.ErrExist && e.Errno == unix.EEXIST
}

// Refused is why a transaction was not done: what the kernel named, in order. After the first, others may only be consequences.
type Refused []*Error

// Error joins the first few.
func (r Refused) Error() string {
	const most = 3
	var b strings.Builder
	for i, e := range r {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(r)-most)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap returns them all.
func (r Refused) Unwrap() []error {
	errs := make([]error, len(r))
	for i, e := range r {
		errs[i] = e
	}
	return errs
}

// ErrTooLarge is a transaction that the socket's send buffer cannot hold: make it smaller, or give CAP_NET_ADMIN in the initial user namespace.
var ErrTooLarge = errors.New("transaction is larger than the netlink socket's send buffer (net.core.wmem_max)")

// refusal turns the kernel's answer to message n, as finish numbered them, into an Error.
func (t *Transaction) refusal(n int, k nack) *Error {
	s, i := t.at(n)
	if s == nil {
		return &Error{Op: "commit", Whole: true, Errno: k.errno, Detail: k.detail}
	}
	m := s.messages[i]
	e := &Error{Errno: k.errno, Detail: k.detail, Op: describe(s.enc.buf[m.start:]), Tag: s.tag(m.first)}
	if s.set == "" {
		return e
	}
	// The kernel names the element by the offset of its attribute (NL_SET_BAD_ATTR in nf_tables_newsetelem).
	change, b := m.first, s.enc.buf[m.start:]
	list := attr(b[headerLen+genLen:native.Uint32(b)], unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	at := cap(b) - cap(list)
	for _, v := range attrs(list) {
		offset := cap(b) - cap(v) - attrHeaderLen
		if k.offset >= at && k.offset >= offset && k.offset <= offset+len(v) {
			e.Tag, e.Key = s.tag(change), attr(attr(v, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)
			return e
		}
		change++
	}
	return e
}

// describe says what a message does.
func describe(b []byte) string {
	verb, noun := "add", ""
	name := uint16(unix.NFTA_CHAIN_NAME) // tables have their name as first attribute, chains as third, sets and rules' chains as second
	switch native.Uint16(b[4:]) & 0xff {
	case unix.NFT_MSG_NEWTABLE:
		noun, name = "table", unix.NFTA_TABLE_NAME
	case unix.NFT_MSG_DELTABLE:
		verb, noun, name = "delete", "table", unix.NFTA_TABLE_NAME
	case unix.NFT_MSG_NEWCHAIN:
		noun = "chain"
	case unix.NFT_MSG_DELCHAIN:
		verb, noun = "delete", "chain"
	case unix.NFT_MSG_NEWRULE:
		noun, name = "rule of chain", unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_DELRULE:
		verb, noun, name = "delete", "rules of chain", unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWSET:
		noun, name = "set", unix.NFTA_SET_NAME
	case unix.NFT_MSG_DELSET:
		verb, noun, name = "delete", "set", unix.NFTA_SET_NAME
	case unix.NFT_MSG_NEWSETELEM:
		noun, name = "element of", unix.NFTA_SET_ELEM_LIST_SET
	case unix.NFT_MSG_DELSETELEM:
		verb, noun, name = "delete", "element of", unix.NFTA_SET_ELEM_LIST_SET
	}
	return verb + " " + noun + " " + text(attr(b[headerLen+genLen:native.Uint32(b)], name))
}

func be32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

func be64(v []byte) uint64 {
	if len(v) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
