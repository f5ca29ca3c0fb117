package main

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/conntrack"
)

// staleFlows returns whose flows a sync may have made stale: for UDP the frontends of changed Services with those who serve, and the frontends that are gone with nobody. One that wrote
// although it compared everything, as the first does and the repair after a flush, names all Services: for a while they may not have been there.
func (w *wiring) staleFlows(r service.Report) conntrack.Config {
	c := changedFlows(r)
	if n := w.node.Load(); n != nil {
		c.NodePortAddrs = n.NodePortAddrs
		if w.first {
			c.ServiceCIDRs = n.ServiceCIDRs
		}
	}
	return c
}

func changedFlows(r service.Report) conntrack.Config {
	var c conntrack.Config
	there := map[netip.AddrPort]bool{}
	serve := func(p service.Program) {
		for f, serving := range udp(p) {
			there[f] = true
			c.Frontends = append(c.Frontends, conntrack.Frontend{Addr: f, Serving: serving})
		}
	}
	if r.Full && r.Writes > 0 {
		for _, p := range r.Programs {
			serve(p)
			c.Restored = append(c.Restored, connections(p)...)
		}
	} else {
		for _, change := range r.Changes {
			serve(change.After)
		}
	}
	for _, change := range r.Changes {
		for f := range udp(change.Before) {
			if !there[f] {
				there[f] = true
				c.Frontends = append(c.Frontends, conntrack.Frontend{Addr: f})
			}
		}
	}
	return c
}

// connections returns the frontends of a program that connections are made to.
func connections(p service.Program) []conntrack.Restored {
	var out []conntrack.Restored
	for _, port := range p.Ports {
		if port.Protocol == service.UDP {
			continue
		}
		for _, f := range port.Frontends {
			if f.Kind != service.NodePort {
				out = append(out, conntrack.Restored{Protocol: conntrack.Protocol(port.Protocol), Addr: netip.AddrPortFrom(f.Addr, f.Port)})
			}
		}
	}
	return out
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
	deleted := map[service.Family]int{service.IPv4: p.StaleOf(conntrack.IPv4), service.IPv6: p.StaleOf(conntrack.IPv6)}
	w.metrics.Conntrack(deleted, err, took)
	if err != nil {
		w.log.Warn("stale flows could not be deleted; tried again", "err", err)
	} else if p.Stale > 0 {
		w.log.Info("stale flows deleted", "flows", p.Stale, "seen", p.Seen, "took", took)
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
