package rtnltest

import (
	"net/netip"
	"slices"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

const (
	maxRTTMTU = 65535 - 15 // larger RTAX_MTU is silently lowered to it
	maxAdvMSS = 65535 - 40
)

func (n *FakeNetns) addRoute(o rtnl.Route) *refusal {
	r, no := n.newRoute(o)
	if no != nil {
		return no
	}
	for _, have := range n.fib.at(r.Table, r.Dst) {
		if have.Priority == r.Priority {
			return refuse(syscall.EEXIST, "")
		}
	}
	n.insertRoute(r)
	return nil
}

func (n *FakeNetns) replaceRoute(o rtnl.Route) *refusal {
	r, no := n.newRoute(o)
	if no != nil {
		return no
	}
	var old *route
	for _, have := range n.fib.at(r.Table, r.Dst) {
		if have.Priority != r.Priority {
			continue
		}
		// IPv6 prefers one that also has, or has no, gateway (6.18).
		if old == nil || r.Dst.Addr().Is6() && old.via().IsValid() != r.via().IsValid() && have.via().IsValid() == r.via().IsValid() {
			old = have
		}
	}
	if old != nil {
		n.removeRoute(old, false)
	}
	n.insertRoute(r)
	return nil
}

// newRoute checks a route as the kernel does and resolves its next hop.
func (n *FakeNetns) newRoute(o rtnl.Route) (*route, *refusal) {
	switch {
	case o.MTU < 0, o.AdvMSS < 0:
		return nil, refuse(syscall.EINVAL, "")
	case o.Dst.Addr().Is4() && o.Dst != o.Dst.Masked():
		return nil, refuse(syscall.EINVAL, "Invalid prefix for given prefix length")
	case (o.Table == rtnl.TableLocal) != (o.Type == rtnl.Local):
		return nil, unmodelled("the local table for other routes than local ones, or those elsewhere")
	}
	r := &route{Route: o.Canonical()}
	r.MTU, r.AdvMSS = min(r.MTU, maxRTTMTU), min(r.AdvMSS, maxAdvMSS)
	v6 := r.Dst.Addr().Is6()
	var no *refusal
	if r.Link != "" {
		if r.dev, no = n.device(r.Link); no != nil {
			return nil, no
		}
	}
	switch {
	case r.Type == rtnl.Local:
		no = n.deliver(r, v6)
	case r.Type != rtnl.Unicast:
		no = r.discard(v6)
	case r.Nexthop != 0:
		no = n.useNexthop(r, v6)
	case v6:
		r.dev, no = n.checkNextHop6(r.dev, r.Gateway, r.Onlink, r.Table)
	default:
		r.own = n.isOwn(r.Gateway)
		r.dev, no = n.checkNextHop4(r.dev, r.Gateway, r.Onlink, r.Scope, r.Table)
	}
	if no != nil {
		return nil, no
	}
	if r.dev != nil {
		r.Link = r.dev.Name
	}
	return r, n.checkSource(r)
}

// deliver checks a local route.
func (n *FakeNetns) deliver(r *route, v6 bool) *refusal {
	switch {
	case r.Gateway.IsValid(), r.Nexthop != 0, r.Onlink, r.dev != nil && r.dev.Name != "lo":
		return unmodelled("a local route with a gateway, or of another device than lo")
	case !v6 && r.Scope != rtnl.ScopeHost:
		return refuse(syscall.EINVAL, "Invalid scope")
	case r.dev == nil:
		return refuse(syscall.ENODEV, "")
	case v6 && !r.dev.up():
		return refuse(syscall.ENETDOWN, "Nexthop device is not up")
	case !v6 && r.Dst.IsSingleIP() && (len(n.local[r.Dst.Addr()]) > 0 || n.broadcast[r.Dst.Addr()] > 0):
		return refuse(syscall.EEXIST, "") // the kernel's own route
	}
	return nil
}

// discard checks a blackhole or unreachable route: it leads to no device.
func (r *route) discard(v6 bool) *refusal {
	if !v6 && (r.dev != nil || r.Gateway.IsValid()) {
		return refuse(syscall.EINVAL, "Gateway, device and multipath can not be specified for this route type")
	}
	if r.Src.IsValid() {
		return unmodelled("a preferred source of a route that discards")
	}
	r.dev, r.Link, r.Gateway, r.Onlink = nil, "", netip.Addr{}, false // IPv6 ignores them
	return nil
}

func (n *FakeNetns) useNexthop(r *route, v6 bool) *refusal {
	nh := n.nexthops[r.Nexthop]
	switch {
	case r.dev != nil || r.Gateway.IsValid():
		return refuse(syscall.EINVAL, "Nexthop specification and nexthop id are mutually exclusive")
	case nh == nil:
		return refuse(syscall.EINVAL, "Nexthop id does not exist")
	case v6 && !nh.Gateway.Is6():
		return refuse(syscall.EINVAL, "IPv6 routes can not use an IPv4 nexthop")
	case !v6 && r.Scope >= rtnl.ScopeLink && nh.Gateway.IsValid():
		return refuse(syscall.EINVAL, "Scope mismatch with nexthop")
	}
	r.nh, r.Onlink = nh, false
	return nil
}

// checkNextHop4 is fib_check_nh: the gateway must be on the link, and the device up. It returns the device.
func (n *FakeNetns) checkNextHop4(dev *device, gw netip.Addr, onlink bool, scope rtnl.Scope, table uint32) (*device, *refusal) {
	switch {
	case gw.Is6(): // RFC 8950
		return n.checkNextHop6(dev, gw, onlink, table)
	case scope > rtnl.ScopeHost:
		return nil, refuse(syscall.EINVAL, "Invalid scope")
	case !gw.IsValid() && onlink:
		return nil, refuse(syscall.EINVAL, "Invalid flags for nexthop - PERVASIVE and ONLINK can not be set")
	case !gw.IsValid() && dev == nil:
		return nil, refuse(syscall.ENODEV, "")
	case scope == rtnl.ScopeHost && gw.IsValid():
		return nil, refuse(syscall.EINVAL, "Route with host scope can not have a gateway")
	case !gw.IsValid() && !dev.up() && scope != rtnl.ScopeHost:
		return nil, refuse(syscall.ENETDOWN, "Device for nexthop is not up")
	case !gw.IsValid():
		return dev, nil
	case onlink && dev == nil:
		return nil, refuse(syscall.ENODEV, "Nexthop device required for onlink")
	case onlink && !dev.up():
		return nil, refuse(syscall.ENETDOWN, "Nexthop device is not up")
	case onlink:
		if m := n.lookup4(gw, nil, rtnl.ScopeUniverse); m.local || m.broadcast || gw.IsMulticast() || gw.IsUnspecified() {
			return nil, refuse(syscall.EINVAL, "Nexthop has invalid gateway")
		}
		return dev, nil
	}
	least := rtnl.ScopeLink
	if scope == rtnl.ScopeLink {
		least = rtnl.ScopeHost
	}
	m := n.lookup4(gw, dev, least)
	if table != rtnl.TableMain { // the route's own table first
		if r := n.longestMatchIn(table, gw, dev, least); r != nil && r.Type == rtnl.Unicast {
			m = match{route: r, dev: r.out()}
		}
	}
	switch {
	case m.errno != 0:
		return nil, refuse(m.errno, "Nexthop has invalid gateway")
	case m.broadcast, gw.IsMulticast():
		return nil, refuse(syscall.EINVAL, "Nexthop has invalid gateway")
	case !m.dev.up():
		return nil, refuse(syscall.ENETDOWN, "")
	}
	return m.dev, nil
}

// isOwn reports whether an IPv4 gateway is an address of ours: the kernel then takes the destination to be on the link.
func (n *FakeNetns) isOwn(gw netip.Addr) bool { return gw.Is4() && n.isLocal4(gw) }

// checkNextHop6 is fib6_nh_init and ip6_validate_gw.
func (n *FakeNetns) checkNextHop6(dev *device, gw netip.Addr, onlink bool, table uint32) (*device, *refusal) {
	switch {
	case gw.Is4():
		return nil, refuse(syscall.EINVAL, "IPv6 does not support RTA_VIA attribute")
	case dev != nil && dev.MTU < minIPv6MTU:
		return nil, refuse(syscall.ENODEV, "")
	case onlink && dev == nil:
		return nil, refuse(syscall.ENODEV, "Nexthop device required for onlink")
	case onlink && !dev.up():
		return nil, refuse(syscall.ENETDOWN, "Nexthop device is not up")
	}
	if gw.IsValid() {
		var no *refusal
		if dev, no = n.checkGateway6(dev, gw, onlink, table); no != nil {
			return nil, no
		}
	}
	switch {
	case dev == nil:
		return nil, refuse(syscall.ENODEV, "")
	case dev.disabledIPv6():
		return nil, refuse(syscall.EACCES, "IPv6 is disabled on nexthop device")
	case !dev.up():
		return nil, refuse(syscall.ENETDOWN, "Nexthop device is not up")
	}
	return dev, nil
}

func (n *FakeNetns) checkGateway6(dev *device, gw netip.Addr, onlink bool, table uint32) (*device, *refusal) {
	ours := func() bool {
		return slices.ContainsFunc(n.local[gw], func(d *device) bool { return d == dev || !gw.IsLinkLocalUnicast() })
	}
	local := refuse(syscall.EINVAL, "Gateway can not be a local address")
	switch {
	case dev != nil && ours():
		return nil, local
	case gw.IsMulticast(), gw.IsUnspecified():
		return nil, refuse(syscall.EINVAL, "Invalid gateway address")
	case gw.IsLinkLocalUnicast() && dev == nil:
		return nil, refuse(syscall.EINVAL, "Egress device not specified")
	case gw.IsLinkLocalUnicast():
	case onlink:
		if r := n.longestMatchIn(table, gw, nil, rtnl.ScopeUniverse); r != nil && r.Dst.Bits() > 0 && r.Type == rtnl.Unicast && r.out() != dev {
			return nil, refuse(syscall.EINVAL, "Nexthop has invalid gateway or device mismatch")
		}
	default:
		direct := func(r *route) bool { return r != nil && r.Type == rtnl.Unicast && !r.via().IsValid() }
		r := n.longestMatchIn(table, gw, dev, rtnl.ScopeUniverse)
		if table != rtnl.TableMain && !direct(r) { // the route's own table first
			r = n.longestMatch(gw, dev, rtnl.ScopeUniverse)
		}
		switch {
		case dev == nil && n.hasIPv6(gw):
			return nil, local
		case !direct(r):
			return nil, refuse(syscall.EHOSTUNREACH, "")
		}
		dev = r.out()
	}
	switch {
	case dev.Name == "lo":
		return nil, refuse(syscall.EINVAL, "Egress device can not be loopback device for this route")
	case ours():
		return nil, local
	}
	return dev, nil
}

// checkSource checks the preferred source: one of our addresses, for IPv6 a usable one.
func (n *FakeNetns) checkSource(r *route) *refusal {
	switch {
	case !r.Src.IsValid():
		return nil
	case r.Src.Is4() != r.Dst.Addr().Is4():
		return refuse(syscall.EINVAL, "")
	case r.Src.Is4() && !n.isLocal4(r.Src):
		return refuse(syscall.EINVAL, "Invalid prefsrc address")
	case r.Src.Is6() && !slices.ContainsFunc(n.local[r.Src], func(d *device) bool {
		return d.hasFinished(r.Src) && (d == r.out() || !r.Src.IsLinkLocalUnicast())
	}):
		return refuse(syscall.EINVAL, "Invalid source address")
	}
	return nil
}

// deleteRoute deletes the first route that has all that o names; see encodeRoute of rtnl.Conn for what a deletion names.
func (n *FakeNetns) deleteRoute(o rtnl.Route) *refusal {
	if o.Nexthop != 0 && n.nexthops[o.Nexthop] == nil {
		return refuse(syscall.EINVAL, "Nexthop id does not exist")
	}
	if o.Dst.Addr().Is4() && o.Dst != o.Dst.Masked() {
		return refuse(syscall.EINVAL, "Invalid prefix for given prefix length")
	}
	protocol := o.Protocol // none: a route of any protocol
	o = o.Canonical()
	o.Protocol = protocol
	var dev *device
	if o.Link != "" {
		var no *refusal
		if dev, no = n.device(o.Link); no != nil {
			return no
		}
	}
	for _, r := range n.fib.at(o.Table, o.Dst) {
		if r.deletedBy(o, dev) {
			n.removeRoute(r, true)
			return nil
		}
	}
	return absent(syscall.ESRCH)
}

func (r *route) deletedBy(o rtnl.Route, dev *device) bool {
	v6 := r.Dst.Addr().Is6()
	switch {
	case r.nh != nil && o.Nexthop != 0 && o.Nexthop != r.Nexthop, r.nh == nil && o.Nexthop != 0:
		return false
	case o.Priority != 0 && o.Priority != r.Priority, o.Protocol != 0 && o.Protocol != r.Protocol, !v6 && o.Type != r.Type:
		return false
	case r.nh != nil: // IPv6 does not look at device and gateway then, 6.18
		return v6 || o.Nexthop != 0 || dev == nil && !o.Gateway.IsValid()
	}
	return (dev == nil || dev == r.dev) && (!o.Gateway.IsValid() || o.Gateway == r.Gateway)
}
