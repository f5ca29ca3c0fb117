package nfnltest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
)

// Dump returns all tables as text: sets with their elements, sorted, and chains with the expressions of their rules, registers counted from 0 on.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, t := range k.tables {
		fmt.Fprintf(&b, "table %s\n", t.name)
		sets := slices.Clone(t.sets)
		slices.SortFunc(sets, func(a, b *set) int { return strings.Compare(a.Name, b.Name) })
		for _, s := range sets {
			s.dump(&b)
		}
		for _, c := range t.chains {
			c.dump(&b)
		}
	}
	return b.String()
}

func (s *set) dump(b *strings.Builder) {
	fmt.Fprintf(b, "  set %s: %s", s.Name, types(s.Key))
	if s.Data != 0 {
		fmt.Fprintf(b, " -> %s", types(s.Data))
	}
	for _, f := range []struct {
		on   bool
		name string
	}{{s.Timeout, " timeout"}, {s.Dynamic, " dynamic"}, {s.Size != 0, fmt.Sprintf(" size %d", s.Size)}} {
		if f.on {
			b.WriteString(f.name)
		}
	}
	b.WriteByte('\n')
	for _, key := range slices.Sorted(maps.Keys(s.elements)) {
		x := s.elements[key]
		fmt.Fprintf(b, "    %s", values(s.Key, x.Key))
		switch {
		case s.Data == nfnl.TypeVerdict:
			fmt.Fprintf(b, " -> %s %s", verdictNames[x.Verdict.Kind], x.Verdict.Chain)
		case s.Data != 0:
			fmt.Fprintf(b, " -> %s", values(s.Data, x.Data))
		}
		b.WriteByte('\n')
	}
}

var verdictNames = map[nfnl.VerdictKind]string{nfnl.Accept: "accept", nfnl.Drop: "drop", nfnl.Jump: "jump", nfnl.Goto: "goto", nfnl.Return: "return"}

func types(t nfnl.Type) string {
	names := map[nfnl.Type]string{
		nfnl.TypeVerdict: "verdict", nfnl.TypeAddr4: "addr", nfnl.TypeAddr6: "addr", nfnl.TypeProto: "proto", nfnl.TypePort: "port",
		nfnl.TypeMark: "number", nfnl.TypeIfname: "ifname",
	}
	var all []string
	for _, f := range t.Fields() {
		all = append(all, names[f])
	}
	return strings.Join(all, " . ")
}

func values(t nfnl.Type, v []byte) string {
	var all []string
	for _, f := range t.Fields() {
		n := f.Len()
		if len(v) < n {
			return fmt.Sprintf("%x", v)
		}
		all = append(all, one(f, v[:n]))
		v = v[min((n+3)&^3, len(v)):]
	}
	return strings.Join(all, " . ")
}

func one(t nfnl.Type, v []byte) string {
	switch t {
	case nfnl.TypeAddr4, nfnl.TypeAddr6:
		a, _ := netip.AddrFromSlice(v)
		return a.String()
	case nfnl.TypeProto:
		if name, ok := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}[v[0]]; ok {
			return name
		}
		return fmt.Sprint(v[0])
	case nfnl.TypePort:
		return fmt.Sprint(binary.BigEndian.Uint16(v))
	case nfnl.TypeMark:
		n := binary.NativeEndian.Uint32(v)
		if n >= 1<<31 {
			return fmt.Sprintf("%#x", n)
		}
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%x", v)
}

func (c *chain) dump(b *strings.Builder) {
	fmt.Fprintf(b, "  chain %s", c.Name)
	if c.Type != "" {
		hooks := map[nfnl.Hook]string{nfnl.Prerouting: "prerouting", nfnl.Input: "input", nfnl.Forward: "forward", nfnl.Output: "output", nfnl.Postrouting: "postrouting"}
		fmt.Fprintf(b, ": %s %s %d", c.Type, hooks[c.Hook], c.Priority)
	}
	b.WriteByte('\n')
	for _, r := range c.rules {
		fmt.Fprintf(b, "    %s\n", r.comment)
		for _, x := range r.exprs {
			fmt.Fprintf(b, "      %s\n", describe(x))
		}
	}
}

// at shows a register.
func at(register uint32) string { return fmt.Sprintf("r%d", register-unix.NFT_REG32_00) }

// describe shows an expression.
func describe(x expr.Any) string {
	switch x := x.(type) {
	case *expr.Payload:
		base := map[expr.PayloadBase]string{expr.PayloadBaseNetworkHeader: "network", expr.PayloadBaseTransportHeader: "transport"}[x.Base]
		return fmt.Sprintf("%s = %s header %d, %d bytes", at(x.DestRegister), base, x.Offset, x.Len)
	case *expr.Meta:
		name := map[expr.MetaKey]string{expr.MetaKeyMARK: "mark", expr.MetaKeyL4PROTO: "l4proto", expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyIIF: "iif"}[x.Key]
		if x.SourceRegister {
			return fmt.Sprintf("meta %s = %s", name, at(x.Register))
		}
		return fmt.Sprintf("%s = meta %s", at(x.Register), name)
	case *expr.Ct:
		name := map[expr.CtKey]string{expr.CtKeySTATUS: "status", expr.CtKeySTATE: "state", expr.CtKeyDST: "original daddr", unix.NFT_CT_DST_IP: "original ip daddr", unix.NFT_CT_DST_IP6: "original ip6 daddr", expr.CtKeyPROTODST: "original dport"}[x.Key]
		return at(x.Register) + " = ct " + name
	case *expr.Fib:
		if x.FlagSADDR {
			return at(x.Register) + " = fib saddr type"
		}
		return at(x.Register) + " = fib daddr type"
	case *expr.Immediate:
		return fmt.Sprintf("%s = %x", at(x.Register), x.Data)
	case *expr.Verdict:
		return verdictText(x)
	case *expr.Bitwise:
		return fmt.Sprintf("%s = %s & %x ^ %x", at(x.DestRegister), at(x.SourceRegister), x.Mask, x.Xor)
	case *expr.Cmp:
		op := "=="
		if x.Op == expr.CmpOpNeq {
			op = "!="
		}
		return fmt.Sprintf("%s %s %x", at(x.Register), op, x.Data)
	case *expr.Lookup:
		switch {
		case x.Invert:
			return fmt.Sprintf("%s not in %s", at(x.SourceRegister), x.SetName)
		case !x.IsDestRegSet:
			return fmt.Sprintf("%s in %s", at(x.SourceRegister), x.SetName)
		case x.DestRegister == unix.NFT_REG_VERDICT:
			return fmt.Sprintf("verdict = %s[%s]", x.SetName, at(x.SourceRegister))
		}
		return fmt.Sprintf("%s = %s[%s]", at(x.DestRegister), x.SetName, at(x.SourceRegister))
	case *expr.Numgen:
		return fmt.Sprintf("%s = random of %d + %#x", at(x.Register), x.Modulus, x.Offset)
	case *expr.Dynset:
		op := map[uint32]string{unix.NFT_DYNSET_OP_ADD: "add", unix.NFT_DYNSET_OP_UPDATE: "update", 2: "delete"}[x.Operation]
		return fmt.Sprintf("%s %s[%s] = %s, timeout %s", op, x.SetName, at(x.SrcRegKey), at(x.SrcRegData), x.Timeout)
	case *expr.NAT:
		return fmt.Sprintf("dnat to %s : %s", at(x.RegAddrMin), at(x.RegProtoMin))
	case *expr.Masq:
		return "masquerade"
	case *expr.Reject:
		return fmt.Sprintf("reject with icmp code %d", x.Code)
	}
	return fmt.Sprintf("%T", x)
}

func verdictText(x *expr.Verdict) string {
	switch x.Kind {
	case expr.VerdictGoto:
		return "goto " + x.Chain
	case expr.VerdictJump:
		return "jump " + x.Chain
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictAccept:
		return "accept"
	}
	return fmt.Sprint("verdict ", x.Kind)
}
