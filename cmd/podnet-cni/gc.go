package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq"
)

// gc removes every attachment of this network that the runtime does not know. An attachment is known by its lease: it is taken before the link is made
// and given back after the link is gone. One that cannot be removed does not stop the others.
func (p *plugin) gc(ctx context.Context, args *skel.CmdArgs) error {
	j, err := decode(args)
	if err != nil {
		return err
	}
	valid, err := j.validOwners()
	if err != nil {
		return err
	}
	dir := stateDir(j.IPAM.DataDir, j.Name)
	if missing, err := p.machine.noState(dir); err != nil || missing {
		return err
	}
	lock, err := p.machine.lock(ctx, dir, allAttachments)
	if err != nil {
		return err
	}
	defer lock.Close()
	host, err := p.machine.host()
	if err != nil {
		return fmt.Errorf("open the node's network namespace: %w", err)
	}
	allocator, err := p.leases(j.IPAM.DataDir, j.Name)
	if err != nil {
		return err
	}
	leases, err := allocator.Leases(ctx)
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	var faults []error
	keep, left := valid, 0
	for _, l := range leases {
		if slices.Contains(valid, l.Owner) {
			left++
			continue
		}
		if err := removeLink(ctx, host, l.Owner); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", l.Owner, err))
			keep = append(keep, l.Owner) // the address stays leased as long as the link is there
			left++
		}
	}
	if _, err := allocator.Retain(ctx, keep); err != nil {
		faults = append(faults, fmt.Errorf("release leases: %w", err))
	}
	if left == 0 {
		// The last one is gone, and nothing else would ever remove the rules. The next ADD writes them again.
		if _, err := masq.New(p.machine.masq, masq.Options{Name: masqName(j.Name)}).Apply(ctx, masq.Config{}); err != nil {
			faults = append(faults, err)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return types.NewError(codeGC, "some attachments could not be removed: "+oneLine(err), "")
	}
	return nil
}

// validOwners returns the attachments that the runtime knows. A list with a name that nobody can have is refused as a whole: it is
// not what the runtime meant to say, and what is missing in it would be deleted.
func (j confJSON) validOwners() ([]ipam.Owner, error) {
	var owners []ipam.Owner
	for i, a := range append(j.ValidAttachments, j.Attachments...) {
		if err := errors.Join(validContainerID(a.ContainerID), validIfName(a.IfName)); err != nil {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("cni.dev/valid-attachments[%d] %s", i, oneLine(err)), "")
		}
		owners = append(owners, ownerOf(a.ContainerID, a.IfName))
	}
	return owners, nil
}
