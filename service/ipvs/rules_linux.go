package ipvs

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// family is what differs between the families.
type family struct {
	service      service.Family
	nf           nfnl.Family
	words        uint32 // registers that an address takes
	saddr, daddr uint32 // offsets in the header
	addr         nfnl.Type
	// ctDestination is the key of ct with a family of its own (Linux 4.16): the general one has no length for nft 1.0.6, which aborts when that is part of a set's key.
	ctDestination expr.CtKey
	icmp          byte
	unreachable   uint8 // the code for ports
	loopback      netip.Prefix
}

var families = [...]*family{
	{service.IPv4, nfnl.IPv4, 1, 12, 16, nfnl.TypeAddr4, unix.NFT_CT_DST_IP, unix.IPPROTO_ICMP, 3, netip.MustParsePrefix("127.0.0.0/8")},
	{service.IPv6, nfnl.IPv6, 4, 8, 24, nfnl.TypeAddr6, unix.NFT_CT_DST_IP6, unix.IPPROTO_ICMPV6, 4, netip.MustParsePrefix("::1/128")},
}

// Priorities. IPVS takes packets that come in at 99 in input (NF_IP_PRI_NAT_SRC - 1), and those of the node at -98 in output (NF_IP_PRI_NAT_DST + 2): net/netfilter/ipvs/ip_vs_core.c.
const (
	beforeNAT   = -105
	beforeInput = 90  // of IPVS, behind everybody's filters
	afterInput  = 101 // what IPVS did not take
	beforeLocal = -99 // of IPVS in output, behind nat
	afterLocal  = -97
	source      = 95 // nat postrouting, before package masq
	afterSource = 110
)

// reg numbers the registers of four bytes.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// The last registers keep what was looked up while others are used.
const kept, spare = 15, 14

const (
	ctKnown  = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	rtnLocal = 2 // RTN_LOCAL
)

func (f *family) bytes() uint32 { return 4 * f.words }

func words(n ...uint32) []byte {
	var b []byte
	for _, x := range n {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}

func (f *family) load(register, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.bytes()}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

// masked compares bits of a register's four bytes.
func masked(register, mask uint32, op expr.CmpOp, with uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: words(mask), Xor: words(0)},
		&expr.Cmp{Op: op, Register: register, Data: words(with)},
	}
}

// tuple loads address, protocol and port of the destination into the registers from 0 on; nodePort stands for the address zero.
func (f *family) tuple(nodePort bool) []expr.Any {
	addr := f.load(reg(0), f.daddr)
	if nodePort {
		addr = &expr.Immediate{Register: reg(0), Data: make([]byte, f.bytes())}
	}
	return []expr.Any{
		addr,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(f.words)},
		&expr.Payload{DestRegister: reg(f.words + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// original loads the same of the connection's first packet as it was sent: IPVS leaves that to conntrack (vs/conntrack=1).
func (f *family) original() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: f.ctDestination, Register: reg(0)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(f.words)},
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: reg(f.words + 1)},
	}
}

func not(s set, from uint32) expr.Any {
	return &expr.Lookup{SetName: s.name(), SourceRegister: from, Invert: true}
}

func member(s set, from uint32) expr.Any {
	return &expr.Lookup{SetName: s.name(), SourceRegister: from}
}

func lookup(s set, from, to uint32) expr.Any {
	return &expr.Lookup{SetName: s.name(), SourceRegister: from, DestRegister: to, IsDestRegSet: true}
}

// within matches packets whose address at an offset is in a range, or with CmpOpNeq is not.
func (f *family) within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	x := []expr.Any{f.load(reg(0), offset)}
	if p.Bits() < p.Addr().BitLen() {
		x = append(x, f.mask(reg(0), p.Bits()))
	}
	return append(x, &expr.Cmp{Op: op, Register: reg(0), Data: p.Masked().Addr().AsSlice()})
}

func (f *family) mask(register uint32, bits int) expr.Any {
	m := make([]byte, f.bytes())
	for i := range m {
		m[i] = ^byte(0xff >> min(max(bits-8*i, 0), 8))
	}
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: f.bytes(), Mask: m, Xor: make([]byte, f.bytes())}
}

// known matches packets of connections that were decided.
func known() []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: reg(0)}}, masked(reg(0), ctKnown, expr.CmpOpNeq, 0)...)
}

// marked matches packets with one of our marks.
func marked() []expr.Any {
	return append(one(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(spare)}), masked(reg(spare), markMask, expr.CmpOpEq, markTag)...)
}

func (f *family) local(source bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg(0), FlagSADDR: source, FlagDADDR: !source, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: words(rtnLocal)},
	}
}

// fromPod matches packets of local pods: one alternative per range. There is none if they cannot be told. A packet that the node sends has no device.
func (f *family) fromPod(l service.LocalPods, output bool) [][]expr.Any {
	device := func(data []byte) [][]expr.Any {
		if output {
			return nil
		}
		return [][]expr.Any{{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg(0)}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: data}}}
	}
	const size = 16
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
		name := make([]byte, size)
		copy(name, l.Interface)
		return device(name)
	case l.InterfacePrefix != "":
		return device([]byte(l.InterfacePrefix)[:min(len(l.InterfacePrefix), size)])
	}
	return nil
}

// chainSpec is a chain with its rules.
type chainSpec struct {
	nfnl.Chain
	rules [][]expr.Any
}

func (c *chainSpec) add(parts ...[]expr.Any) { c.rules = append(c.rules, slices.Concat(parts...)) }

func one(x ...expr.Any) []expr.Any { return x }

// ruleset is what the rules depend on.
type ruleset struct {
	node    service.Node
	ranges  []netip.Prefix // of ClusterIPs
	lengths []int          // of source ranges in use
}

func (r ruleset) equal(o ruleset) bool {
	return r.node.Equal(o.node) && slices.Equal(r.ranges, o.ranges) && slices.Equal(r.lengths, o.lengths)
}

// chains returns the chains of a family, those that others lead to first.
func (f *family) chains(r ruleset) []chainSpec {
	all := []chainSpec{f.sources(r)}
	for i, name := range []string{"pod", "host", "remote"} {
		all = append(all, f.class(r, name, i), f.masquerade("masquerade-"+name, i))
	}
	for _, c := range []struct {
		name string
		hook nfnl.Hook
	}{{"shield-prerouting", nfnl.Prerouting}, {"shield-output", nfnl.Output}} {
		shield := chainSpec{Chain: nfnl.Chain{Name: c.name, Type: "nat", Hook: c.hook, Priority: beforeNAT}}
		// Translated to itself: nobody behind can translate the destination of a packet to a Service, such as the portmap plugin, which takes all that is local for its own.
		shield.add(one(f.load(reg(0), f.daddr), member(vips, reg(0)), &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nf), RegAddrMin: reg(0)}))
		all = append(all, shield)
	}
	return append(all, f.input(r), f.output(r), f.stray("stray-input", nfnl.Input, afterInput), f.stray("stray-output", nfnl.Output, afterLocal), f.postrouting(r), f.unmark())
}

func (f *family) input(r ruleset) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: "input", Type: "filter", Hook: nfnl.Input, Priority: beforeInput}}
	c.add(known(), one(verdict(expr.VerdictAccept, "")))
	lo := make([]byte, 16)
	copy(lo, "lo")
	c.add(one(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg(0)}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: lo}, verdict(expr.VerdictAccept, ""))) // output has seen it
	f.restrict(&c, r)
	f.unallocated(&c, r)
	for _, x := range f.fromPod(r.node.LocalPods, false) {
		c.add(x, one(verdict(expr.VerdictGoto, "pod")))
	}
	c.add(one(verdict(expr.VerdictGoto, "remote")))
	return c
}

func (f *family) output(r ruleset) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: "output", Type: "filter", Hook: nfnl.Output, Priority: beforeLocal}}
	c.add(known(), one(verdict(expr.VerdictAccept, "")))
	c.add(marked(), one(verdict(expr.VerdictAccept, ""))) // IPVS sends it on: its destination is a real server by now
	f.restrict(&c, r)
	f.unallocated(&c, r)
	for _, x := range f.fromPod(r.node.LocalPods, true) {
		c.add(x, one(verdict(expr.VerdictGoto, "pod"))) // the bridge's own address counts as a pod's
	}
	c.add(one(verdict(expr.VerdictGoto, "host")))
	return c
}

func (f *family) restrict(c *chainSpec, r ruleset) {
	if len(r.lengths) > 0 {
		c.add(f.tuple(false), one(member(restricted, reg(0)), verdict(expr.VerdictJump, "sources")))
	}
}

// unallocated drops what is sent to addresses for ClusterIPs that no Service has, even if a Service that is gone has connections left there.
func (f *family) unallocated(c *chainSpec, r ruleset) {
	for _, p := range f.rangesOf(r) {
		c.add(f.within(f.daddr, p, expr.CmpOpEq), one(f.load(reg(0), f.daddr), not(vips, reg(0)), verdict(expr.VerdictDrop, "")))
	}
}

func (f *family) rangesOf(r ruleset) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range r.ranges {
		if service.FamilyOf(p.Addr()) == f.service {
			all = append(all, p)
		}
	}
	return all
}

// sources lets those in the ranges of a restricted frontend return: one look for each length of prefix in use, so that a hash finds them.
func (f *family) sources(r ruleset) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: "sources"}}
	for _, bits := range r.lengths {
		from := reg(f.words + 3)
		x := append(f.tuple(false), &expr.Immediate{Register: reg(f.words + 2), Data: words(uint32(bits))}, f.load(from, f.saddr))
		if bits < int(8*f.bytes()) {
			x = append(x, f.mask(from, bits))
		}
		c.add(x, one(member(sources, reg(0)), verdict(expr.VerdictReturn, "")))
	}
	c.add(one(verdict(expr.VerdictDrop, "")))
	return c
}

// class decides for one class of clients what does not go to the virtual server at the address.
func (f *family) class(r ruleset, name string, i int) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: name}}
	setMark := one(&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg(kept)}, verdict(expr.VerdictAccept, ""))
	c.add(f.tuple(false), one(member(classes[i].drops, reg(0)), verdict(expr.VerdictDrop, "")))
	c.add(f.tuple(false), one(lookup(classes[i].marks, reg(0), reg(kept))), setMark)
	c.add(f.tuple(false), one(lookup(frontends, reg(0), reg(kept)), verdict(expr.VerdictAccept, "")))
	// NodePorts: of the addresses of the node, but not of those that are local for their Services only.
	guards := one(f.load(reg(0), f.daddr), not(vips, reg(0)))
	guards = slices.Concat(guards, f.local(false), f.within(f.daddr, f.loopback, expr.CmpOpNeq))
	for _, p := range f.rangesOf(r) {
		guards = append(guards, f.within(f.daddr, p, expr.CmpOpNeq)...)
	}
	for _, where := range f.nodePorts(r.node) {
		c.add(f.tuple(true), one(member(classes[i].drops, reg(0))), guards, where, one(verdict(expr.VerdictDrop, "")))
		c.add(f.tuple(true), one(lookup(classes[i].marks, reg(0), reg(kept))), guards, where, setMark)
	}
	return c
}

// nodePorts returns one alternative per range of addresses that take NodePorts.
func (f *family) nodePorts(n service.Node) [][]expr.Any {
	if len(n.NodePortAddrs) == 0 {
		return [][]expr.Any{nil}
	}
	var all [][]expr.Any
	for _, p := range n.NodePortAddrs {
		if service.FamilyOf(p.Addr()) == f.service {
			all = append(all, f.within(f.daddr, p, expr.CmpOpEq))
		}
	}
	return all
}

// stray gets what IPVS did not take. Without it, all ports of this node would be reachable at the addresses of Services (kubernetes#72236). Pings are answered.
func (f *family) stray(name string, h nfnl.Hook, priority int32) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: name, Type: "filter", Hook: h, Priority: priority}}
	c.add(known(), one(verdict(expr.VerdictAccept, "")))
	c.add(one(
		f.load(reg(0), f.daddr), member(vips, reg(0)),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)}, &expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: []byte{f.icmp}},
		&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.unreachable}))
	return c
}

func (f *family) postrouting(r ruleset) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: "postrouting", Type: "nat", Hook: nfnl.Postrouting, Priority: source}}
	for _, x := range f.fromPod(r.node.LocalPods, false) {
		c.add(x, one(verdict(expr.VerdictGoto, "masquerade-pod")))
	}
	toHost := one(verdict(expr.VerdictGoto, "masquerade-host"))
	c.add(one(&expr.Meta{Key: expr.MetaKeyIIF, Register: reg(0)}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: words(0)}), toHost) // from no device (Linux 5.7)
	c.add(f.local(true), one(f.load(reg(0), f.saddr), not(vips, reg(0))), toHost)
	c.add(one(verdict(expr.VerdictGoto, "masquerade-remote")))
	return c
}

// masquerade translates the source where a frontend's routes say so, and of connections of an endpoint to itself, whose answers would not come back here.
func (f *family) masquerade(name string, class int) chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: name}}
	masquerade := one(&expr.Masq{FullyRandom: true})
	mark := append(marked(), &expr.Meta{Key: expr.MetaKeyMARK, Register: reg(spare)}, lookup(marks, reg(spare), reg(kept)))
	hairpins := one(f.load(reg(0), f.saddr), f.load(reg(f.words), f.daddr), member(hairpin, reg(0)))
	for _, found := range [][]expr.Any{append(f.original(), lookup(frontends, reg(0), reg(kept))), mark} {
		c.add(found, hairpins, masquerade)
		c.add(found, masked(reg(kept), classes[class].mask, expr.CmpOpNeq, 0), masquerade)
		c.add(found, one(verdict(expr.VerdictAccept, "")))
	}
	return c
}

// unmark takes our mark from packets before they leave: they may be put into a tunnel, whose packets would have it too.
func (f *family) unmark() chainSpec {
	c := chainSpec{Chain: nfnl.Chain{Name: "unmark", Type: "filter", Hook: nfnl.Postrouting, Priority: afterSource}}
	c.add(marked(), one(&expr.Immediate{Register: reg(0), Data: words(0)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg(0)}))
	return c
}
