package nfnltest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
)

// Packet is the first packet of a connection.
type Packet struct {
	From, To netip.AddrPort
	Protocol uint8
	In       string // the device it comes in from; "" is from a process of the namespace if Out, else from somewhere
	Out      bool   // it is sent from inside the namespace
	Mark     uint32
}

// Verdict is what became of a packet.
type Verdict uint8

// The verdicts.
const (
	Accepted Verdict = iota
	Dropped
	Rejected
)

// Result is one of the ways that a packet may go.
type Result struct {
	Verdict    Verdict
	To         netip.AddrPort // the destination, translated or not
	Translated bool           // the destination was translated
	Masquerade bool           // the source is
	Mark       uint32         // at the end
	Remembered time.Duration  // the timeout of what a dynset added; 0 is nothing
}

// Walk sends a packet through prerouting or output and, if it is still there, through postrouting. It returns a result for each value that numgen may return, in order.
// Sets are not changed by it.
func (k *Kernel) Walk(p Packet) ([]Result, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Result
	for choices := []choice{}; ; {
		w := walker{k: k, p: p, choices: choices}
		r, err := w.packet()
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		choices = w.choices
		for len(choices) > 0 && choices[len(choices)-1].value+1 == choices[len(choices)-1].of {
			choices = choices[:len(choices)-1]
		}
		if len(choices) == 0 {
			return all, nil
		}
		choices[len(choices)-1].value++
	}
}

// choice is what a numgen returned, of how many.
type choice struct{ value, of uint32 }

// walker is one packet on one of its ways.
type walker struct {
	k       *Kernel
	p       Packet
	choices []choice
	asked   int // choices that were used

	result Result
	table  *table
	done   bool // a verdict that ends all chains of the hook

	original    netip.AddrPort // see Step
	least, most int32          // priorities; both 0: all
	decided     bool           // the connection is translated, or never will be
	regs        [64]byte
	set         registers
}

func (w *walker) packet() (Result, error) {
	w.result = Result{To: w.p.To, Mark: w.p.Mark}
	hook := nfnl.Prerouting
	if w.p.Out {
		hook = nfnl.Output
	}
	if err := w.hook(hook); err != nil || w.result.Verdict != Accepted {
		return w.result, err
	}
	w.decided = false // the source is another matter
	err := w.hook(nfnl.Postrouting)
	return w.result, err
}

// hook runs the base chains of a hook.
func (w *walker) hook(h nfnl.Hook) error {
	family := nfnl.IPv4
	if w.p.To.Addr().Is6() {
		family = nfnl.IPv6
	}
	type entry struct {
		t *table
		c *chain
	}
	var entries []entry
	for _, t := range w.k.tables {
		for _, c := range t.chains {
			if t.name.Family == family && c.Type != "" && c.Hook == h && t.flags&unix.NFT_TABLE_F_DORMANT == 0 &&
				(w.least == w.most || c.Priority >= w.least && c.Priority < w.most) {
				entries = append(entries, entry{t, c})
			}
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return int(a.c.Priority) - int(b.c.Priority) })
	for _, e := range entries {
		if e.c.Type == "nat" && w.decided {
			continue // a connection is translated once
		}
		w.table, w.done = e.t, false
		if _, err := w.chain(e.c, 0); err != nil {
			return fmt.Errorf("table %s chain %s: %w", e.t.name, e.c.Name, err)
		}
		if !w.done && e.c.Drop {
			w.result.Verdict = Dropped
		}
		if w.result.Verdict != Accepted {
			return nil
		}
	}
	return nil
}

// What comes after a rule.
type next uint8

const (
	nextRule next = iota
	breaks        // the rest of the rule does not count
	returns
	ends // for this base chain
)

// chain runs a chain: it says whether all is over, or the rules behind the jump come next.
func (w *walker) chain(c *chain, depth int) (next, error) {
	if depth > 16 {
		return ends, fmt.Errorf("more than 16 jumps")
	}
	for _, r := range c.rules {
		n, err := w.rule(r, depth)
		if err != nil {
			return ends, fmt.Errorf("rule %q: %w", r.comment, err)
		}
		switch n {
		case ends:
			return ends, nil
		case returns:
			return nextRule, nil
		}
	}
	return nextRule, nil
}

func (w *walker) rule(r *rule, depth int) (next, error) {
	w.set = 0
	for _, x := range r.exprs {
		n, to, err := w.expr(x)
		switch {
		case err != nil:
			return ends, err
		case to.Chain != "":
			n, err := w.chain(w.table.chain(to.Chain), depth+1)
			if err == nil && n == nextRule && to.Kind == expr.VerdictGoto {
				n = returns // not to the rule behind, but to whoever called
			}
			return n, err
		case n == breaks:
			return nextRule, nil
		case n != nextRule:
			return n, nil
		}
	}
	return nextRule, nil
}

// at returns the bytes of registers.
func (w *walker) at(register uint32, n int) []byte {
	s := span(register, n)
	for i := range 16 {
		if s&(1<<i) != 0 {
			return w.regs[4*i : 4*i+n]
		}
	}
	return nil
}

// store writes registers, padded with zeroes to four bytes as the kernel does.
func (w *walker) store(register uint32, v []byte) (next, expr.Verdict, error) {
	n := (len(v) + 3) &^ 3
	to := w.at(register, n)
	clear(to[copy(to, v):])
	w.set |= span(register, len(v))
	return nextRule, expr.Verdict{}, nil
}

// load reads registers that were written by this rule.
func (w *walker) load(register uint32, n int) ([]byte, error) {
	if s := span(register, n); s == 0 || w.set&s != s {
		return nil, fmt.Errorf("reads register %d, %d bytes, which was not written", register, n)
	}
	return w.at(register, n), nil
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// expr executes an expression.
func (w *walker) expr(x expr.Any) (next, expr.Verdict, error) {
	none := expr.Verdict{}
	switch x := x.(type) {
	case *expr.Payload:
		v := w.payload(x)
		if v == nil {
			return breaks, none, nil
		}
		return w.store(x.DestRegister, v)
	case *expr.Meta:
		return w.meta(x)
	case *expr.Ct:
		return w.ct(x)
	case *expr.Fib:
		a := w.result.To.Addr()
		if x.FlagSADDR {
			a = w.p.From.Addr()
		}
		kind := uint32(unix.RTN_UNICAST)
		if w.k.isLocal(a) {
			kind = unix.RTN_LOCAL
		}
		return w.store(x.Register, native(kind))
	case *expr.Immediate:
		return w.store(x.Register, x.Data)
	case *expr.Verdict:
		return w.verdict(*x)
	case *expr.Bitwise:
		from, err := w.load(x.SourceRegister, int(x.Len))
		if err != nil {
			return ends, none, err
		}
		v := make([]byte, x.Len)
		for i := range v {
			v[i] = from[i]&x.Mask[i] ^ x.Xor[i]
		}
		return w.store(x.DestRegister, v)
	case *expr.Cmp:
		return w.cmp(x)
	case *expr.Lookup:
		return w.lookup(x)
	case *expr.Numgen:
		return w.store(x.Register, native(w.choose(x.Modulus)+x.Offset))
	case *expr.Dynset:
		return w.dynset(x)
	case *expr.NAT:
		return w.nat(x)
	case *expr.Masq:
		w.result.Masquerade, w.decided, w.done = true, true, true
		return ends, none, nil
	case *expr.Reject:
		w.result.Verdict, w.done = Rejected, true
		return ends, none, nil
	case *expr.Counter:
		return nextRule, none, nil
	}
	return ends, none, fmt.Errorf("%T is not known", x)
}

func (w *walker) ct(x *expr.Ct) (next, expr.Verdict, error) {
	original := w.p.To
	if w.original.IsValid() {
		original = w.original
	}
	switch x.Key {
	case expr.CtKeySTATUS:
		if w.result.Translated {
			return w.store(x.Register, native(1<<5)) // IPS_DST_NAT
		}
		return w.store(x.Register, native(0))
	case expr.CtKeySTATE:
		return w.store(x.Register, native(expr.CtStateBitNEW))
	case expr.CtKeyDST, unix.NFT_CT_DST_IP, unix.NFT_CT_DST_IP6:
		return w.store(x.Register, original.Addr().AsSlice())
	case expr.CtKeyPROTODST:
		return w.store(x.Register, binary.BigEndian.AppendUint16(nil, original.Port()))
	}
	return ends, expr.Verdict{}, fmt.Errorf("ct %d is not known", x.Key)
}

// choose returns the value of a numgen on this way.
func (w *walker) choose(of uint32) uint32 {
	if w.asked == len(w.choices) {
		w.choices = append(w.choices, choice{0, of})
	}
	w.asked++
	return w.choices[w.asked-1].value
}

func (w *walker) verdict(v expr.Verdict) (next, expr.Verdict, error) {
	switch v.Kind {
	case expr.VerdictGoto, expr.VerdictJump:
		return nextRule, v, nil
	case expr.VerdictDrop:
		w.result.Verdict, w.done = Dropped, true
		return ends, expr.Verdict{}, nil
	case expr.VerdictAccept:
		w.done = true
		return ends, expr.Verdict{}, nil
	case expr.VerdictReturn:
		return returns, expr.Verdict{}, nil
	}
	return ends, expr.Verdict{}, fmt.Errorf("verdict %d is not known", v.Kind)
}
