package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/veth"
)

// add attaches a container. Nothing is written before everything was validated; what was written is taken back if a later step fails.
func (p *plugin) add(ctx context.Context, args *skel.CmdArgs) (types.Result, error) {
	c, err := load(args)
	if err != nil {
		return nil, err
	}
	if err := c.rehearse(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, oneLine(err), "")
	}
	host, pod, err := p.openBoth(args)
	if err != nil {
		return nil, err
	}
	lock, err := p.machine.lock(ctx, stateDir(c.dataDir, c.name), attachmentKey(args))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := vacant(ctx, pod, args); err != nil {
		return nil, err
	}
	allocator, err := p.allocator(c)
	if err != nil {
		return nil, err
	}
	a, err := p.attach(ctx, c, allocator, host, pod, args)
	if err != nil {
		// The caller gave up or the kernel refused: clean up all the same. The first error is the one to report.
		undo := undo(context.WithoutCancel(ctx), allocator, host, args)
		return nil, withUndo(err, undo)
	}
	return c.result(a), nil
}

// openBoth opens the two network namespaces.
func (p *plugin) openBoth(args *skel.CmdArgs) (host, pod kernel, err error) {
	if err := p.machine.isNetns(args.Netns); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, types.NewError(types.ErrUnknownContainer, fmt.Sprintf("CNI_NETNS %q: does not exist: the container is gone", args.Netns), "")
		}
		return nil, nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_NETNS %q: %v", args.Netns, err), "")
	}
	if !netnsOverride(args.NetnsOverride) && p.machine.isOwn(args.Netns) {
		return nil, nil, types.NewError(types.ErrInvalidNetNS, "plugin's netns and netns from CNI_NETNS should not be the same", "")
	}
	if host, err = p.machine.host(); err != nil {
		return nil, nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	if pod, err = p.machine.pod(args.Netns); err != nil {
		return nil, nil, fmt.Errorf("open network namespace %s: %w", args.Netns, err)
	}
	return host, pod, nil
}

// vacant refuses an interface that exists already, ours or not (CNI 1.1: ADD "MUST return an error").
func vacant(ctx context.Context, pod kernel, args *skel.CmdArgs) error {
	_, err := pod.Link(ctx, args.IfName)
	switch {
	case err == nil:
		return types.NewError(codeExists, fmt.Sprintf("CNI_IFNAME %q: exists already in %s: want a free name, or DEL first", args.IfName, args.Netns), "")
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("look for %s in %s: %w", args.IfName, args.Netns, err)
}

// attach makes lease, bridge, link and rules.
func (p *plugin) attach(ctx context.Context, c config, allocator *ipam.PodAllocator, host, pod kernel, args *skel.CmdArgs) (attachment, error) {
	a := attachment{netns: args.Netns}
	var err error
	if a.addrs, err = allocate(ctx, allocator, ownerOf(args.ContainerID, args.IfName), c.request()); err != nil {
		return a, allocationError(err)
	}
	if err := p.ensureBridge(ctx, c, host); err != nil {
		return a, err
	}
	if c.masq {
		if _, err := masq.New(p.machine.masq, c.masqOptions()).Apply(ctx, c.masqConfig()); err != nil {
			return a, err
		}
	}
	link, want := veth.New(host, pod, vethOptions(ownerOf(args.ContainerID, args.IfName), args.Netns)), c.vethConfig(a.addrs)
	if _, err := link.Apply(ctx, want); isBridgeFull(err) {
		return a, fmt.Errorf("bridge %s has 1,023 ports, the most that the kernel allows, so the node cannot take another pod: %w", c.bridge, err)
	} else if err != nil {
		return a, err
	}
	a.host, a.pod = link.Ends(want)
	if a.bridge, err = host.Link(ctx, c.bridge); err != nil {
		return a, err
	}
	a.bridge.MTU = c.mtu
	return a, nil
}

// allocate takes the addresses. A lease that an ADD left behind when it was killed, and that does not fit any more, is given back first: the container
// has no interface, so nobody uses it.
func allocate(ctx context.Context, allocator *ipam.PodAllocator, owner ipam.Owner, request ipam.Request) ([]ipam.Address, error) {
	addrs, err := allocator.Allocate(ctx, owner, request)
	if !errors.Is(err, ipam.ErrMismatch) {
		return addrs, err
	}
	if err := allocator.Release(ctx, owner); err != nil {
		return nil, err
	}
	return allocator.Allocate(ctx, owner, request)
}

// allocationError gives the errors that the configuration or the runtime can do something about their codes.
func allocationError(err error) error {
	switch {
	case errors.Is(err, ipam.ErrExhausted), errors.Is(err, ipam.ErrInUse), errors.Is(err, context.DeadlineExceeded):
		return types.NewError(types.ErrTryAgainLater, "allocate an address: "+oneLine(err), "")
	case errors.Is(err, ipam.ErrNotInRange), errors.Is(err, ipam.ErrInvalidOwner):
		return types.NewError(types.ErrInvalidNetworkConfig, "allocate an address: "+oneLine(err), "")
	}
	return fmt.Errorf("allocate an address: %w", err)
}

// undo takes back whatever attach did for the pod. The bridge and the rules belong to all pods and stay.
func undo(ctx context.Context, allocator *ipam.PodAllocator, host kernel, args *skel.CmdArgs) error {
	owner := ownerOf(args.ContainerID, args.IfName)
	if err := removeLink(ctx, host, owner); err != nil {
		return err // the address stays leased as long as the link is there
	}
	return allocator.Release(ctx, owner)
}

// removeLink deletes a container's link by its mark on the node.
func removeLink(ctx context.Context, host kernel, owner ipam.Owner) error {
	_, err := veth.New(host, nil, vethOptions(owner, "")).Apply(ctx, veth.Config{})
	return err
}

// withUndo adds a failed clean-up to the error that made it necessary, and keeps that one's code.
func withUndo(err, undo error) error {
	if undo == nil {
		return err
	}
	var e *types.Error
	code := codeOf(err)
	if errors.As(err, &e) {
		code = e.Code
	}
	return types.NewError(code, oneLine(err), "clean up after it (DEL does it again): "+oneLine(undo))
}
