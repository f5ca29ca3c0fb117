package vxlan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

// snapshot is what the kernel has, of what matters to a Config. Each table is dumped once.
type snapshot struct {
	links    []rtnl.Link
	routes   []rtnl.Route // the whole main table: others' routes decide what is on-link, and may be in the way; if nothing is wanted, our own
	nexthops []rtnl.Nexthop
	// noNexthops: the kernel has no nexthop objects (before Linux 5.3).
	noNexthops bool
	devices    map[string]device // of the wanted devices those that exist
	// acceptRA is what a new device begins with; "" without IPv6.
	acceptRA string
}

// device is what hangs on a VTEP.
type device struct {
	acceptRA string // "" without IPv6
	addrs    []rtnl.Addr
	neighs   []rtnl.Neigh
	fdb      []rtnl.FDB
}

func (s snapshot) link(name string) (rtnl.Link, bool) {
	i := slices.IndexFunc(s.links, func(l rtnl.Link) bool { return l.Name == name })
	if i < 0 {
		return rtnl.Link{}, false
	}
	return s.links[i], true
}

func (r *Reconciler) read(ctx context.Context, want Config) (snapshot, error) {
	s := snapshot{devices: map[string]device{}}
	var err error
	if s.links, err = r.kernel.Links(ctx); err != nil {
		return s, fmt.Errorf("vxlan: read links: %w", err)
	}
	var only rtnl.Protocol
	if want.isZero() { // what a backend that is not in use looks at costs next to nothing
		only = rtnl.ProtocolVXLAN
	}
	if s.routes, err = r.kernel.Routes(ctx, rtnl.RouteFilter{Protocol: only}); err != nil {
		return s, fmt.Errorf("vxlan: read routes: %w", err)
	}
	switch s.nexthops, err = r.kernel.Nexthops(ctx, only); {
	case errors.Is(err, errors.ErrUnsupported):
		s.noNexthops = true
	case err != nil:
		return s, fmt.Errorf("vxlan: read nexthops: %w", err)
	}
	want = want.withDefaults()
	for _, e := range want.Endpoints {
		if _, exists := s.link(e.Device); exists {
			if s.devices[e.Device], err = r.readDevice(ctx, e.Device); err != nil {
				return s, err
			}
		}
	}
	if len(want.Endpoints) > 0 {
		s.acceptRA, err = r.sysctl(ctx, acceptRA("default").Name)
	}
	return s, err
}

// readDevice reads what hangs on a device. A device that goes away meanwhile has nothing: the next look will not find it.
func (r *Reconciler) readDevice(ctx context.Context, name string) (d device, err error) {
	if d.acceptRA, err = r.sysctl(ctx, acceptRA(name).Name); err != nil {
		return d, err
	}
	if d.addrs, err = r.kernel.Addrs(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("vxlan: read addresses of %s: %w", name, err)
	}
	if d.neighs, err = r.kernel.Neighs(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("vxlan: read neighbours of %s: %w", name, err)
	}
	if d.fdb, err = r.kernel.FDB(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("vxlan: read fdb of %s: %w", name, err)
	}
	return d, nil
}

// sysctl reads a setting; one that does not exist is "".
func (r *Reconciler) sysctl(ctx context.Context, name string) (string, error) {
	value, err := r.kernel.Sysctl(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("vxlan: read sysctl %s: %w", name, err)
	}
	return value, nil
}

// acceptRA is the setting that keeps router advertisements, which anyone could send into the tunnel, from configuring device.
func acceptRA(device string) rtnl.Sysctl {
	return rtnl.Sysctl{Name: "net/ipv6/conf/" + device + "/accept_ra", Value: "0"}
}
