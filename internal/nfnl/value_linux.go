package nfnl

import (
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Family is the address family of a table.
type Family uint8

// The families of tables (include/uapi/linux/netfilter.h).
const (
	INet Family = unix.NFPROTO_INET
	IPv4 Family = unix.NFPROTO_IPV4
	IPv6 Family = unix.NFPROTO_IPV6
)

// String returns the family as nft calls it.
func (f Family) String() string {
	switch f {
	case INet:
		return "inet"
	case IPv4:
		return "ip"
	case IPv6:
		return "ip6"
	}
	return "?"
}

// Table names a table.
type Table struct {
	Family Family
	Name   string
}

// String returns the table as nft calls it, such as "ip filter".
func (t Table) String() string { return t.Family.String() + " " + t.Name }

// Chain is a chain. Without a Type it sees only packets that are sent to it.
type Chain struct {
	Name     string
	Type     string // "filter", "nat" or "route": a base chain
	Hook     Hook
	Priority int32
	Drop     bool // the policy: what becomes of a packet without a verdict
}

// Hook is where a base chain hangs.
type Hook uint32

// The hooks of the families ip, ip6 and inet.
const (
	Prerouting  Hook = unix.NF_INET_PRE_ROUTING
	Input       Hook = unix.NF_INET_LOCAL_IN
	Forward     Hook = unix.NF_INET_FORWARD
	Output      Hook = unix.NF_INET_LOCAL_OUT
	Postrouting Hook = unix.NF_INET_POST_ROUTING
)

// Rule is a rule.
type Rule struct {
	Chain string
	Exprs []expr.Any

	// Comment is shown by nft, up to 128 bytes. Rules read back have no Exprs to compare (the kernel completes them), so put a fingerprint here.
	Comment string

	Handle uint64 // of a rule that was read: names it for DeleteRule
}

// Type is a kind of value in sets, as nft knows it (src/datatype.h): it says how long a value is and how it is shown.
type Type uint32

// Types of values. Their bytes are in network order, those of Mark in the machine's.
const (
	TypeVerdict Type = 1  // only as the data of a map: a Verdict
	TypeAddr4   Type = 7  // 4 bytes
	TypeAddr6   Type = 8  // 16 bytes
	TypeProto   Type = 12 // 1 byte: the layer 4 protocol
	TypePort    Type = 13 // 2 bytes
	TypeMark    Type = 19 // 4 bytes: any number
	TypeIfname  Type = 41 // 16 bytes, filled up with zeroes
)

const (
	typeBits = 6 // of one type in a concatenation
	typeMask = 1<<typeBits - 1
)

// Concat is the type of values made of up to five others, each padded with zeroes to a multiple of four bytes.
func Concat(types ...Type) Type {
	var all Type
	for _, t := range types {
		all = all<<typeBits | t&typeMask
	}
	return all
}

// Fields returns the types that t was concatenated of, first to last.
func (t Type) Fields() []Type {
	var fields []Type
	for shift := 30; shift >= 0; shift -= typeBits {
		if f := t >> shift & typeMask; f != 0 {
			fields = append(fields, f)
		}
	}
	return fields
}

// Len returns the bytes of a value: padded if it is a concatenation.
func (t Type) Len() int {
	n := 0
	fields := t.Fields()
	for _, f := range fields {
		size := f.size()
		if len(fields) > 1 {
			size = aligned(size)
		}
		n += size
	}
	return n
}

func (t Type) size() int {
	switch t {
	case TypeAddr4, TypeMark:
		return 4
	case TypeAddr6, TypeIfname:
		return 16
	case TypeProto:
		return 1
	case TypePort:
		return 2
	}
	return 0
}

// Set is a set, or a map if it has Data.
type Set struct {
	Name     string
	Key      Type
	Data     Type
	Timeout  bool   // elements may have one
	Dynamic  bool   // rules add elements; such a set needs a Size
	Interval bool   // elements are ranges: each start has an end, see Element.IntervalEnd
	Size     uint32 // the most elements, 0 for no limit
}

// Element is an element of a set or map.
type Element struct {
	Key     []byte // Set.Key.Len() bytes
	Data    []byte // of a map without verdicts, Set.Data.Len() bytes
	Verdict Verdict

	// Timeout is after how long the element goes; 0 stays. Expires is what is left, of an element that was read.
	Timeout, Expires time.Duration

	// IntervalEnd is the first value behind a range.
	IntervalEnd bool
}

// Verdict is what a rule or an element of a verdict map says. The zero Verdict is none.
type Verdict struct {
	Kind  VerdictKind
	Chain string // of Jump and Goto
}

// VerdictKind is a verdict's kind.
type VerdictKind uint8

// The verdicts.
const (
	NoVerdict VerdictKind = iota
	Accept
	Drop
	Jump
	Goto
	Return
)

// The kernel's verdicts (include/uapi/linux/netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
)

// code returns the kernel's number (include/uapi/linux/netfilter/nf_tables.h).
func (k VerdictKind) code() int32 {
	switch k {
	case Accept:
		return nfAccept
	case Jump:
		return unix.NFT_JUMP
	case Goto:
		return unix.NFT_GOTO
	case Return:
		return unix.NFT_RETURN
	}
	return nfDrop
}

func verdictKind(code int32) VerdictKind {
	for _, k := range []VerdictKind{Accept, Drop, Jump, Goto, Return} {
		if k.code() == code {
			return k
		}
	}
	return NoVerdict
}
