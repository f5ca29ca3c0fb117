package nft

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/service"
)

// The registers of a rule: with an address of w words (1 or 4), see family.key and family.affine.
//
//	0          nothing, so that what a map returns can begin one before the address
//	1          address: the destination, later the endpoint's
//	1+w        protocol, later the class, later the endpoint's port
//	2+w        port, later the id
//	3+w        index of an endpoint, or kind
//	4+w        source address
//
// A lookup in frontends returns three words to register w, of which the first means nothing. It is there because nft (1.0.6) knows of a map's result only in its first register, believes it
// to be of length 0, and aborts when that is part of a key (netlink_parse_concat_expr: Assertion `consumed > 0' failed); so it may not be read again. What nft shows of these rules is
// not what they do. For the same reason a "filler", a payload that nobody reads, precedes lookups whose result is read together with others.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

const (
	rtnLocal    = 2      // RTN_LOCAL
	statusDNAT  = 1 << 5 // IPS_DST_NAT
	dynsetDel   = 2      // NFT_DYNSET_OP_DELETE, Linux 5.4
	ifnameBytes = 16
)

func words(n ...uint32) []byte {
	var b []byte
	for _, x := range n {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}

func payload(register, offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}

func lookup(set string, from, to uint32) expr.Any {
	return &expr.Lookup{SetName: set, SourceRegister: from, DestRegister: to, IsDestRegSet: true}
}

func member(set string, from uint32) expr.Any {
	return &expr.Lookup{SetName: set, SourceRegister: from}
}

func immediate(register, n uint32) expr.Any {
	return &expr.Immediate{Register: register, Data: words(n)}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func (f *family) addrBytes() uint32 { return 4 * f.words }

// tuple loads what a frontend is found by. A NodePort is found by the unspecified address.
func (f *family) tuple(nodePort bool) []expr.Any {
	addr := payload(reg(1), f.daddr, f.addrBytes())
	if nodePort {
		addr = &expr.Immediate{Register: reg(1), Data: make([]byte, f.addrBytes())}
	}
	return []expr.Any{
		addr,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(1 + f.words)},
		&expr.Payload{DestRegister: reg(2 + f.words), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// key loads class and id of the frontend. Each rule does it by itself: registers do not outlive a rule (enforced since Linux 6.11).
func (f *family) key(nodePort bool) []expr.Any {
	return append(f.tuple(nodePort), lookup(f.name(setFrontends), reg(1), reg(f.words)))
}

// classes sends the packet to the chain of its class. What stands between key and this may use the registers 0 to w only, of 4 registers with IPv6.
func (f *family) classes() expr.Any {
	return lookup(f.name(setClasses), reg(1+f.words), unix.NFT_REG_VERDICT)
}

// dnat sends the connection to the endpoint in the registers.
func (f *family) dnat() expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nf), RegAddrMin: reg(1), RegProtoMin: reg(1 + f.words)}
}

// random chooses one of n endpoints of a kind.
func (f *family) random(kind, n uint32) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: reg(3 + f.words), Modulus: n, Type: unix.NFT_NG_RANDOM, Offset: kind << 31},
		lookup(f.name(setEndpoints), reg(2+f.words), reg(1)),
	}
}

// first chooses the first endpoint of a kind.
func (f *family) first(kind uint32) []expr.Any {
	return []expr.Any{immediate(reg(3+f.words), kind<<31), lookup(f.name(setEndpoints), reg(2+f.words), reg(1))}
}

// client completes the key of affinity: id, kind, source address.
func (f *family) client(kind uint32) []expr.Any {
	return []expr.Any{immediate(reg(3+f.words), kind), payload(reg(4+f.words), f.saddr, f.addrBytes())}
}

func (f *family) remember(op, data uint32, timeout time.Duration) expr.Any {
	return &expr.Dynset{SetName: f.name(setAffinity), SrcRegKey: reg(2 + f.words), SrcRegData: data, Operation: op, Timeout: timeout}
}

// again sends a client that is remembered to its endpoint, if that is still one, and keeps it in mind for the whole time again. The data that goes with the update is not used:
// an update leaves the data of an element alone. Were the element gone in this very moment, it would be added with nonsense, which is no active endpoint.
func (f *family) again(nodePort bool, kind uint32, timeout time.Duration) []expr.Any {
	x := append(f.key(nodePort), f.client(kind)...)
	return append(x,
		payload(reg(1), f.filler, f.addrBytes()+4),
		lookup(f.name(setAffinity), reg(2+f.words), reg(0)),
		member(f.name(setActive), reg(1)),
		f.remember(unix.NFT_DYNSET_OP_UPDATE, reg(2+f.words), timeout),
		f.dnat())
}

// forget makes room for another endpoint: adding does not replace.
func (f *family) forget(nodePort bool, kind uint32) []expr.Any {
	return append(append(f.key(nodePort), f.client(kind)...), f.remember(dynsetDel, reg(2+f.words), 0))
}

// choose sends a client to an endpoint and keeps that in mind.
func (f *family) choose(nodePort bool, kind, n uint32, timeout time.Duration) []expr.Any {
	x := append(f.key(nodePort), payload(reg(0), f.filler, f.addrBytes()+8))
	x = append(x, f.random(kind, n)...)
	x = append(x, f.client(kind)...)
	return append(x, f.remember(unix.NFT_DYNSET_OP_ADD, reg(0), timeout), f.dnat())
}

// local matches packets from or to an address of this node.
func local(source bool) []expr.Any { return addrType(source, expr.CmpOpEq) }

// addrType compares the type of an address with "local".
func addrType(source bool, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg(0), FlagSADDR: source, FlagDADDR: !source, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: reg(0), Data: words(rtnLocal)},
	}
}

// within matches packets whose address at an offset is in a range, or with CmpOpNeq is not.
func (f *family) within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	x := []expr.Any{payload(reg(0), offset, f.addrBytes())}
	if p.Bits() < p.Addr().BitLen() {
		x = append(x, f.mask(reg(0), p.Bits()))
	}
	return append(x, &expr.Cmp{Op: op, Register: reg(0), Data: p.Masked().Addr().AsSlice()})
}

// mask keeps the first bits of an address.
func (f *family) mask(register uint32, bits int) expr.Any {
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: f.addrBytes(), Mask: prefixMask(int(f.addrBytes()), bits), Xor: make([]byte, f.addrBytes())}
}

func prefixMask(size, bits int) []byte {
	m := make([]byte, size)
	for i := range m {
		n := min(max(bits-8*i, 0), 8)
		m[i] = ^byte(0xff >> n)
	}
	return m
}

// fromPod matches packets of local pods: one alternative per range. There is none if they cannot be told.
func (f *family) fromPod(l service.LocalPods) [][]expr.Any {
	name := func(data []byte) [][]expr.Any {
		return [][]expr.Any{{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg(0)}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: data}}}
	}
	switch {
	case len(l.CIDRs) > 0:
		var all [][]expr.Any
		for _, p := range l.CIDRs {
			if service.FamilyOf(p.Addr()) == f.service {
				all = append(all, f.within(f.saddr, p, expr.CmpOpEq))
			}
		}
		return all
	case l.Interface != "":
		return name(append([]byte(l.Interface), make([]byte, max(ifnameBytes-len(l.Interface), 0))...)[:ifnameBytes])
	case l.InterfacePrefix != "":
		return name([]byte(l.InterfacePrefix)[:min(len(l.InterfacePrefix), ifnameBytes)])
	}
	return nil
}

// setMark sets the mark's bit.
func setMark(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: words(^bit), Xor: words(bit)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg(0)},
	}
}

// takeMark matches packets with the bit and clears it.
func takeMark(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: words(bit), Xor: words(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: words(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: words(^bit), Xor: words(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg(0)},
	}
}

// hairpin matches connections of an endpoint to itself.
func (f *family) hairpin() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: words(statusDNAT), Xor: words(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: words(0)},
		payload(reg(0), f.saddr, f.addrBytes()),
		payload(reg(f.words), f.daddr, f.addrBytes()),
		member(f.name(setHairpin), reg(0)),
	}
}

// reject answers with ICMP port unreachable.
func (f *family) reject() expr.Any {
	if f.service == service.IPv6 {
		return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 4}
	}
	return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}
}
