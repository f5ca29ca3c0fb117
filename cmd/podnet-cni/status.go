package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq"
)

// status says whether ADD can be expected to work: the configuration is whole, the subnet file is there, every range set has a free address, the bridge is
// one or can be made, rules can be written. It changes nothing.
func (p *plugin) status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := load(args)
	if err != nil {
		return unavailable(err)
	}
	if err := c.rehearse(); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, oneLine(err), "")
	}
	stats, err := p.stats(ctx, c)
	if err != nil {
		return unavailable(fmt.Errorf("read leases: %w", err))
	}
	for _, s := range stats.RangeSets {
		if s.Used >= s.Capacity {
			return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("range %s is exhausted: %d of %d addresses in use", s.Range, s.Used, s.Capacity), "")
		}
	}
	if c.masq {
		if _, err := masq.New(p.machine.masq, c.masqOptions()).Plan(ctx, c.masqConfig()); err != nil {
			return unavailable(err)
		}
	}
	return p.bridgeStatus(ctx, c, stats.Leases)
}

// bridgeStatus looks at the bridge. If pods are attached to one that is damaged, they suffer as well: code 51. The next ADD repairs it.
func (p *plugin) bridgeStatus(ctx context.Context, c config, leases int) error {
	host, err := p.machine.host()
	if err != nil {
		return unavailable(fmt.Errorf("open the node's network namespace: %w", err))
	}
	drift, err := bridge.New(host, bridge.Options{}).Plan(ctx, c.bridgeConfig())
	if err != nil {
		return unavailable(err)
	}
	if leases > 0 && !drift.Empty() {
		return types.NewError(types.ErrLimitedConnectivity, fmt.Sprintf("%d pods are attached, but the bridge is not as configured; the next ADD repairs it", leases), oneLine(drifted("bridge "+c.bridge, nil, drift)))
	}
	return nil
}

// stats returns the figures of the leases. Before the first ADD there is no state yet.
func (p *plugin) stats(ctx context.Context, c config) (ipam.Stats, error) {
	missing, err := p.machine.noState(stateDir(c.dataDir, c.name))
	if err != nil || missing {
		return ipam.Stats{}, err
	}
	allocator, err := p.allocator(c)
	if err != nil {
		return ipam.Stats{}, err
	}
	return allocator.Stats(ctx)
}

// unavailable gives an error the code of STATUS, unless the configuration is at fault.
func unavailable(err error) error {
	var e *types.Error
	if errors.As(err, &e) && e.Code != types.ErrTryAgainLater {
		return err
	}
	if errors.As(err, &e) {
		return types.NewError(types.ErrPluginNotAvailable, e.Msg, e.Details)
	}
	return types.NewError(types.ErrPluginNotAvailable, oneLine(err), "")
}
