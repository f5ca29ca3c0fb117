package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/handoff"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/takeover"
	"github.com/podnet/podnet/internal/reconcile"
	"github.com/podnet/podnet/rtnl"
)

// Names of the concerns that take over a node of flannel.
const (
	nameFlannel      = "flannel"
	nameFlannelFiles = "flannel-files"
)

// DefaultDataDir is where podnet-cni keeps its leases unless it is told otherwise.
const DefaultDataDir = "/var/lib/cni/podnet"

// TakeOver is what is taken over of a node that flannel has set up. Nil in Parts: nothing.
type TakeOver struct {
	Rules   takeover.Rules
	ConfDir string // of the runtime's configuration; "" = its files and the leases are left alone
	Record  string // where Parts.Network is kept

	rulesGone time.Time // when flannel's rules were looked for and not found; of the loop's goroutine only
}

// rulesAgain is how long after that they are looked for again: a flanneld that still ran may have written them anew.
const rulesAgain = time.Minute

// Conflist is what the configuration list says.
func (p Parts) Conflist() handoff.Conflist {
	l := p.List
	if p.Network != nil && p.Network.Name != "" {
		l.Name, l.Chained = p.Network.Name, p.Network.Chained
	}
	return l
}

// TakeOverNode returns what takeover has to know of this node.
func TakeOverNode(d Desired) takeover.Node {
	n := takeover.Node{HostGW: d.Net.Backend.Type == netconf.HostGW, Networks: d.Net.Networks, Uplink: d.Uplink.Name}
	for _, l := range d.Locals {
		for _, p := range d.Peers {
			if c := p.PodCIDR(l.Family); c.IsValid() {
				n.PodCIDRs = append(n.PodCIDRs, c)
			}
		}
	}
	return n
}

// takeOverKernel puts podnet's mark on what flannel left in the kernel, so that the backends find it as their own.
func (p Parts) takeOverKernel(ctx context.Context, d Desired) Result {
	links, err := p.Kernel.Links(ctx)
	if err != nil {
		return Result{Err: err}
	}
	routes, err := p.Kernel.Routes(ctx, rtnl.RouteFilter{Protocol: rtnl.ProtocolBoot})
	if err != nil {
		return Result{Err: err}
	}
	done, err := reconcile.Write(ctx, p.Kernel, takeover.FromFlannel(TakeOverNode(d), links, routes))
	return Result{Writes: len(done), Plan: done.String, Err: err}
}

// takeOverFiles removes flannel's rules, since podnet's stand, takes over its leases, and takes its configuration out of the runtime's sight.
func (p Parts) takeOverFiles(ctx context.Context, d Desired) Result {
	var done []string
	var faults []error
	if time.Since(p.TakeOver.rulesGone) > rulesAgain {
		removed, err := p.TakeOver.Rules.Apply(ctx)
		if err == nil && !slices.ContainsFunc(removed, func(r takeover.Removal) bool { return r.Stays == "" }) {
			p.TakeOver.rulesGone = time.Now()
		}
		for _, r := range removed {
			if r.Stays == "" {
				done = append(done, r.String())
			}
		}
		faults = append(faults, err)
	}
	lines, notes, err := p.takeOverLeases(ctx, d)
	done = append(done, lines...)
	return Result{Writes: len(done), Plan: func() string { return strings.Join(done, "\n") }, Notes: notes, Err: errors.Join(append(faults, err)...)}
}

// LeasesOf returns the leases of one of flannel's networks.
func (p Parts) LeasesOf(l takeover.List, subnets []netip.Prefix, links []rtnl.Link) takeover.Leases {
	dir := p.List.DataDir
	if dir == "" {
		dir = DefaultDataDir
	}
	inUse := slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Master == p.List.Bridge })
	return takeover.Leases{HostLocal: l.Leases(), Store: filepath.Join(dir, p.Conflist().Name), Subnets: subnets, InUse: inUse, Shared: p.Files.Stands()}
}

func (p Parts) takeOverLeases(ctx context.Context, d Desired) (done, notes []string, err error) {
	if p.TakeOver.ConfDir == "" {
		return nil, nil, nil
	}
	lists, err := takeover.FindLists(p.TakeOver.ConfDir)
	if err != nil {
		return nil, nil, err
	}
	lists = slices.DeleteFunc(lists, func(l takeover.List) bool { return l.Aside })
	if len(lists) == 0 {
		return nil, nil, nil
	}
	links, err := p.Kernel.Links(ctx)
	if err != nil {
		return nil, nil, err
	}
	var subnets []netip.Prefix
	for _, l := range d.Locals {
		subnets = append(subnets, l.PodCIDR)
	}
	// Before the leases: it says where they go.
	*p.Network = lists[0].Kept()
	if err := p.Network.Save(p.TakeOver.Record); err != nil {
		return nil, nil, fmt.Errorf("record what is taken over: %w", err)
	}
	for _, l := range lists {
		r, err := p.LeasesOf(l, subnets, links).Import(ctx)
		notes = append(notes, r.Problems...)
		if err != nil {
			return done, notes, fmt.Errorf("flannel's network %s: %w", l.Network, err)
		}
		done = append(done, fmt.Sprintf("%d leases taken over from %s", len(r.Leases), l.Leases()))
		if err := l.SetAside(); err != nil {
			return done, notes, fmt.Errorf("set aside flannel's configuration: %w", err)
		}
		done = append(done, "file "+l.Path+" renamed to "+l.Path+takeover.Aside)
	}
	return done, notes, nil
}
