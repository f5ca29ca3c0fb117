package rtnltest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

// Dump returns the state of the namespace as sorted iproute2 arguments, one object per line: links, addresses, neighbours, forwarding
// entries, nexthop objects, routes of every table, and sysctls that were written. What every namespace has is left out: "lo" with its
// addresses, IPv6 link-local addresses and their routes; so is what is volatile, the indexes. It counts as no call.
func (n *FakeNetns) Dump() string {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	var s state
	for _, d := range n.devices {
		s.links = append(s.links, d.observe())
		for _, a := range d.addrs {
			s.addrs = append(s.addrs, a.Addr)
		}
		s.neighs = slices.AppendSeq(s.neighs, maps.Values(d.neighs))
		s.fdb = slices.AppendSeq(s.fdb, maps.Values(d.fdb))
	}
	for _, nh := range n.nexthops {
		s.nexthops = append(s.nexthops, nh.Nexthop)
	}
	for _, list := range n.fib.routes {
		for _, r := range list {
			s.routes = append(s.routes, r.Route)
		}
	}
	s.sysctls = n.changedSysctls()
	return s.String()
}

// Dump returns the state of every namespace, by name.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	all := k.sortedNetns()
	k.mu.Unlock()
	var b strings.Builder
	for _, n := range all {
		b.WriteString("netns " + n.name + "\n")
		for line := range strings.Lines(n.Dump()) {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}

// Dump returns the state that a connection shows in the form of [FakeNetns.Dump], but only table main and no sysctls: rtnl
// cannot list the others.
func Dump(ctx context.Context, c Conn) (string, error) {
	var s state
	var err error
	if s.links, err = c.Links(ctx); err != nil {
		return "", err
	}
	if s.addrs, err = c.Addrs(ctx, ""); err != nil {
		return "", err
	}
	for _, l := range s.links {
		neighs, err := c.Neighs(ctx, l.Name)
		if err != nil {
			return "", err
		}
		s.neighs = append(s.neighs, neighs...)
		if l.Kind != rtnl.KindVXLAN {
			continue
		}
		fdb, err := c.FDB(ctx, l.Name)
		if err != nil {
			return "", err
		}
		s.fdb = append(s.fdb, fdb...)
	}
	if s.nexthops, err = c.Nexthops(ctx, 0); err != nil {
		return "", err
	}
	if s.routes, err = c.Routes(ctx, rtnl.RouteFilter{}); err != nil {
		return "", err
	}
	return s.String(), nil
}

// state is what a dump shows.
type state struct {
	links    []rtnl.Link
	addrs    []rtnl.Addr
	neighs   []rtnl.Neigh
	fdb      []rtnl.FDB
	nexthops []rtnl.Nexthop
	routes   []rtnl.Route
	sysctls  []rtnl.Sysctl
}

func (s state) String() string {
	var b strings.Builder
	section := func(lines []string) {
		slices.Sort(lines)
		for _, l := range lines {
			b.WriteString(l + "\n")
		}
	}
	section(lines(s.links, func(l rtnl.Link) bool { return l.Name == "lo" }, func(l rtnl.Link) string {
		if l.Up == rtnl.On && !l.Running {
			return l.String() + " no-carrier"
		}
		return l.String()
	}))
	section(lines(s.addrs, func(a rtnl.Addr) bool {
		ip := a.Prefix.Addr()
		return a.Link == "lo" && ip.IsLoopback() || ip.Is6() && ip.IsLinkLocalUnicast() && !a.NoDAD
	}, rtnl.Addr.String))
	section(lines(s.neighs, nil, rtnl.Neigh.String))
	section(lines(s.fdb, nil, rtnl.FDB.String))
	section(lines(s.nexthops, nil, rtnl.Nexthop.String))
	section(lines(s.routes, func(r rtnl.Route) bool {
		return r.Protocol == rtnl.ProtocolKernel && r.Dst.Addr().Is6() && r.Dst.Addr().IsLinkLocalUnicast()
	}, rtnl.Route.String))
	section(lines(s.sysctls, nil, rtnl.Sysctl.String))
	return b.String()
}

// lines returns the text of those objects that are not noise.
func lines[T any](objects []T, noise func(T) bool, text func(T) string) []string {
	var out []string
	for _, o := range objects {
		if noise == nil || !noise(o) {
			out = append(out, text(o))
		}
	}
	return out
}
