package ipvs

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/service"
)

// The generic netlink family IPVS (include/uapi/linux/ip_vs.h).
const (
	genlVersion = 1

	cmdNewService = 1
	cmdSetService = 2
	cmdDelService = 3
	cmdGetService = 4
	cmdNewDest    = 5
	cmdSetDest    = 6
	cmdDelDest    = 7
	cmdGetDest    = 8
	cmdSetConfig  = 12
	cmdGetConfig  = 13

	attrService    = 1
	attrDest       = 2
	attrTimeoutTCP = 4 // then FIN and UDP

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcMark      = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9

	dstAddr    = 1
	dstPort    = 2
	dstForward = 3
	dstWeight  = 4
	dstUpper   = 5
	dstLower   = 6
	dstActive  = 7
	dstInact   = 8
	dstFamily  = 11 // Linux 3.18; without it the kernel takes the first bytes of an IPv6 address for an IPv4 one

	forwardMasq = 0
	forwardMask = 7
)

const (
	headerLen = unix.NLMSG_HDRLEN + unix.GENL_HDRLEN
	attrLen   = unix.SizeofNlAttr

	nlaTypeMask = 0x3fff
)

var native = binary.NativeEndian

// encoder appends generic netlink messages to a buffer. github.com/moby/ipvs takes 68 allocations and a system call for each of them.
type encoder struct {
	buf   []byte
	start int // of the message being written
}

func (e *encoder) begin(family uint16, cmd uint8, flags uint16, seq uint32) {
	e.start = len(e.buf)
	e.buf = native.AppendUint32(e.buf, 0)
	e.buf = native.AppendUint16(e.buf, family)
	e.buf = native.AppendUint16(e.buf, unix.NLM_F_REQUEST|flags)
	e.buf = native.AppendUint32(e.buf, seq)
	e.buf = native.AppendUint32(e.buf, 0)
	e.buf = append(e.buf, cmd, genlVersion, 0, 0)
}

func (e *encoder) end() { native.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start)) }

func (e *encoder) nest(typ uint16) int {
	start := len(e.buf)
	e.head(typ, 0)
	return start
}

func (e *encoder) endNest(start int) { native.PutUint16(e.buf[start:], uint16(len(e.buf)-start)) }

func (e *encoder) head(typ uint16, size int) {
	e.buf = native.AppendUint16(e.buf, uint16(attrLen+size))
	e.buf = native.AppendUint16(e.buf, typ)
}

func (e *encoder) u16(typ, v uint16) {
	e.head(typ, 2)
	e.buf = native.AppendUint16(e.buf, v)
	e.buf = append(e.buf, 0, 0)
}

func (e *encoder) port(typ, v uint16) {
	e.head(typ, 2)
	e.buf = binary.BigEndian.AppendUint16(e.buf, v)
	e.buf = append(e.buf, 0, 0)
}

func (e *encoder) u32(typ uint16, v uint32) {
	e.head(typ, 4)
	e.buf = native.AppendUint32(e.buf, v)
}

func (e *encoder) text(typ uint16, v string) {
	e.head(typ, len(v)+1)
	e.buf = append(e.buf, v...)
	e.buf = append(e.buf, 0)
	for len(e.buf)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) addr(typ uint16, a netip.Addr) {
	if a.Is4() {
		four := a.As4()
		e.head(typ, 4)
		e.buf = append(e.buf, four[:]...)
		return
	}
	sixteen := a.As16()
	e.head(typ, 16)
	e.buf = append(e.buf, sixteen[:]...)
}

func addressFamily(f service.Family) uint16 {
	if f == service.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// netmask is which bits of a client's address count for persistence: all. IPv4 takes a mask, IPv6 a length.
func netmask(f service.Family) uint32 {
	if f == service.IPv6 {
		return 128
	}
	return 0xffffffff
}

// key writes what names a virtual server, and leaves the attribute open.
func (e *encoder) key(k Key) int {
	n := e.nest(attrService)
	e.u16(svcFamily, addressFamily(k.Family))
	if k.Mark != 0 {
		e.u32(svcMark, k.Mark)
		return n
	}
	e.u16(svcProtocol, uint16(k.Protocol))
	e.addr(svcAddr, k.Addr.Addr())
	e.port(svcPort, k.Addr.Port())
	return n
}

// change writes the message of a change.
func (e *encoder) change(family uint16, c Change, flags uint16, seq uint32) {
	cmd := [...]uint8{AddServer: cmdNewService, SetServer: cmdSetService, DeleteServer: cmdDelService, AddReal: cmdNewDest, SetReal: cmdSetDest, DeleteReal: cmdDelDest}[c.Verb]
	e.begin(family, cmd, flags, seq)
	n := e.key(c.Key)
	if c.Verb == AddServer || c.Verb == SetServer {
		e.text(svcScheduler, c.Settings.Scheduler)
		e.head(svcFlags, 8)
		e.buf = native.AppendUint32(e.buf, uint32(c.Settings.Flags))
		e.buf = native.AppendUint32(e.buf, ^uint32(hashed))
		e.u32(svcTimeout, c.Settings.Timeout)
		e.u32(svcNetmask, netmask(c.Key.Family))
	}
	e.endNest(n)
	if c.Verb >= AddReal {
		n = e.nest(attrDest)
		e.addr(dstAddr, c.Real.Addr())
		e.port(dstPort, c.Real.Port())
		e.u16(dstFamily, addressFamily(service.FamilyOf(c.Real.Addr())))
		if c.Verb != DeleteReal {
			e.u32(dstForward, forwardMasq)
			e.u32(dstWeight, uint32(c.Weight))
			e.u32(dstUpper, 0)
			e.u32(dstLower, 0)
		}
		e.endNest(n)
	}
	e.end()
}

// attributes calls f for each attribute; a truncated one ends the walk.
func attributes(b []byte, f func(typ uint16, v []byte)) {
	for len(b) >= attrLen {
		n := int(native.Uint16(b))
		if n < attrLen || n > len(b) {
			return
		}
		f(native.Uint16(b[2:])&nlaTypeMask, b[attrLen:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

func number(v []byte) uint32 {
	switch {
	case len(v) >= 4:
		return native.Uint32(v)
	case len(v) >= 2:
		return uint32(native.Uint16(v))
	}
	return 0
}

// decodeServer reads a virtual server without its real servers. One of a protocol that Services do not have is not ok.
func decodeServer(b []byte) (s Server, ok bool) {
	var addr []byte
	var port uint16
	attributes(b, func(typ uint16, v []byte) {
		switch typ {
		case svcFamily:
			s.Family = service.IPv4
			if number(v) == unix.AF_INET6 {
				s.Family = service.IPv6
			}
		case svcProtocol:
			s.Protocol = service.Protocol(number(v))
		case svcAddr:
			addr = v
		case svcPort:
			if len(v) >= 2 {
				port = binary.BigEndian.Uint16(v)
			}
		case svcMark:
			s.Mark = number(v)
		case svcScheduler:
			s.Scheduler = cString(v)
		case svcFlags:
			s.Flags = Flags(number(v)) &^ hashed
		case svcTimeout:
			s.Timeout = number(v)
		}
	})
	if s.Flags&Persistent == 0 {
		s.Timeout = 0 // the kernel keeps what it was told and does not use it
	}
	if s.Mark != 0 {
		s.Protocol = 0
		return s, s.Family != 0
	}
	s.Addr, ok = makeAddrPort(s.Family, addr, port)
	return s, ok
}

// decodeReal reads a real server of a family.
func decodeReal(f service.Family, b []byte) (r Real, ok bool) {
	var addr []byte
	var port uint16
	attributes(b, func(typ uint16, v []byte) {
		switch typ {
		case dstAddr:
			addr = v
		case dstPort:
			if len(v) >= 2 {
				port = binary.BigEndian.Uint16(v)
			}
		case dstForward:
			method := number(v) & forwardMask
			r.Foreign = method != forwardMasq
		case dstWeight:
			r.Weight = int32(number(v))
		case dstActive:
			r.Active = number(v)
		case dstInact:
			r.Inactive = number(v)
		}
	})
	r.Addr, ok = makeAddrPort(f, addr, port)
	return r, ok
}

// makeAddrPort reads the kernel's union nf_inet_addr: 16 bytes for both families.
func makeAddrPort(f service.Family, b []byte, port uint16) (netip.AddrPort, bool) {
	switch {
	case f == service.IPv4 && len(b) >= 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), port), true
	case f == service.IPv6 && len(b) >= 16:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), port), true
	}
	return netip.AddrPort{}, false
}

func cString(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}
