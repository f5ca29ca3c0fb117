package masq

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/podnet/podnet/internal/netns"
)

// Probe asks the kernel for nf_tables and looks for the binaries. It starts no process.
func (n *Netfilter) Probe(ctx context.Context, b Backend) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b == IPTables {
		_, err := iptablesPath(IPv4)
		return err
	}
	return n.in(probeNFTables)
}

// Observe reads nftables over netlink, and iptables by one iptables-save per family.
func (n *Netfilter) Observe(ctx context.Context, chains []Chain) (map[Chain]Observed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	have := map[Chain]Observed{}
	err := n.in(func() error {
		for _, f := range families() {
			for _, tool := range []struct {
				backend Backend
				observe func(context.Context, []Chain) (map[Chain]Observed, error)
			}{{NFTables, observeNFTables}, {IPTables, observeIPTables}} {
				var own []Chain
				for _, c := range chains {
					if c.Backend == tool.backend && c.Family == f {
						own = append(own, c)
					}
				}
				if len(own) == 0 {
					continue
				}
				found, err := tool.observe(ctx, own)
				if err != nil {
					return fmt.Errorf("%s: %w", tool.backend, err)
				}
				maps.Copy(have, found)
			}
		}
		return nil
	})
	return have, err
}

// Set replaces the table in one nftables transaction, or the chain in one iptables-restore.
func (n *Netfilter) Set(ctx context.Context, s Ruleset) error {
	switch s.Chain.Backend {
	case NFTables:
		return n.in(func() error { return n.setNFTables(ctx, s) })
	case IPTables:
		return n.in(func() error { return setIPTables(ctx, s) })
	}
	return fmt.Errorf("set %s: %w", s.Chain, errors.ErrUnsupported)
}

// Delete removes the table over netlink, or the chain and the jumps to it by iptables.
func (n *Netfilter) Delete(ctx context.Context, c Chain) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch c.Backend {
	case NFTables:
		return n.in(func() error { return deleteNFTables(c) })
	case IPTables:
		return n.in(func() error { return deleteIPTables(c) })
	}
	return fmt.Errorf("delete %s: %w", c, errors.ErrUnsupported)
}

// in runs f in the namespace: sockets that f opens and processes that it starts belong to it.
func (n *Netfilter) in(f func() error) error {
	if n.Netns == "" {
		return f()
	}
	return netns.Do(n.Netns, f)
}
