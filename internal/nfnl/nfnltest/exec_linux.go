package nfnltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"

	"github.com/podnet/podnet/internal/nfnl"
)

func (w *walker) meta(x *expr.Meta) (next, expr.Verdict, error) {
	if x.SourceRegister {
		v, err := w.load(x.Register, 4)
		if err != nil || x.Key != expr.MetaKeyMARK {
			return ends, expr.Verdict{}, fmt.Errorf("meta set %d: %w", x.Key, err)
		}
		w.result.Mark = binary.NativeEndian.Uint32(v)
		return nextRule, expr.Verdict{}, nil
	}
	switch x.Key {
	case expr.MetaKeyMARK:
		return w.store(x.Register, native(w.result.Mark))
	case expr.MetaKeyL4PROTO:
		return w.store(x.Register, []byte{w.p.Protocol})
	case expr.MetaKeyIIF:
		if w.p.In == "" { // from no device: a process of the namespace
			return w.store(x.Register, native(0))
		}
		return w.store(x.Register, native(1)) // some device
	case expr.MetaKeyIIFNAME:
		if w.p.In == "" {
			return breaks, expr.Verdict{}, nil
		}
		return w.store(x.Register, append([]byte(w.p.In), make([]byte, 16-len(w.p.In))...))
	}
	return ends, expr.Verdict{}, fmt.Errorf("meta %d is not known", x.Key)
}

func (w *walker) cmp(x *expr.Cmp) (next, expr.Verdict, error) {
	v, err := w.load(x.Register, len(x.Data))
	if err != nil {
		return ends, expr.Verdict{}, err
	}
	equal := bytes.Equal(v, x.Data)
	switch x.Op {
	case expr.CmpOpEq, expr.CmpOpNeq:
		if equal != (x.Op == expr.CmpOpEq) {
			return breaks, expr.Verdict{}, nil
		}
		return nextRule, expr.Verdict{}, nil
	}
	return ends, expr.Verdict{}, fmt.Errorf("comparison %d is not known", x.Op)
}

func (w *walker) lookup(x *expr.Lookup) (next, expr.Verdict, error) {
	s := w.table.set(x.SetName)
	key, err := w.load(x.SourceRegister, s.Key.Len())
	if err != nil {
		return ends, expr.Verdict{}, err
	}
	e, there := s.elements[string(key)]
	switch {
	case there == x.Invert:
		return breaks, expr.Verdict{}, nil
	case !x.IsDestRegSet:
		return nextRule, expr.Verdict{}, nil
	case s.Data != nfnl.TypeVerdict:
		return w.store(x.DestRegister, e.Data)
	}
	kinds := map[nfnl.VerdictKind]expr.VerdictKind{
		nfnl.Accept: expr.VerdictAccept, nfnl.Drop: expr.VerdictDrop, nfnl.Jump: expr.VerdictJump, nfnl.Goto: expr.VerdictGoto, nfnl.Return: expr.VerdictReturn,
	}
	return w.verdict(expr.Verdict{Kind: kinds[e.Verdict.Kind], Chain: e.Verdict.Chain})
}

func (w *walker) dynset(x *expr.Dynset) (next, expr.Verdict, error) {
	s := w.table.set(x.SetName)
	if _, err := w.load(x.SrcRegKey, s.Key.Len()); err != nil {
		return ends, expr.Verdict{}, err
	}
	if s.Data != 0 {
		if _, err := w.load(x.SrcRegData, s.Data.Len()); err != nil {
			return ends, expr.Verdict{}, err
		}
	}
	if x.Operation != 2 { // NFT_DYNSET_OP_DELETE
		w.result.Remembered = x.Timeout
	}
	return nextRule, expr.Verdict{}, nil
}

func (w *walker) nat(x *expr.NAT) (next, expr.Verdict, error) {
	n := 4
	if w.table.name.Family == nfnl.IPv6 {
		n = 16
	}
	addr, err := w.load(x.RegAddrMin, n)
	if err != nil {
		return ends, expr.Verdict{}, err
	}
	port := binary.BigEndian.AppendUint16(nil, w.result.To.Port())
	if x.RegProtoMin != 0 {
		port, err = w.load(x.RegProtoMin, 2)
	}
	if err != nil || x.Type != expr.NATTypeDestNAT {
		return ends, expr.Verdict{}, fmt.Errorf("nat of type %d: %w", x.Type, err)
	}
	a, _ := netip.AddrFromSlice(addr)
	to := netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	w.decided = true
	// An address that is translated to itself with no say about the port keeps others from translating, and is no endpoint.
	w.result.Translated = w.result.Translated || x.RegProtoMin != 0 || to != w.result.To
	w.result.To, w.done = to, true
	return ends, expr.Verdict{}, nil
}

// payload reads the packet: its headers as far as they matter.
func (w *walker) payload(x *expr.Payload) []byte {
	transport := binary.BigEndian.AppendUint16(nil, w.p.From.Port())
	transport = binary.BigEndian.AppendUint16(transport, w.result.To.Port())
	transport = append(transport, make([]byte, 16)...)
	from, to := w.p.From.Addr().AsSlice(), w.result.To.Addr().AsSlice()
	header := make([]byte, 12)
	if len(from) == 16 {
		header = header[:8]
	}
	network := slices.Concat(header, from, to, transport)
	b := transport
	if x.Base == expr.PayloadBaseNetworkHeader {
		b = network
	}
	if int(x.Offset+x.Len) > len(b) || x.Base == expr.PayloadBaseLLHeader {
		return nil
	}
	return b[x.Offset : x.Offset+x.Len]
}
