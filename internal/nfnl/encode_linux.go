package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Netlink's fixed sizes (include/uapi/linux/netlink.h).
const (
	headerLen     = unix.NLMSG_HDRLEN
	genLen        = 4 // struct nfgenmsg
	attrHeaderLen = 4
	attrTypeMask  = 0x3fff
)

var native = binary.NativeEndian

func aligned(n int) int { return (n + 3) &^ 3 }

// encoder appends netlink messages to a buffer. nf_tables takes all its numbers in network order.
type encoder struct {
	buf   []byte
	start int // of the message being written
}

func (e *encoder) begin(kind, flags uint16, f Family) {
	e.start = len(e.buf)
	e.buf = native.AppendUint32(e.buf, 0)
	e.buf = native.AppendUint16(e.buf, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	e.buf = native.AppendUint16(e.buf, unix.NLM_F_REQUEST|flags)
	e.buf = append(e.buf, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number and port
	e.buf = append(e.buf, byte(f), unix.NFNETLINK_V0, 0, 0)
}

func (e *encoder) end() { native.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start)) }

func (e *encoder) attr(typ uint16, size int) {
	e.buf = native.AppendUint16(e.buf, uint16(attrHeaderLen+size))
	e.buf = native.AppendUint16(e.buf, typ)
}

func (e *encoder) pad() {
	for len(e.buf)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) bytes(typ uint16, v []byte) {
	e.attr(typ, len(v))
	e.buf = append(e.buf, v...)
	e.pad()
}

func (e *encoder) text(typ uint16, v string) {
	e.attr(typ, len(v)+1)
	e.buf = append(e.buf, v...)
	e.buf = append(e.buf, 0)
	e.pad()
}

func (e *encoder) u32(typ uint16, v uint32) {
	e.attr(typ, 4)
	e.buf = binary.BigEndian.AppendUint32(e.buf, v)
}

func (e *encoder) u64(typ uint16, v uint64) {
	e.attr(typ, 8)
	e.buf = binary.BigEndian.AppendUint64(e.buf, v)
}

// nest starts an attribute that holds attributes and returns what endNest wants.
func (e *encoder) nest(typ uint16) int {
	start := len(e.buf)
	e.attr(typ|unix.NLA_F_NESTED, 0)
	return start
}

func (e *encoder) endNest(start int) { native.PutUint16(e.buf[start:], uint16(len(e.buf)-start)) }

// value writes an attribute that holds a value: struct nft_data by its attribute NFTA_DATA_VALUE.
func (e *encoder) value(typ uint16, v []byte) {
	e.attr(typ|unix.NLA_F_NESTED, attrHeaderLen+aligned(len(v)))
	e.bytes(unix.NFTA_DATA_VALUE, v)
}

func (e *encoder) verdict(typ uint16, v Verdict) {
	outer := e.nest(typ)
	inner := e.nest(unix.NFTA_DATA_VERDICT)
	e.u32(unix.NFTA_VERDICT_CODE, uint32(v.Kind.code()))
	if v.Chain != "" {
		e.text(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	e.endNest(inner)
	e.endNest(outer)
}

// room makes room for an element, by doubling: append's own steps leave five times the size of a large buffer to the garbage collector.
func (e *encoder) room() {
	const most = 512 // an element, and the beginning of a message
	if cap(e.buf)-len(e.buf) < most {
		e.buf = append(make([]byte, 0, 2*cap(e.buf)+most), e.buf...)
	}
}

// element writes one element of a set.
func (e *encoder) element(x *Element, isMap bool) {
	start := e.nest(unix.NFTA_LIST_ELEM)
	e.value(unix.NFTA_SET_ELEM_KEY, x.Key)
	switch {
	case !isMap:
	case x.Verdict.Kind != NoVerdict:
		e.verdict(unix.NFTA_SET_ELEM_DATA, x.Verdict)
	default:
		e.value(unix.NFTA_SET_ELEM_DATA, x.Data)
	}
	if x.IntervalEnd {
		e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	if x.Timeout != 0 {
		e.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(x.Timeout.Milliseconds()))
	}
	e.endNest(start)
}
