package nfnl

import (
	"context"
	"fmt"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// dumpTries bounds the repetitions of a dump during which the ruleset changed.
const dumpTries = 30

// dump sends a question and calls f for each part of the answer. When the answer was interrupted, it starts over after calling reset.
func (c *Conn) dump(ctx context.Context, question []byte, reset func(), f func(message)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.s == nil {
			return errClosed
		}
		reset()
		done, err := c.s.dump(question, f)
		if err != nil || done {
			return err
		}
	}
	return fmt.Errorf("the ruleset changed during %d reads: %w", dumpTries, unix.EINTR)
}

func (s *socket) dump(question []byte, f func(message)) (done bool, err error) {
	s.drain()
	if err := s.send(question); err != nil {
		return false, err
	}
	interrupted := false
	for {
		in, err := s.receive()
		if err != nil {
			return false, err
		}
		if in == nil {
			return false, fmt.Errorf("a dump without an end: %w", unix.EIO)
		}
		for m := range messages(in) {
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				k := decodeNack(m)
				if k.errno == unix.EINTR || k.errno == unix.EAGAIN {
					interrupted = true
				} else if k.errno != 0 {
					return false, k.errno
				}
				return !interrupted, nil
			}
			f(m)
		}
	}
}

func question(kind uint16, flags uint16, f Family, body func(*encoder)) []byte {
	var e encoder
	e.begin(kind, flags, f)
	if body != nil {
		body(&e)
	}
	e.end()
	return e.buf
}

// Tables returns the tables of a family.
func (c *Conn) Tables(ctx context.Context, f Family) ([]Table, error) {
	var all []Table
	err := c.dump(ctx, question(unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP, f, nil), func() { all = all[:0] }, func(m message) {
		if m.family == f {
			all = append(all, Table{m.family, text(attr(m.body, unix.NFTA_TABLE_NAME))})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("nftables: list tables of %s: %w", f, err)
	}
	return all, nil
}

// Description is what a table is made of, without the elements of its sets.
type Description struct {
	Exists  bool
	Dormant bool // somebody switched the table off: its chains and rules exist and see no packet
	Chains  []Chain
	Rules   []Rule // in the order of their chains, with Comment and Handle only
	Sets    []Set
}

// Describe reads a table. A missing one is no error.
func (c *Conn) Describe(ctx context.Context, table Table) (Description, error) {
	var d Description
	q := question(unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP, table.Family, nil)
	err := c.dump(ctx, q, func() { d = Description{} }, func(m message) {
		if m.family == table.Family && text(attr(m.body, unix.NFTA_TABLE_NAME)) == table.Name {
			d = Description{Exists: true, Dormant: be32(attr(m.body, unix.NFTA_TABLE_FLAGS))&unix.NFT_TABLE_F_DORMANT != 0}
		}
	})
	if err != nil || !d.Exists {
		return Description{}, wrap(err, "list tables of "+table.Family.String())
	}
	if d.Chains, err = c.Chains(ctx, table); err != nil {
		return Description{}, err
	}
	if d.Rules, err = c.Rules(ctx, table); err != nil {
		return Description{}, err
	}
	d.Sets, err = c.Sets(ctx, table)
	return d, err
}

func wrap(err error, op string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("nftables: %s: %w", op, err)
}

// Chains returns the chains of a table; none if there is no such table.
func (c *Conn) Chains(ctx context.Context, table Table) ([]Chain, error) {
	var all []Chain
	q := question(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, table.Family, func(e *encoder) { e.text(unix.NFTA_CHAIN_TABLE, table.Name) })
	err := c.dump(ctx, q, func() { all = all[:0] }, func(m message) {
		if m.family == table.Family && text(attr(m.body, unix.NFTA_CHAIN_TABLE)) == table.Name { // before 6.3 the kernel dumps all tables
			all = append(all, decodeChain(m.body))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("nftables: list chains of %s: %w", table, err)
	}
	return all, nil
}

func decodeChain(b []byte) Chain {
	c := Chain{Name: text(attr(b, unix.NFTA_CHAIN_NAME)), Type: text(attr(b, unix.NFTA_CHAIN_TYPE))}
	if hook := attr(b, unix.NFTA_CHAIN_HOOK); hook != nil {
		c.Hook = Hook(be32(attr(hook, unix.NFTA_HOOK_HOOKNUM)))
		c.Priority = int32(be32(attr(hook, unix.NFTA_HOOK_PRIORITY)))
		c.Drop = be32(attr(b, unix.NFTA_CHAIN_POLICY)) == nfDrop
	}
	return c
}

// Rules returns the rules of a table in the order of their chains, with Comment and Handle only; none if there is no such table.
func (c *Conn) Rules(ctx context.Context, table Table) ([]Rule, error) {
	var all []Rule
	q := question(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, table.Family, func(e *encoder) { e.text(unix.NFTA_RULE_TABLE, table.Name) })
	err := c.dump(ctx, q, func() { all = all[:0] }, func(m message) {
		if m.family != table.Family || text(attr(m.body, unix.NFTA_RULE_TABLE)) != table.Name {
			return
		}
		r := Rule{Chain: text(attr(m.body, unix.NFTA_RULE_CHAIN)), Handle: be64(attr(m.body, unix.NFTA_RULE_HANDLE))}
		r.Comment = comment(attr(m.body, unix.NFTA_RULE_USERDATA))
		all = append(all, r)
	})
	if err != nil {
		return nil, fmt.Errorf("nftables: list rules of %s: %w", table, err)
	}
	return all, nil
}

// comment reads the comment in userdata. userdata.GetString trusts lengths, which others may have written.
func comment(ud []byte) string {
	for len(ud) >= 2 {
		n := int(ud[1])
		if len(ud) < 2+n {
			break
		}
		if ud[0] == byte(userdata.TypeComment) {
			return text(ud[2 : 2+n])
		}
		ud = ud[2+n:]
	}
	return ""
}

// Sets returns the sets and maps of a table; none if there is no such table.
func (c *Conn) Sets(ctx context.Context, table Table) ([]Set, error) {
	var all []Set
	q := question(unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, table.Family, func(e *encoder) { e.text(unix.NFTA_SET_TABLE, table.Name) })
	err := c.dump(ctx, q, func() { all = all[:0] }, func(m message) {
		if m.family == table.Family && text(attr(m.body, unix.NFTA_SET_TABLE)) == table.Name {
			all = append(all, decodeSet(m.body))
		}
	})
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("nftables: list sets of %s: %w", table, err)
	}
	return all, nil
}

func decodeSet(b []byte) Set {
	flags := be32(attr(b, unix.NFTA_SET_FLAGS))
	s := Set{
		Name: text(attr(b, unix.NFTA_SET_NAME)), Key: Type(be32(attr(b, unix.NFTA_SET_KEY_TYPE))),
		Timeout: flags&unix.NFT_SET_TIMEOUT != 0, Dynamic: flags&unix.NFT_SET_EVAL != 0, Interval: flags&unix.NFT_SET_INTERVAL != 0,
		Size: be32(attr(attr(b, unix.NFTA_SET_DESC), unix.NFTA_SET_DESC_SIZE)),
	}
	if flags&unix.NFT_SET_MAP != 0 {
		if s.Data = Type(be32(attr(b, unix.NFTA_SET_DATA_TYPE))); s.Data == unix.NFT_DATA_VERDICT {
			s.Data = TypeVerdict
		}
	}
	return s
}

// Elements calls f for each element of a set. It returns an error that matches fs.ErrNotExist if there is no such set. The bytes belong to the caller only during the
// call. When the dump has to start over, reset is called first; a set that changes its size may show an element twice.
func (c *Conn) Elements(ctx context.Context, table Table, set string, reset func(), f func(Element)) error {
	q := question(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, table.Family, func(e *encoder) {
		e.text(unix.NFTA_SET_ELEM_LIST_TABLE, table.Name)
		e.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	})
	err := c.dump(ctx, q, reset, func(m message) {
		// No iterators here: there may be a million of them.
		for list := attr(m.body, unix.NFTA_SET_ELEM_LIST_ELEMENTS); ; {
			_, v, rest, ok := cut(list)
			if !ok {
				return
			}
			f(decodeElement(v))
			list = rest
		}
	})
	if err != nil {
		return fmt.Errorf("nftables: list elements of %s in %s: %w", set, table, err)
	}
	return nil
}

func decodeElement(b []byte) Element {
	var x Element
	for {
		t, v, rest, ok := cut(b)
		if !ok {
			return x
		}
		b = rest
		switch t {
		case unix.NFTA_SET_ELEM_KEY:
			x.Key = attr(v, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_DATA:
			if verdict := attr(v, unix.NFTA_DATA_VERDICT); verdict != nil {
				x.Verdict = Verdict{verdictKind(int32(be32(attr(verdict, unix.NFTA_VERDICT_CODE)))), text(attr(verdict, unix.NFTA_VERDICT_CHAIN))}
			} else {
				x.Data = attr(v, unix.NFTA_DATA_VALUE)
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			x.IntervalEnd = be32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			x.Timeout = time.Duration(be64(v)) * time.Millisecond
		case unix.NFTA_SET_ELEM_EXPIRATION:
			x.Expires = time.Duration(be64(v)) * time.Millisecond
		}
	}
}
