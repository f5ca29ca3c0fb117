package main

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/conntrack"
)

// staleFlows returns what a sync changed for UDP: the frontends of changed Services with those who serve, and the frontends that are gone with nobody. The first sync names them all.
func (w *wiring) staleFlows(r service.Report) conntrack.Config {
	c := changedFlows(r.Changes)
	if n := w.node.Load(); n != nil {
		c.NodePortAddrs = n.NodePortAddrs
		if w.first {
			c.ServiceCIDRs = n.ServiceCIDRs
		}
	}
	return c
}

func changedFlows(changes []service.Change) conntrack.Config {
	var c conntrack.Config
	there := map[netip.AddrPort]bool{}
	var gone []netip.AddrPort
	for _, change := range changes {
		for f, serving := range udp(change.After) {
			there[f] = true
			c.Frontends = append(c.Frontends, conntrack.Frontend{Addr: f, Serving: serving})
		}
		for f := range udp(change.Before) {
			gone = append(gone, f)
		}
	}
	for _, f := range gone {
		if !there[f] {
			c.Frontends = append(c.Frontends, conntrack.Frontend{Addr: f})
		}
	}
	return c
}

// udp returns the UDP frontends of a program and who serves behind each.
func udp(p service.Program) map[netip.AddrPort][]netip.AddrPort {
	out := map[netip.AddrPort][]netip.AddrPort{}
	for _, port := range p.Ports {
		if port.Protocol != service.UDP {
			continue
		}
		for _, f := range port.Frontends {
			addr := f.Addr
			if f.Kind == service.NodePort {
				addr = netip.IPv4Unspecified()
				if port.Family == service.IPv6 {
					addr = netip.IPv6Unspecified()
				}
			}
			key := netip.AddrPortFrom(addr, f.Port)
			out[key] = slices.Concat(out[key], port.Serving)
		}
	}
	return out
}

// flowsDone is told of every search for stale flows.
func (w *wiring) flowsDone(p conntrack.Plan, err error, took time.Duration) {
	deleted := map[service.Family]int{}
	for _, f := range p.Examples { // at most ten tell of all
		deleted[service.FamilyOf(f.Dst.Addr())]++
	}
	if rest := p.Stale - len(p.Examples); rest > 0 {
		deleted[service.IPv4] += rest
	}
	w.metrics.Conntrack(deleted, err, took)
	if err != nil {
		w.log.Warn("stale UDP flows could not be deleted; tried again", "err", err)
	} else if p.Stale > 0 {
		w.log.Info("stale UDP flows deleted", "flows", p.Stale, "seen", p.Seen, "took", took)
	}
}

// localAddrs returns the addresses of this host in the given ranges.
func localAddrs(ranges []netip.Prefix) []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if addr = addr.Unmap(); ok && slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			out = append(out, addr)
		}
	}
	return out
}
