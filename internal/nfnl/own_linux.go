package nfnl

import (
	"context"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// FlagOwner of a table makes it that of the socket of Own: NFT_TABLE_F_OWNER (include/uapi/linux/netfilter/nf_tables.h).
const FlagOwner = 1 << 1

// Own commits a transaction with a socket of its own, and keeps it open until release. Tables with FlagOwner belong to that socket: nobody else can change or remove them, not even with
// "nft flush ruleset", which passes over them; and they are gone when it is closed, also because the process was killed. Linux 5.12 (NFT_TABLE_F_OWNER); others refuse with EOPNOTSUPP.
func (c *Conn) Own(ctx context.Context, t *Transaction) (release func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	var s *socket
	if err := c.in(func() (err error) { s, err = openSocket(); return err }); err != nil {
		return nil, fmt.Errorf("nfnl: %w", err)
	}
	if t.committed, err = s.exchange(t, true); err != nil {
		s.close()
		return nil, err
	}
	return s.close, nil
}

// Owner is a Conn, or a fake one.
type Owner interface {
	Own(ctx context.Context, t *Transaction) (release func() error, err error)
}

// HoldNAT keeps NAT at work until release, whatever others do to their tables and to ours. It makes the given tables with Own, of which packets notice nothing: an empty NAT chain, and a rule that
// asks for the state of connections. As long as there is such a chain anywhere in the family, the kernel translates the connections that it has; with the last one, and the last rule that asks for
// connections, it stops, in the middle of all of them (nf_nat_unregister_fn, nf_ct_netns_put). So a flush of all rules, though it is repaired in milliseconds, would break
// the connections that have a packet on the way just then. done is told of each table: how many transactions there were, or why the kernel has refused it; the others stand.
func HoldNAT(ctx context.Context, k Owner, tables []Table, done func(t Table, genid uint32, err error)) (release func()) {
	var all []func() error
	for _, t := range tables {
		var tx Transaction
		tx.addTable(t, FlagOwner)
		tx.AddChain(t, Chain{Name: "hold", Type: "nat", Hook: Prerouting})
		tx.AddRule(t, Rule{Chain: "hold", Comment: "does nothing: others may flush their rules, and NAT goes on", Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG32_00}}})
		r, err := k.Own(ctx, &tx)
		done(t, tx.Genid(), err)
		if err == nil {
			all = append(all, r)
		}
	}
	return func() {
		for _, r := range all {
			_ = r() // to close a socket that only the kernel's table needs
		}
	}
}
