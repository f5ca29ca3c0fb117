package main

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
)

// del detaches a container. It needs neither the namespace nor a previous result nor a valid rest of the configuration, and finds nothing to
// do if it did everything before. It never looks into CNI_NETNS: the path may be another container's by now.
func (p *plugin) del(ctx context.Context, args *skel.CmdArgs) error {
	j, err := decode(args)
	if err != nil {
		return err
	}
	dir := stateDir(j.IPAM.DataDir, j.Name)
	stateless, err := p.machine.noState(dir)
	if err != nil {
		return fmt.Errorf("look for leases: %w", err)
	}
	if !stateless {
		lock, err := p.machine.lock(ctx, dir, attachmentKey(args))
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	host, err := p.machine.host()
	if err != nil {
		return fmt.Errorf("open the node's network namespace: %w", err)
	}
	owner := ownerOf(args.ContainerID, args.IfName)
	if err := removeLink(ctx, host, owner); err != nil {
		return err // the address stays leased as long as the link is there
	}
	if stateless {
		return nil
	}
	allocator, err := p.leases(j.IPAM.DataDir, j.Name)
	if err != nil {
		return err
	}
	if err := allocator.Release(ctx, owner); err != nil {
		return fmt.Errorf("release the addresses of %s: %w", owner, err)
	}
	return nil
}
