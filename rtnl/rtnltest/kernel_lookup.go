package rtnltest

import (
	"math/bits"
	"net/netip"
	"slices"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

// match is what a route lookup finds.
type match struct {
	route     *route // nil: an address of this namespace, or nothing
	dev       *device
	local     bool // the destination is ours
	broadcast bool
	errno     syscall.Errno // nothing, or a route that discards
}

// isLocal4 reports whether an IPv4 address is ours; the loopback network is while lo is up.
func (n *FakeNetns) isLocal4(ip netip.Addr) bool {
	return len(n.local[ip]) > 0 || ip.IsLoopback() && n.devices["lo"] != nil && n.devices["lo"].up() || n.longestMatchIn(rtnl.TableLocal, ip, nil, rtnl.ScopeUniverse) != nil
}

// longestMatch looks in the main table, see longestMatchIn.
func (n *FakeNetns) longestMatch(dst netip.Addr, dev *device, least rtnl.Scope) *route {
	return n.longestMatchIn(rtnl.TableMain, dst, dev, least)
}

// longestMatchIn returns the route of a table with the longest prefix, then the lowest metric, of at least the scope and, if dev is
// not nil, out of that device.
func (n *FakeNetns) longestMatchIn(table uint32, dst netip.Addr, dev *device, least rtnl.Scope) *route {
	lengths := n.fib.lengths[fibTable{table, dst.Is6()}]
	if lengths == nil {
		return nil
	}
	for l := dst.BitLen(); l >= 0; l-- {
		if lengths[l] == 0 {
			continue
		}
		p, _ := dst.Prefix(l)
		for _, r := range n.fib.at(table, p) {
			if dst.Is4() && r.Scope < least {
				continue
			}
			discards := r.Type != rtnl.Unicast && dst.Is4()
			if dev == nil || r.out() == dev || discards {
				return r
			}
		}
	}
	return nil
}

// lookup4 is fib_lookup: the local table first, then main.
func (n *FakeNetns) lookup4(dst netip.Addr, dev *device, least rtnl.Scope) match {
	for _, d := range n.local[dst] {
		if dev == nil || d == dev {
			return match{dev: d, local: true}
		}
	}
	if lo := n.devices["lo"]; dst.IsLoopback() && lo != nil && lo.up() && (dev == nil || dev == lo) {
		return match{dev: lo, local: true}
	}
	if n.broadcast[dst] > 0 && least <= rtnl.ScopeLink {
		if d := n.broadcastDevice(dst, dev); d != nil {
			return match{dev: d, broadcast: true}
		}
	}
	if r := n.longestMatchIn(rtnl.TableLocal, dst, dev, least); r != nil {
		return match{route: r, dev: r.out(), local: true}
	}
	r := n.longestMatch(dst, dev, least)
	if r == nil {
		return match{errno: syscall.ENETUNREACH}
	}
	return match{route: r, dev: r.out(), errno: discardErrno(r)}
}

// broadcastDevice returns the device that is up and has that broadcast address.
func (n *FakeNetns) broadcastDevice(dst netip.Addr, dev *device) *device {
	for _, d := range n.sortedDevices() {
		if !d.up() || dev != nil && d != dev {
			continue
		}
		for _, a := range d.addrs {
			if last, ok := a.broadcast(); ok && last == dst && !a.secondary {
				return d
			}
		}
	}
	return nil
}

func (n *FakeNetns) lookup6(dst netip.Addr, dev *device) match {
	for _, d := range n.local[dst] {
		if d.owns(dst) && (dev == nil || d == dev) {
			return match{dev: d, local: true}
		}
	}
	if r := n.longestMatchIn(rtnl.TableLocal, dst, dev, rtnl.ScopeUniverse); r != nil {
		return match{route: r, dev: r.out(), local: true}
	}
	r := n.longestMatch(dst, dev, rtnl.ScopeUniverse)
	if r == nil {
		return match{errno: syscall.ENETUNREACH}
	}
	return match{route: r, dev: r.out(), errno: discardErrno(r)}
}

func (n *FakeNetns) lookup(dst netip.Addr, dev *device) match {
	if dst.Is4() {
		return n.lookup4(dst, dev, rtnl.ScopeUniverse)
	}
	return n.lookup6(dst, dev)
}

func discardErrno(r *route) syscall.Errno {
	switch r.Type {
	case rtnl.Blackhole:
		return syscall.EINVAL
	case rtnl.Unreachable:
		return syscall.EHOSTUNREACH
	}
	return 0
}

// routeTo answers "ip route get".
func (n *FakeNetns) routeTo(dst netip.Addr) (rtnl.Route, *refusal) {
	dst = dst.WithZone("")
	switch {
	case !dst.IsValid() || dst.Is4In6():
		return rtnl.Route{}, refuse(syscall.EINVAL, "")
	case dst.IsMulticast():
		return rtnl.Route{}, unmodelled("multicast routes")
	}
	m := n.lookup(dst, nil)
	switch {
	case m.errno != 0:
		return rtnl.Route{}, refuse(m.errno, "")
	case m.broadcast:
		return rtnl.Route{}, unmodelled("broadcast routes")
	}
	out := rtnl.Route{Dst: netip.PrefixFrom(dst, dst.BitLen()), Table: rtnl.TableMain, Src: n.source(dst, m)}
	if out.Src.Is4() && out.Src.IsLoopback() && m.dev.Name != "lo" && !m.local {
		return rtnl.Route{}, refuse(syscall.EINVAL, "")
	}
	if m.local {
		out.Link = "lo"
		if dst.Is6() { // IPv4 keeps its local routes in the main table until someone adds rules
			out.Table, out.Protocol = rtnl.TableLocal, rtnl.ProtocolKernel
		}
		if m.route != nil && dst.Is6() {
			out.Protocol, out.Priority = m.route.Protocol, m.route.Priority
		}
		return out, nil
	}
	r := m.route
	out.Gateway, out.Link, out.MTU, out.AdvMSS = r.via(), m.dev.Name, r.MTU, r.AdvMSS
	if dst.Is6() {
		out.Protocol, out.Priority = r.Protocol, r.Priority
	}
	return out, nil
}

// source chooses the source address of a packet to dst that takes m; invalid if there is none.
func (n *FakeNetns) source(dst netip.Addr, m match) netip.Addr {
	switch {
	case m.route != nil && m.route.Src.IsValid():
		return m.route.Src
	case m.local:
		return m.dev.primary(dst)
	case dst.Is4():
		return n.source4(m)
	}
	return n.source6(dst, m.dev)
}

// primary returns the address itself, or of a secondary IPv4 address the one that it depends on.
func (d *device) primary(ip netip.Addr) netip.Addr {
	i := slices.IndexFunc(d.addrs, func(a address) bool { return a.ip() == ip })
	if i < 0 || !d.addrs[i].secondary {
		return ip
	}
	for _, a := range d.addrs {
		if !a.secondary && a.sameSubnet(d.addrs[i]) {
			return a.ip()
		}
	}
	return ip
}

// source4 is inet_select_addr: the first address of the device, better one in the gateway's subnet, else the first of any device.
func (n *FakeNetns) source4(m match) netip.Addr {
	var first netip.Addr
	usable := func(a address) bool { return a.ip().Is4() && !a.secondary && !a.ip().IsLoopback() }
	gw := m.route.via()
	for _, a := range m.dev.addrs {
		if usable(a) && (!gw.IsValid() || a.Prefix.Contains(gw)) {
			return a.ip()
		}
		if usable(a) && !first.IsValid() {
			first = a.ip()
		}
	}
	if first.IsValid() {
		return first
	}
	for _, d := range n.sortedDevices() {
		for _, a := range d.addrs {
			if usable(a) {
				return a.ip()
			}
		}
	}
	return netip.Addr{}
}

// source6 chooses by RFC 6724 section 5: scope, outgoing interface, label, longest matching prefix; then the address added last.
func (n *FakeNetns) source6(dst netip.Addr, out *device) netip.Addr {
	var best netip.Addr
	var bestScore [4]int
	consider := func(d *device) {
		for i := len(d.addrs) - 1; i >= 0; i-- {
			a := d.addrs[i]
			if !a.ip().Is6() || a.Tentative || a.asleep || d != out && dst.IsLinkLocalUnicast() {
				continue
			}
			score := [4]int{
				number((a.ip().IsLinkLocalUnicast() || a.ip().IsLoopback()) == dst.IsLinkLocalUnicast()), number(d == out), number(label(a.ip()) == label(dst)),
				min(commonBits(a.ip(), dst), a.Prefix.Bits()),
			}
			if !best.IsValid() || less(bestScore, score) {
				best, bestScore = a.ip(), score
			}
		}
	}
	consider(out)
	if bestScore[0] == 1 && bestScore[1] == 1 {
		return best // no address of another device can be better
	}
	for _, d := range n.sortedDevices() {
		if d != out {
			consider(d)
		}
	}
	return best
}

func less(a, b [4]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// label is the part of RFC 6724's policy table that occurs in clusters.
func label(a netip.Addr) int {
	switch {
	case a.IsLoopback():
		return 0
	case a.IsPrivate(): // unique local, fc00::/7
		return 5
	}
	return 1
}

func commonBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return i*8 + bits.LeadingZeros8(d)
		}
	}
	return 128
}
