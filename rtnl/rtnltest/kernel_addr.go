package rtnltest

import (
	"net/netip"
	"slices"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

// minIPv6MTU is the MTU below which a device has no IPv6 at all (RFC 8200 section 5).
const minIPv6MTU = 1280

type address struct {
	rtnl.Addr
	secondary bool // IPv4: another address of the same subnet came first; it goes with that one
	asleep    bool // IPv6: kept while the device is down (keep_addr_on_down), not usable
}

func (a address) ip() netip.Addr { return a.Prefix.Addr() }

// broadcast returns the last address of the subnet if it is a broadcast address.
func (a address) broadcast() (netip.Addr, bool) {
	if !a.ip().Is4() || a.Prefix.Bits() > 30 || a.Prefix.Masked().Addr().As4()[0] == 0 {
		return netip.Addr{}, false
	}
	last := a.ip().As4()
	for i := a.Prefix.Bits(); i < 32; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(last), true
}

// sameSubnet reports whether b is in exactly the same subnet.
func (a address) sameSubnet(b address) bool { return a.Prefix.Masked() == b.Prefix.Masked() }

func (n *FakeNetns) addAddr(a rtnl.Addr) *refusal {
	d, r := n.device(a.Link)
	if r != nil {
		return r
	}
	a.Tentative, a.DADFailed = false, false
	if a.Prefix.Addr().Is4() {
		a.NoDAD = false
		return d.addIPv4(a)
	}
	return d.addIPv6(a)
}

func (d *device) addIPv4(a rtnl.Addr) *refusal {
	added := address{Addr: a}
	for _, have := range d.addrs {
		if have.Prefix == a.Prefix {
			return refuse(syscall.EEXIST, "ipv4: Address already assigned")
		}
		if have.ip().Is4() && have.sameSubnet(added) {
			added.secondary = true
		}
	}
	d.insertAddr(added)
	return nil
}

func (d *device) addIPv6(a rtnl.Addr) *refusal {
	ip := a.Prefix.Addr()
	switch {
	case d.MTU < minIPv6MTU:
		return refuse(syscall.EINVAL, "")
	case d.disabledIPv6():
		return refuse(syscall.EACCES, "ipv6: IPv6 is disabled on this device")
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLoopback() && d.Name != "lo":
		return refuse(syscall.EADDRNOTAVAIL, "ipv6: Invalid address")
	case slices.ContainsFunc(d.addrs, func(have address) bool { return have.ip() == ip }):
		return refuse(syscall.EEXIST, "ipv6: address already assigned")
	}
	a.Tentative = d.needsDAD(a)
	d.insertAddr(address{Addr: a})
	return nil
}

// needsDAD reports whether an address starts tentative.
func (d *device) needsDAD(a rtnl.Addr) bool {
	return a.Prefix.Addr().Is6() && !a.NoDAD && d.Name != "lo" &&
		(d.ns.conf(rtnl.IPv6, "all", "accept_dad") > 0 || d.ns.conf(rtnl.IPv6, d.Name, "accept_dad") > 0)
}

func (d *device) insertAddr(a address) {
	d.addrs = append(d.addrs, a)
	d.ns.local[a.ip()] = append(d.ns.local[a.ip()], d)
	if last, ok := a.broadcast(); ok {
		d.ns.broadcast[last]++
	}
	d.emit("addr", false)
	if d.up() {
		d.connect(a)
	}
}

// connect makes the connected route of an address.
func (d *device) connect(a address) {
	single := a.Prefix.Bits() == a.ip().BitLen()
	switch {
	case a.NoPrefixRoute, d.Name == "lo":
		return
	case a.ip().Is4() && (a.secondary || single || a.Prefix.Masked().Addr().As4()[0] == 0):
		return
	}
	r := &route{Route: rtnl.Route{Dst: a.Prefix.Masked(), Link: d.Name, Table: rtnl.TableMain, Protocol: rtnl.ProtocolKernel}, dev: d, connected: true}
	if a.ip().Is4() {
		r.Src, r.Scope = a.ip(), rtnl.ScopeLink
	} else {
		r.Priority = 256
	}
	for _, have := range d.ns.fib.at(r.Table, r.Dst) {
		if have.Route == r.Route {
			return
		}
	}
	d.ns.insertRoute(r)
}

// restoreConnected makes the connected routes of a device that comes up.
func (d *device) restoreConnected() {
	for i := range d.addrs {
		d.addrs[i].asleep = false
		d.connect(d.addrs[i])
	}
}

func (d *device) loopbackAddrs() {
	if !slices.ContainsFunc(d.addrs, func(a address) bool { return a.ip().Is4() }) {
		d.insertAddr(address{Addr: rtnl.Addr{Link: d.Name, Prefix: netip.MustParsePrefix("127.0.0.1/8")}})
	}
	if !d.disabledIPv6() {
		d.insertAddr(address{Addr: rtnl.Addr{Link: d.Name, Prefix: netip.MustParsePrefix("::1/128")}})
	}
}

// linkLocal returns the EUI-64 link-local address of a MAC (RFC 4291 appendix A).
func linkLocal(m rtnl.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// addLinkLocal gives a running device its link-local address unless it has one or may not.
func (d *device) addLinkLocal() {
	if d.Name == "lo" || d.MTU < minIPv6MTU || d.disabledIPv6() || d.ns.conf(rtnl.IPv6, d.Name, "addr_gen_mode") != 0 {
		return
	}
	a := rtnl.Addr{Link: d.Name, Prefix: netip.PrefixFrom(linkLocal(d.MAC), 64)}
	if slices.ContainsFunc(d.addrs, func(have address) bool { return have.ip() == a.Prefix.Addr() }) {
		return
	}
	a.Tentative = d.needsDAD(a)
	d.insertAddr(address{Addr: a})
}

func (n *FakeNetns) deleteAddr(a rtnl.Addr) *refusal {
	d, r := n.device(a.Link)
	if r != nil {
		return r
	}
	if a.Prefix.Addr().Is6() && d.MTU < minIPv6MTU {
		return refuse(syscall.ENXIO, "ipv6: IPv6 is disabled on this device")
	}
	i := slices.IndexFunc(d.addrs, func(have address) bool { return have.Prefix == a.Prefix })
	if i < 0 {
		return absent(syscall.EADDRNOTAVAIL)
	}
	if ip := a.Prefix.Addr(); ip.Is6() {
		d.dropAddr(i)
		if !n.hasIPv6(ip) {
			n.forgetSource(ip)
		}
		return nil
	}
	d.deleteIPv4(i)
	return nil
}

// deleteIPv4 deletes an address with the secondaries that depend on it, or makes the first of them primary if the sysctl says so.
func (d *device) deleteIPv4(i int) {
	gone := d.addrs[i]
	promote := d.ns.conf(rtnl.IPv4, "all", "promote_secondaries") != 0 || d.ns.conf(rtnl.IPv4, d.Name, "promote_secondaries") != 0
	if !gone.secondary && !promote {
		for j := len(d.addrs) - 1; j >= 0; j-- {
			if a := d.addrs[j]; a.secondary && a.sameSubnet(gone) {
				d.dropAddr(j)
			}
		}
		i = slices.IndexFunc(d.addrs, func(a address) bool { return a.Addr == gone.Addr })
	}
	d.dropAddr(i)
	if gone.secondary || !promote {
		return
	}
	for j, a := range d.addrs {
		if a.secondary && a.sameSubnet(gone) {
			d.addrs[j].secondary = false
			if d.up() {
				d.connect(d.addrs[j])
			}
			return
		}
	}
}

// dropAddr removes an address with its connected route and what depends on the address being ours.
func (d *device) dropAddr(i int) {
	a := d.addrs[i]
	n := d.ns
	d.addrs = slices.Delete(d.addrs, i, i+1)
	owners := n.local[a.ip()]
	if j := slices.Index(owners, d); len(owners) > 1 {
		n.local[a.ip()] = slices.Delete(owners, j, j+1)
	} else {
		delete(n.local, a.ip())
	}
	if last, ok := a.broadcast(); ok {
		if n.broadcast[last]--; n.broadcast[last] == 0 {
			delete(n.broadcast, last)
		}
	}
	d.emit("addr", true)
	d.disconnect(a)
	if a.ip().Is6() {
		return
	}
	if len(n.local[a.ip()]) == 0 {
		n.dropSource(a.ip())
	}
	if !slices.ContainsFunc(d.addrs, func(a address) bool { return a.ip().Is4() }) {
		d.flushIPv4Routes(true)
		d.flushNeighs(rtnl.IPv4)
	}
}

// disconnect removes the connected route of an address that is gone, unless another one needs it.
func (d *device) disconnect(a address) {
	if a.NoPrefixRoute || a.secondary {
		return
	}
	for _, have := range d.addrs {
		if have.ip().Is6() && a.ip().Is6() && have.sameSubnet(a) && !have.NoPrefixRoute {
			return
		}
	}
	for _, r := range d.ns.fib.at(rtnl.TableMain, a.Prefix.Masked()) {
		if r.connected && r.dev == d && (a.ip().Is6() || r.Src == a.ip()) {
			d.ns.removeRoute(r, true)
			return
		}
	}
}

// ifdownIPv6 is what IPv6 loses when a device goes down or away.
func (d *device) ifdownIPv6(unregister bool) {
	d.flushIPv6Routes()
	d.flushNeighs(rtnl.IPv6)
	all, own := d.ns.conf(rtnl.IPv6, "all", "keep_addr_on_down"), d.ns.conf(rtnl.IPv6, d.Name, "keep_addr_on_down")
	keep := !unregister && !d.disabledIPv6() && (all > 0 || all == 0 && own > 0)
	for i := len(d.addrs) - 1; i >= 0; i-- {
		a := &d.addrs[i]
		switch {
		case a.ip().Is4():
		case keep && !a.ip().IsLinkLocalUnicast() && !a.ip().IsLoopback():
			a.Tentative, a.asleep = d.needsDAD(a.Addr), true
		default:
			d.dropAddr(i)
		}
	}
}

// setMTU changes the MTU; IPv6 goes below 1280 and begins anew above.
func (d *device) setMTU(mtu int) {
	had := d.MTU >= minIPv6MTU
	d.MTU = mtu
	switch has := mtu >= minIPv6MTU; {
	case had && !has:
		d.ifdownIPv6(true)
	case has && !had && d.running():
		d.addLinkLocal()
	}
}

func (d *device) finishDAD() {
	if !d.running() {
		return
	}
	for i := range d.addrs {
		if a := &d.addrs[i]; a.Tentative && !a.DADFailed {
			a.DADFailed = d.onLink(a.ip()) != nil
			a.Tentative = a.DADFailed
		}
	}
}

// hasIPv6 reports whether an IPv6 address is on a device and usable.
func (n *FakeNetns) hasIPv6(ip netip.Addr) bool {
	return slices.ContainsFunc(n.local[ip], func(d *device) bool { return d.owns(ip) })
}

// owns reports whether the device has the address and it is usable: an IPv4 address always (6.18: even if the device is down), an IPv6
// address unless tentative.
func (d *device) owns(ip netip.Addr) bool {
	for _, a := range d.addrs {
		if a.ip() == ip {
			return ip.Is4() || !a.Tentative && !a.asleep
		}
	}
	return false
}

// hasFinished reports whether the device has an IPv6 address whose duplicate detection is over.
func (d *device) hasFinished(ip netip.Addr) bool {
	return slices.ContainsFunc(d.addrs, func(a address) bool { return a.ip() == ip && !a.Tentative })
}
