package takeover

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/masq"
)

// HostRules is a [Netfilter] that also finds flannel's iptables rules where there is no iptables, as in a container from scratch: since iptables 1.8 its rules are
// nftables' in the kernel, in tables that have iptables' names. Those of the older kernel interface (iptables-legacy) need the tool.
type HostRules struct {
	*masq.Netfilter
}

func withoutTool(c masq.Chain) bool {
	name := "iptables"
	if c.Family == masq.IPv6 {
		name = "ip6tables"
	}
	_, err := exec.LookPath(name)
	return c.Backend == masq.IPTables && err != nil
}

// Observe returns those of the chains that exist.
func (h HostRules) Observe(ctx context.Context, chains []masq.Chain) (map[masq.Chain]masq.Observed, error) {
	byTool := slices.DeleteFunc(slices.Clone(chains), withoutTool)
	have, err := h.Netfilter.Observe(ctx, byTool)
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if !withoutTool(c) {
			continue
		}
		found, err := findChains(c)
		if err != nil {
			return nil, err
		}
		if found.chain != nil {
			have[c] = masq.Observed{Hooks: 1}
		}
	}
	return have, nil
}

// Delete removes a chain and what jumps to it from the built-in chain.
func (h HostRules) Delete(ctx context.Context, c masq.Chain) error {
	if !withoutTool(c) {
		return h.Netfilter.Delete(ctx, c)
	}
	found, err := findChains(c)
	if err != nil || found.chain == nil {
		return err
	}
	for _, r := range found.jumps {
		if err := found.conn.DelRule(r); err != nil {
			return fmt.Errorf("delete %s: %w", c, err)
		}
	}
	found.conn.FlushChain(found.chain)
	found.conn.DelChain(found.chain)
	if err := found.conn.Flush(); err != nil {
		return fmt.Errorf("delete %s: %w", c, err)
	}
	return nil
}

// ForwardDrops reports whether the FORWARD chain of a family drops what no rule decides, where that can be seen without iptables.
func (h HostRules) ForwardDrops(_ context.Context, f masq.Family) (bool, error) {
	found, err := findChains(masq.Chain{Backend: masq.IPTables, Family: f, Table: "filter"})
	if err != nil || found.parent == nil || found.parent.Policy == nil {
		return false, err
	}
	return *found.parent.Policy == nftables.ChainPolicyDrop, nil
}

// found is what there is of a chain.
type found struct {
	conn          *nftables.Conn
	chain, parent *nftables.Chain
	jumps         []*nftables.Rule
}

func findChains(c masq.Chain) (f found, err error) {
	if f.conn, err = nftables.New(); err != nil {
		return f, fmt.Errorf("open nftables: %w", err)
	}
	family := nftables.TableFamilyIPv4
	if c.Family == masq.IPv6 {
		family = nftables.TableFamilyIPv6
	}
	chains, err := f.conn.ListChainsOfTableFamily(family)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, have := range chains {
		if have.Table.Name != c.Table {
			continue
		}
		switch have.Name {
		case c.Name:
			f.chain = have
		case builtin[c.Table]:
			f.parent = have
		}
	}
	if f.chain == nil || f.parent == nil {
		return f, nil
	}
	rules, err := f.conn.GetRules(f.parent.Table, f.parent)
	if err != nil {
		return f, fmt.Errorf("list rules of %s: %w", f.parent.Name, err)
	}
	for _, r := range rules {
		if slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Kind == expr.VerdictJump && v.Chain == c.Name
		}) {
			f.jumps = append(f.jumps, r)
		}
	}
	return f, nil
}
