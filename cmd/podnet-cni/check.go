package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

// check looks whether an attachment is still as ADD made it: lease, bridge, link, addresses, routes, rules. What chained plugins have changed since, and
// what others added, is no fault.
func (p *plugin) check(ctx context.Context, args *skel.CmdArgs) error {
	c, err := load(args)
	if err != nil {
		return err
	}
	prev, err := previous(args.StdinData, c.prevResult)
	if err != nil {
		return err
	}
	host, pod, err := p.openBoth(args)
	var e *types.Error
	if errors.As(err, &e) && e.Code == types.ErrUnknownContainer {
		return types.NewError(codeDrifted, e.Msg, "") // code 3 would tell the runtime that no DEL is needed
	}
	if err != nil {
		return err
	}
	allocator, err := p.allocator(c)
	if err != nil {
		return err
	}
	owner := ownerOf(args.ContainerID, args.IfName)
	addrs, err := allocator.Lookup(ctx, owner)
	if errors.Is(err, ipam.ErrNotFound) {
		return types.NewError(codeDrifted, fmt.Sprintf("%s has no lease", owner), "")
	}
	if err != nil {
		return fmt.Errorf("look up the lease of %s: %w", owner, err)
	}
	faults := []error{compareAddrs(addrs, resultAddrs(prev, args.IfName, args.Netns))}
	check := func(err error) { faults = append(faults, err) }
	if drift, err := bridge.New(host, bridge.Options{}).Plan(ctx, c.bridgeConfig()); err != nil || !drift.Empty() {
		check(drifted("bridge "+c.bridge, err, drift))
	}
	if c.masq {
		if drift, err := masq.New(p.machine.masq, c.masqOptions()).Plan(ctx, c.masqConfig()); err != nil || len(drift) > 0 {
			check(drifted("masquerade rules", err, drift))
		}
	}
	want := c.vethConfig(addrs)
	// A route that a chained plugin took out of the result is none that must be there.
	want.Routes = slices.DeleteFunc(want.Routes, func(r rtnl.Route) bool { return !hasRoute(prev, r.Dst) })
	check(veth.New(host, pod, vethOptions(owner, args.Netns)).Check(ctx, want))
	if err := errors.Join(faults...); err != nil {
		return types.NewError(codeDrifted, oneLine(err), "")
	}
	return nil
}

// drifted says what would have to be done.
func drifted(what string, err error, plan fmt.Stringer) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: differs from the configuration: missing are: %s", what, oneLine(errors.New(strings.TrimSpace(plan.String()))))
}

// compareAddrs looks whether the result still has the addresses that are leased.
func compareAddrs(leased []ipam.Address, inResult []netip.Prefix) error {
	var faults []error
	for _, a := range leased {
		if !slices.Contains(inResult, a.Prefix) {
			faults = append(faults, fmt.Errorf("leased address %s is not in prevResult", a.Prefix))
		}
	}
	return errors.Join(faults...)
}

// previous returns prevResult, which CHECK must have.
func previous(conf, prevResult json.RawMessage) (*current.Result, error) {
	if isZeroJSON(prevResult) {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "prevResult: missing: CHECK needs the result of ADD", "")
	}
	var parsed types.PluginConf
	if err := json.Unmarshal(conf, &parsed); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode prevResult: "+err.Error(), "")
	}
	if err := version.ParsePrevResult(&parsed); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode prevResult: "+err.Error(), "")
	}
	prev, err := current.NewResultFromResult(parsed.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode prevResult: "+err.Error(), "")
	}
	return prev, nil
}
