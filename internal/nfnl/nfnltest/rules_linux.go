package nfnltest

import (
	"slices"
	"syscall"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
)

// addRule reads a rule and checks its expressions.
func (t *table) addRule(body []byte, lacks []string) syscall.Errno {
	c := t.chain(nfnl.Text(nfnl.Attr(body, unix.NFTA_RULE_CHAIN)))
	if c == nil {
		return unix.ENOENT
	}
	t.handle++
	r := &rule{handle: t.handle, comment: nfnl.ParseComment(nfnl.Attr(body, unix.NFTA_RULE_USERDATA))}
	for _, v := range nfnl.Attrs(nfnl.Attr(body, unix.NFTA_RULE_EXPRESSIONS)) {
		if slices.Contains(lacks, nfnl.Text(nfnl.Attr(v, unix.NFTA_EXPR_NAME))) {
			return unix.ENOENT
		}
		x, errno := parse(byte(t.name.Family), v)
		if errno != 0 {
			return errno
		}
		r.exprs = append(r.exprs, x)
	}
	if errno := t.check(c, r); errno != 0 {
		return errno
	}
	c.rules = append(c.rules, r)
	return 0
}

// parse reads an expression.
func parse(family byte, b []byte) (expr.Any, syscall.Errno) {
	data := nfnl.Attr(b, unix.NFTA_EXPR_DATA)
	var x expr.Any
	switch nfnl.Text(nfnl.Attr(b, unix.NFTA_EXPR_NAME)) {
	case "payload":
		x = &expr.Payload{}
	case "meta":
		x = &expr.Meta{}
	case "ct":
		return parseCt(data), 0
	case "fib":
		x = &expr.Fib{}
	case "immediate":
		x = &expr.Immediate{}
		if number(nfnl.Attr(data, unix.NFTA_IMMEDIATE_DREG)) == unix.NFT_REG_VERDICT {
			x = &expr.Verdict{}
		}
	case "bitwise":
		x = &expr.Bitwise{}
	case "cmp":
		x = &expr.Cmp{}
	case "lookup":
		x = &expr.Lookup{}
	case "numgen":
		x = &expr.Numgen{}
	case "dynset":
		x = &expr.Dynset{}
	case "nat":
		x = &expr.NAT{}
	case "masq":
		x = &expr.Masq{}
	case "reject":
		x = &expr.Reject{}
	case "counter":
		x = &expr.Counter{}
	default:
		return nil, unix.ENOENT // as a kernel that has no such module
	}
	if err := expr.Unmarshal(family, data, x); err != nil {
		return nil, unix.EINVAL
	}
	return x, 0
}

// parseCt reads what expr.Unmarshal does not: a direction of one byte.
func parseCt(data []byte) *expr.Ct {
	x := &expr.Ct{Key: expr.CtKey(number(nfnl.Attr(data, unix.NFTA_CT_KEY))), Register: uint32(number(nfnl.Attr(data, unix.NFTA_CT_DREG)))}
	if d := nfnl.Attr(data, unix.NFTA_CT_DIRECTION); len(d) == 1 {
		x.Direction = uint32(d[0])
	}
	return x
}

// registers says which of the 16 registers were written.
type registers uint32

// span returns the bits of the registers that n bytes take, 0 if they do not fit. Registers 1 to 4 of 16 bytes are the same memory.
func span(register uint32, n int) registers {
	first := int(register) - unix.NFT_REG32_00
	if register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4 {
		first = int(register-unix.NFT_REG_1) * 4
	}
	count := (n + 3) / 4
	if n <= 0 || first < 0 || first+count > 16 {
		return 0
	}
	return registers(1<<count-1) << first
}

// checker goes through a rule as the kernel does when it is added.
type checker struct {
	t       *table
	written registers
}

func (c *checker) store(register uint32, n int) syscall.Errno {
	s := span(register, n)
	if s == 0 {
		return unix.ERANGE
	}
	c.written |= s
	return 0
}

// load wants registers that this rule has written before (Linux 6.11).
func (c *checker) load(register uint32, n int) syscall.Errno {
	s := span(register, n)
	switch {
	case s == 0:
		return unix.ERANGE
	case c.written&s != s:
		return unix.ENODATA
	}
	return 0
}

func (t *table) check(ch *chain, r *rule) syscall.Errno {
	c := checker{t: t}
	for _, x := range r.exprs {
		if errno := c.expr(ch, x); errno != 0 {
			return errno
		}
	}
	return 0
}

func (c *checker) expr(ch *chain, x expr.Any) syscall.Errno {
	switch x := x.(type) {
	case *expr.Payload:
		return c.store(x.DestRegister, int(x.Len))
	case *expr.Meta:
		n := metaSize(x.Key)
		if n == 0 {
			return unix.EOPNOTSUPP
		}
		if x.SourceRegister {
			return c.load(x.Register, n)
		}
		return c.store(x.Register, n)
	case *expr.Ct:
		n := c.ctSize(x)
		if n == 0 {
			return unix.EOPNOTSUPP
		}
		return c.store(x.Register, n)
	case *expr.Fib:
		if !x.ResultADDRTYPE || x.FlagSADDR == x.FlagDADDR {
			return unix.EOPNOTSUPP
		}
		return c.store(x.Register, 4)
	case *expr.Immediate:
		return c.store(x.Register, len(x.Data))
	case *expr.Verdict:
		return c.verdict(x)
	case *expr.Bitwise:
		if len(x.Mask) != int(x.Len) || len(x.Xor) != int(x.Len) {
			return unix.EINVAL
		}
		return first(c.load(x.SourceRegister, int(x.Len)), c.store(x.DestRegister, int(x.Len)))
	case *expr.Cmp:
		return c.load(x.Register, len(x.Data))
	case *expr.Lookup:
		return c.lookup(x)
	case *expr.Numgen:
		if x.Modulus == 0 {
			return unix.ERANGE
		}
		if uint64(x.Modulus)+uint64(x.Offset) > 1<<32 {
			return unix.EOVERFLOW
		}
		return c.store(x.Register, 4)
	case *expr.Dynset:
		return c.dynset(x)
	case *expr.NAT:
		if x.RegProtoMin == 0 {
			return c.load(x.RegAddrMin, c.addrLen())
		}
		return first(c.load(x.RegAddrMin, c.addrLen()), c.load(x.RegProtoMin, 2))
	case *expr.Masq, *expr.Reject, *expr.Counter:
		return 0
	}
	return unix.EOPNOTSUPP
}

// ctSize is how long what a ct loads is; 0 is not known. Of the tuples only that of the original direction is.
func (c *checker) ctSize(x *expr.Ct) int {
	switch {
	case x.Key == expr.CtKeySTATUS, x.Key == expr.CtKeySTATE:
		return 4
	case x.Direction != 0:
		return 0
	case x.Key == expr.CtKeyDST:
		return c.addrLen()
	case x.Key == unix.NFT_CT_DST_IP:
		return 4
	case x.Key == unix.NFT_CT_DST_IP6:
		return 16
	case x.Key == expr.CtKeyPROTODST:
		return 2
	}
	return 0
}

func (c *checker) addrLen() int {
	if c.t.name.Family == nfnl.IPv6 {
		return 16
	}
	return 4
}

func (c *checker) verdict(x *expr.Verdict) syscall.Errno {
	if x.Kind != expr.VerdictGoto && x.Kind != expr.VerdictJump {
		return 0
	}
	to := c.t.chain(x.Chain)
	switch {
	case to == nil:
		return unix.ENOENT
	case to.Type != "":
		return unix.EOPNOTSUPP
	}
	return 0
}

func (c *checker) lookup(x *expr.Lookup) syscall.Errno {
	s := c.t.set(x.SetName)
	if s == nil {
		return unix.ENOENT
	}
	if errno := c.load(x.SourceRegister, s.Key.Len()); errno != 0 {
		return errno
	}
	switch {
	case !x.IsDestRegSet:
		return 0 // of a map, too
	case s.Data == 0:
		return unix.EINVAL
	case s.Data == nfnl.TypeVerdict:
		if x.DestRegister != unix.NFT_REG_VERDICT {
			return unix.EINVAL
		}
		return 0
	}
	return c.store(x.DestRegister, s.Data.Len())
}

func (c *checker) dynset(x *expr.Dynset) syscall.Errno {
	s := c.t.set(x.SetName)
	switch {
	case s == nil:
		return unix.ENOENT
	case !s.Dynamic || x.Timeout != 0 && !s.Timeout:
		return unix.EOPNOTSUPP
	case s.Data == 0 && x.SrcRegData != 0:
		return unix.EOPNOTSUPP
	case s.Data != 0 && x.SrcRegData == 0:
		return unix.EINVAL
	}
	errno := c.load(x.SrcRegKey, s.Key.Len())
	if errno == 0 && s.Data != 0 {
		errno = c.load(x.SrcRegData, s.Data.Len())
	}
	return errno
}

func first(errnos ...syscall.Errno) syscall.Errno {
	for _, e := range errnos {
		if e != 0 {
			return e
		}
	}
	return 0
}

func metaSize(k expr.MetaKey) int {
	switch k {
	case expr.MetaKeyMARK, expr.MetaKeyIIF:
		return 4
	case expr.MetaKeyL4PROTO:
		return 1
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		return 16
	}
	return 0
}

// leadsTo reports whether a rule names a chain.
func (r *rule) leadsTo(name string) bool {
	for _, x := range r.exprs {
		if v, ok := x.(*expr.Verdict); ok && v.Chain == name {
			return true
		}
	}
	return false
}

// uses reports whether a rule names a set.
func (r *rule) uses(name string) bool {
	for _, x := range r.exprs {
		switch x := x.(type) {
		case *expr.Lookup:
			if x.SetName == name {
				return true
			}
		case *expr.Dynset:
			if x.SetName == name {
				return true
			}
		}
	}
	return false
}
