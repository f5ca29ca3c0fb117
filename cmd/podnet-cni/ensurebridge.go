package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
)

// ensureBridge makes the bridge what the configuration says. In the steady state it only looks.
//
// Package bridge removes from a bridge of ours the addresses that are not configured: a node that got another podCIDR must not keep the old one. But what
// is not configured here may be the gateway of another network that was given the same bridge by mistake: its pods would lose their
// way out without a word. So the leases of the other networks are asked first.
func (p *plugin) ensureBridge(ctx context.Context, c config, host kernel) error {
	r := bridge.New(host, bridge.Options{})
	todo, err := r.Plan(ctx, c.bridgeConfig())
	if err != nil || todo.Empty() {
		return err
	}
	if gone := deletedAddrs(todo); len(gone) > 0 && !c.forceAddress {
		if err := p.refuseShared(ctx, c, gone); err != nil {
			return err
		}
	}
	_, err = r.Apply(ctx, c.bridgeConfig())
	return err
}

func deletedAddrs(p rtnl.Plan) (gone []netip.Prefix) {
	for _, change := range p {
		if a, ok := change.Object.(rtnl.Addr); ok && change.Verb == rtnl.Delete {
			gone = append(gone, a.Prefix)
		}
	}
	return gone
}

// refuseShared returns an error if pods of other networks have addresses in one of the subnets.
func (p *plugin) refuseShared(ctx context.Context, c config, subnets []netip.Prefix) error {
	names, err := p.machine.peers(c.dataDir)
	if err != nil {
		return fmt.Errorf("look for other networks: %w", err)
	}
	for _, name := range names {
		if name == c.name || validNetworkName(name) != nil {
			continue
		}
		allocator, err := p.leases(c.dataDir, name)
		if err != nil {
			return err
		}
		leases, err := allocator.Leases(ctx)
		if err != nil {
			return fmt.Errorf("read the leases of network %s: %w", name, err)
		}
		for _, l := range leases {
			for _, a := range l.Addresses {
				if gw, in := containing(subnets, a.Prefix.Addr()); in {
					return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("bridge %q: has address %s, which pods of network %q use: want another bridge, or forceAddress",
						c.bridge, gw, name), "")
				}
			}
		}
	}
	return nil
}

func containing(subnets []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	for _, s := range subnets {
		if s.Contains(a) {
			return s, true
		}
	}
	return netip.Prefix{}, false
}
