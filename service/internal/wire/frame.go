package wire

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"github.com/podnet/podnet/service"
)

// probe is the content of a packet: what it is made of, and what of it is left where it comes out. id survives every translation: it is TCP's sequence number, UDP's payload, SCTP's initiate tag.
type probe struct {
	from, to netip.AddrPort
	protocol service.Protocol
	id       uint32
}

// The protocols that are none of Services.
const (
	icmp4    = 1
	icmp6    = 58
	sentinel = 253 // for experiments (RFC 3692)
)

// packet returns the IP packet of a probe: a SYN, a datagram, an INIT.
func (p probe) packet() []byte {
	body := p.body()
	var header []byte
	src, dst := p.from.Addr().AsSlice(), p.to.Addr().AsSlice()
	if p.to.Addr().Is4() {
		header = make([]byte, 20)
		header[0], header[8], header[9] = 0x45, 64, byte(p.protocol)
		binary.BigEndian.PutUint16(header[2:], uint16(20+len(body)))
		copy(header[12:], src)
		copy(header[16:], dst)
		binary.BigEndian.PutUint16(header[10:], checksum(header, 0))
	} else {
		header = make([]byte, 40)
		header[0], header[6], header[7] = 0x60, byte(p.protocol), 64
		binary.BigEndian.PutUint16(header[4:], uint16(len(body)))
		copy(header[8:], src)
		copy(header[24:], dst)
	}
	pseudo := uint32(p.protocol) + uint32(len(body))
	for _, a := range [][]byte{src, dst} {
		for i := 0; i < len(a); i += 2 {
			pseudo += uint32(binary.BigEndian.Uint16(a[i:]))
		}
	}
	switch p.protocol {
	case service.TCP:
		binary.BigEndian.PutUint16(body[16:], checksum(body, pseudo))
	case service.UDP:
		binary.BigEndian.PutUint16(body[6:], checksum(body, pseudo))
	case service.SCTP:
		binary.LittleEndian.PutUint32(body[8:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	}
	return append(header, body...)
}

// body returns the transport header with a zero checksum.
func (p probe) body() []byte {
	var b []byte
	switch p.protocol {
	case service.TCP:
		b = make([]byte, 20)
		binary.BigEndian.PutUint32(b[4:], p.id)
		b[12], b[13], b[14], b[15] = 5<<4, 2, 0xff, 0xff // SYN
	case service.UDP:
		b = make([]byte, 12)
		binary.BigEndian.PutUint16(b[4:], 12)
		binary.BigEndian.PutUint32(b[8:], p.id)
	case service.SCTP:
		b = make([]byte, 32)
		b[12], b[15] = 1, 20 // a chunk INIT of 20 bytes
		binary.BigEndian.PutUint32(b[16:], p.id)
		binary.BigEndian.PutUint32(b[20:], 65536)
		b[25], b[27] = 1, 1 // one stream each way
		binary.BigEndian.PutUint32(b[28:], p.id)
	default:
		b = make([]byte, 8)
		binary.BigEndian.PutUint32(b[4:], p.id)
		return b
	}
	binary.BigEndian.PutUint16(b[0:], p.from.Port())
	binary.BigEndian.PutUint16(b[2:], p.to.Port())
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parse reads an IP packet. unreachable says that it is an ICMP error "port unreachable"; the probe is then the one it answers.
func parse(b []byte) (p probe, unreachable, ok bool) {
	protocol, src, dst, body, ok := network(b)
	if !ok {
		return probe{}, false, false
	}
	switch {
	case protocol == icmp4 && len(body) >= 8 && body[0] == 3 && body[1] == 3, protocol == icmp6 && len(body) >= 8 && body[0] == 1 && body[1] == 4:
		p, _, ok = parse(body[8:])
		return p, true, ok
	case protocol == sentinel && len(body) >= 8:
		return probe{from: netip.AddrPortFrom(src, 0), to: netip.AddrPortFrom(dst, 0), protocol: sentinel, id: binary.BigEndian.Uint32(body[4:])}, false, true
	case len(body) < 8:
		return probe{}, false, false
	}
	p.protocol = service.Protocol(protocol)
	p.from = netip.AddrPortFrom(src, binary.BigEndian.Uint16(body[0:]))
	p.to = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(body[2:]))
	at := map[service.Protocol]int{service.TCP: 4, service.UDP: 8, service.SCTP: 16}[p.protocol]
	if at == 0 || len(body) < at+4 {
		return probe{}, false, false
	}
	p.id = binary.BigEndian.Uint32(body[at:])
	return p, false, true
}

// network reads the IP header.
func network(b []byte) (protocol byte, src, dst netip.Addr, body []byte, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		n := int(b[0]&15) * 4
		if len(b) < n {
			return 0, src, dst, nil, false
		}
		return b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[n:], true
	case len(b) >= 40 && b[0]>>4 == 6:
		return b[6], netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:], true
	}
	return 0, src, dst, nil, false
}
