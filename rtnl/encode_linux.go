package rtnl

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// Netlink's fixed sizes (include/uapi/linux/netlink.h).
const (
	headerLen     = 16 // struct nlmsghdr
	attrHeaderLen = 4  // struct nlattr
	align         = 4  // NLMSG_ALIGNTO and NLA_ALIGNTO
	attrTypeMask  = 0x3fff
	attrNested    = 1 << 15 // NLA_F_NESTED
)

var native = binary.NativeEndian

func aligned(n int) int { return (n + align - 1) &^ (align - 1) }

// encoder appends netlink messages to a buffer.
type encoder struct {
	buf   []byte
	start int // of the message being written
}

// begin starts a message; end fills in its length.
func (e *encoder) begin(typ, flags uint16, seq uint32) {
	e.start = len(e.buf)
	e.buf = native.AppendUint32(e.buf, 0)
	e.buf = native.AppendUint16(e.buf, typ)
	e.buf = native.AppendUint16(e.buf, flags)
	e.buf = native.AppendUint32(e.buf, seq)
	e.buf = native.AppendUint32(e.buf, 0) // port: the kernel fills it in
}

func (e *encoder) end() { native.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start)) }

// addFlags sets flags of the last message.
func (e *encoder) addFlags(flags uint16) {
	at := e.buf[e.start+6:]
	native.PutUint16(at, native.Uint16(at)|flags)
}

func (e *encoder) u8(v ...byte) { e.buf = append(e.buf, v...) }
func (e *encoder) u32(v uint32) { e.buf = native.AppendUint32(e.buf, v) }

func (e *encoder) attr(typ uint16, size int) {
	e.buf = native.AppendUint16(e.buf, uint16(attrHeaderLen+size))
	e.buf = native.AppendUint16(e.buf, typ)
}

func (e *encoder) pad() {
	for len(e.buf)%align != 0 {
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

func (e *encoder) attr8(typ uint16, v uint8) {
	e.attr(typ, 1)
	e.buf = append(e.buf, v, 0, 0, 0)
}

func (e *encoder) attr32(typ uint16, v uint32) {
	e.attr(typ, 4)
	e.buf = native.AppendUint32(e.buf, v)
}

// attrPort writes a port in network byte order.
func (e *encoder) attrPort(typ uint16, v uint16) {
	e.attr(typ, 2)
	e.buf = append(e.buf, byte(v>>8), byte(v), 0, 0)
}

func (e *encoder) attrMAC(typ uint16, m MAC) { e.bytes(typ, m[:]) }

func (e *encoder) attrIP(typ uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.bytes(typ, b[:])
		return
	}
	b := a.As16()
	e.bytes(typ, b[:])
}

// nest starts an attribute that holds attributes and returns what endNest wants.
func (e *encoder) nest(typ uint16) int {
	start := len(e.buf)
	e.attr(typ|attrNested, 0)
	return start
}

func (e *encoder) endNest(start int) { native.PutUint16(e.buf[start:], uint16(len(e.buf)-start)) }

// message is a received netlink message.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// messages walks over the messages in b; a truncated one ends the walk.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= headerLen {
			n := int(native.Uint32(b))
			if n < headerLen || n > len(b) {
				return
			}
			m := message{typ: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:]), body: b[headerLen:n]}
			if !yield(m) {
				return
			}
			b = b[min(aligned(n), len(b)):]
		}
	}
}

// attributes walks over the attributes in b without their flags; a truncated one ends the walk.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrHeaderLen {
			n := int(native.Uint16(b))
			if n < attrHeaderLen || n > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&attrTypeMask, b[attrHeaderLen:n]) {
				return
			}
			b = b[min(aligned(n), len(b)):]
		}
	}
}

// The decoders of values return zero for a value of a wrong size.

func decode8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func decode32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

func decodePort(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func decodeText(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func decodeMAC(b []byte) MAC {
	if len(b) != 6 {
		return MAC{}
	}
	return MAC(b)
}

func decodeIP(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
