package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attributes of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	msgNew    = unix.NFNL_SUBSYS_CTNETLINK << 8 // IPCTNL_MSG_CT_NEW, 0
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaFilterOrigFlags = 1

	statusSeenReply = 1 << 1 // IPS_SEEN_REPLY, include/uapi/linux/netfilter/nf_conntrack_common.h

	// net/netfilter/nf_internals.h: which parts of the tuple a dump is filtered by (Linux 5.8).
	filterDst     = 1 << 1
	filterProto   = 1 << 3
	filterDstPort = 1 << 5
)

const (
	headerLen  = 16 // struct nlmsghdr
	genLen     = 4  // struct nfgenmsg
	nlaLen     = 4  // struct nlattr
	nlaNested  = 1 << 15
	nlaTypeMsk = 0x3fff
)

var (
	native = binary.NativeEndian
	wire   = binary.BigEndian
)

func aligned(n int) int { return (n + 3) &^ 3 }

// encoder appends netlink messages to a buffer.
type encoder struct {
	buf   []byte
	start int // of the message that is being written
}

func (e *encoder) begin(typ, flags uint16, seq uint32) {
	e.start = len(e.buf)
	e.buf = native.AppendUint32(e.buf, 0)
	e.buf = native.AppendUint16(e.buf, typ)
	e.buf = native.AppendUint16(e.buf, flags|unix.NLM_F_REQUEST)
	e.buf = native.AppendUint32(e.buf, seq)
	e.buf = native.AppendUint32(e.buf, 0)
}

func (e *encoder) end() { native.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start)) }

// netfilter appends struct nfgenmsg.
func (e *encoder) netfilter(f Family) {
	e.buf = append(e.buf, addressFamily(f), unix.NFNETLINK_V0, 0, 0)
}

func addressFamily(f Family) byte {
	if f == IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (e *encoder) attr(typ uint16, v ...byte) {
	e.buf = native.AppendUint16(e.buf, uint16(nlaLen+len(v)))
	e.buf = native.AppendUint16(e.buf, typ)
	e.buf = append(e.buf, v...)
	for len(e.buf)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

// nest opens an attribute; close with endNest and what nest returned.
func (e *encoder) nest(typ uint16) int {
	at := len(e.buf)
	e.attr(typ | nlaNested)
	return at
}

func (e *encoder) endNest(at int) { native.PutUint16(e.buf[at:], uint16(len(e.buf)-at)) }

func (e *encoder) addr(typ uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.attr(typ, b[:]...)
		return
	}
	b := a.As16()
	e.attr(typ+(ctaIPv6Src-ctaIPv4Src), b[:]...)
}

func (e *encoder) port(typ, p uint16) { e.attr(typ, byte(p>>8), byte(p)) }

// tuple appends one direction of a flow.
func (e *encoder) tuple(typ uint16, p Protocol, src, dst netip.AddrPort) {
	t := e.nest(typ)
	ip := e.nest(ctaTupleIP)
	e.addr(ctaIPv4Src, src.Addr())
	e.addr(ctaIPv4Dst, dst.Addr())
	e.endNest(ip)
	proto := e.nest(ctaTupleProto)
	e.attr(ctaProtoNum, byte(p))
	e.port(ctaProtoSrcPort, src.Port())
	e.port(ctaProtoDstPort, dst.Port())
	e.endNest(proto)
	e.endNest(t)
}

// filter appends what the kernel has to filter a dump by. Not by IPv6 addresses: Linux 5.8 to 6.18 at least compare them the wrong way round, and send all flows but those
// asked for (ctnetlink_filter_match_tuple; the contract found it).
func (e *encoder) filter(f Filter) {
	flags := uint32(filterProto)
	t := e.nest(ctaTupleOrig)
	if f.Dst.Is4() {
		flags |= filterDst
		ip := e.nest(ctaTupleIP)
		e.addr(ctaIPv4Dst, f.Dst)
		e.endNest(ip)
	}
	proto := e.nest(ctaTupleProto)
	e.attr(ctaProtoNum, byte(f.Protocol))
	if f.Port != 0 {
		flags |= filterDstPort
		e.port(ctaProtoDstPort, f.Port)
	}
	e.endNest(proto)
	e.endNest(t)
	n := e.nest(ctaFilter)
	e.attr(ctaFilterOrigFlags, native.AppendUint32(nil, flags)...)
	e.endNest(n)
}

// delete appends the request to remove a flow. Without a tuple the kernel would remove every flow there is, so it is always there.
func (e *encoder) delete(f *Flow, flags uint16, seq uint32) {
	e.begin(msgDelete, flags, seq)
	e.netfilter(familyOf(f.Dst.Addr()))
	e.tuple(ctaTupleOrig, f.Protocol, f.Src, f.Dst)
	e.attr(ctaID, byte(f.ID>>24), byte(f.ID>>16), byte(f.ID>>8), byte(f.ID))
	e.end()
}

// next splits the first attribute off b; typ 0 is the end.
func next(b []byte) (typ uint16, v, rest []byte) {
	if len(b) < nlaLen {
		return 0, nil, nil
	}
	n := int(native.Uint16(b))
	if n < nlaLen || n > len(b) {
		return 0, nil, nil
	}
	return native.Uint16(b[2:]) & nlaTypeMsk, b[nlaLen:n], b[min(aligned(n), len(b)):]
}

// decode reads a flow from the attributes of a message. It reports false for what is not a whole flow of zone 0, with ports.
func (f *Flow) decode(b []byte) bool {
	*f = Flow{}
	var orig, reply bool
	for len(b) > 0 {
		typ, v, rest := next(b)
		switch typ {
		case 0:
			return false
		case ctaTupleOrig:
			f.Protocol, f.Src, f.Dst, orig = decodeTuple(v)
		case ctaTupleReply:
			_, f.ReplySrc, f.ReplyDst, reply = decodeTuple(v)
		case ctaStatus:
			f.Replied = len(v) == 4 && wire.Uint32(v)&statusSeenReply != 0
		case ctaID:
			if len(v) == 4 {
				f.ID = wire.Uint32(v)
			}
		case ctaZone:
			if len(v) != 2 || wire.Uint16(v) != 0 {
				return false
			}
		}
		b = rest
	}
	return orig && reply
}

func decodeTuple(b []byte) (p Protocol, src, dst netip.AddrPort, ok bool) {
	var from, to netip.Addr
	var ports [2]uint16
	seen := 0
	for len(b) > 0 {
		typ, v, rest := next(b)
		if typ == 0 {
			break
		}
		b = rest
		for len(v) > 0 {
			inner, value, more := next(v)
			if inner == 0 {
				break
			}
			v = more
			switch {
			case typ == ctaTupleIP && (inner == ctaIPv4Src || inner == ctaIPv6Src):
				from, _ = netip.AddrFromSlice(value)
			case typ == ctaTupleIP && (inner == ctaIPv4Dst || inner == ctaIPv6Dst):
				to, _ = netip.AddrFromSlice(value)
			case typ == ctaTupleProto && inner == ctaProtoNum && len(value) == 1:
				p = Protocol(value[0])
			case typ == ctaTupleProto && (inner == ctaProtoSrcPort || inner == ctaProtoDstPort) && len(value) == 2:
				ports[inner-ctaProtoSrcPort] = wire.Uint16(value)
				seen++
			}
		}
	}
	return p, netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1]), seen == len(ports) && from.IsValid() && to.IsValid()
}
