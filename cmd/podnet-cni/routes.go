package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/internal/subnetenv"
	"github.com/podnet/podnet/rtnl"
)

// route is a route in the pod, as the configuration or a result of CNI 1.1 states it.
type route struct {
	dst         netip.Prefix
	gw          netip.Addr // invalid: the gateway of the pod's address of that family
	mtu, advMSS int
	priority    uint32
	table       *uint32
	scope       *rtnl.Scope
}

// routes returns the configured routes, and those that the subnet file implies: to the pods of the other nodes.
func (j ipamJSON) routes(subnets subnetenv.Env, sets []rangeSet) ([]route, error) {
	var routes []route
	var faults []error
	has, connected := map[rtnl.Family]bool{}, map[netip.Prefix]bool{}
	for _, s := range sets {
		has[rtnl.FamilyOf(s.ranges[0].subnet.Addr())] = true
		connected[s.ranges[0].subnet] = true
	}
	for i, rj := range j.Routes {
		field := fmt.Sprintf("ipam.routes[%d]", i)
		r, err := newRoute(field, rj)
		if err == nil && len(sets) > 0 && !has[rtnl.FamilyOf(r.dst.Addr())] {
			err = fmt.Errorf("%s.dst %s: the pod gets no address of that family", field, r.dst)
		}
		routes = append(routes, r)
		faults = append(faults, err)
	}
	for _, p := range subnets.Networks {
		if has[rtnl.FamilyOf(p.Addr())] && !connected[p] { // a cluster of one node has one subnet
			routes = append(routes, route{dst: p})
		}
	}
	return routes, errors.Join(faults...)
}

func newRoute(field string, j routeJSON) (route, error) {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(field+"."+format, args...))
		}
	}
	var r route
	dst, err := netip.ParsePrefix(j.Dst)
	switch {
	case err != nil || dst.Addr().Is4In6():
		check(false, "dst %q: want a CIDR such as 0.0.0.0/0 or fd00::/8", j.Dst)
	case dst != dst.Masked():
		check(false, "dst %s: has host bits set: want %s", dst, dst.Masked())
	default:
		r.dst = dst
	}
	if j.GW != "" {
		r.gw, err = netip.ParseAddr(j.GW)
		check(err == nil && !r.gw.Is4In6() && r.gw.Zone() == "", "gw %q: want an address such as 10.244.1.1", j.GW)
		check(err != nil || !r.dst.IsValid() || r.gw.Is4() == r.dst.Addr().Is4(), "gw %s: is of another family than dst %s", r.gw, r.dst)
		check(err != nil || !r.gw.IsMulticast() && !r.gw.IsUnspecified() && !r.gw.IsLoopback(), "gw %s: want a unicast address", r.gw)
	}
	check(j.MTU >= 0 && j.MTU <= 65535, "mtu %d: want 0 to 65535", j.MTU)
	check(j.AdvMSS >= 0 && j.AdvMSS <= 65535, "advmss %d: want 0 to 65535", j.AdvMSS)
	check(j.Priority >= 0 && j.Priority <= math.MaxUint32, "priority %d: want 0 to %d", j.Priority, uint32(math.MaxUint32))
	r.mtu, r.advMSS, r.priority = j.MTU, j.AdvMSS, uint32(j.Priority)
	if j.Table != nil {
		check(*j.Table >= 0 && *j.Table <= math.MaxUint32, "table %d: want 0 to %d", *j.Table, uint32(math.MaxUint32))
		table := uint32(*j.Table)
		r.table = &table
	}
	if j.Scope != nil {
		check(*j.Scope < uint16(rtnl.ScopeAuto), "scope %d: want 0 (universe) to 254 (host)", *j.Scope)
		scope := rtnl.Scope(*j.Scope)
		r.scope = &scope
	}
	return r, errors.Join(faults...)
}

// isDefault reports whether r is a default route of the family of ip.
func (r route) isDefault(ip netip.Addr) bool {
	return r.dst.Bits() == 0 && r.dst.Addr().Is4() == ip.Is4()
}

// result returns r as CNI writes it.
func (r route) result() *types.Route {
	out := &types.Route{Dst: ipNet(r.dst), MTU: r.mtu, AdvMSS: r.advMSS, Priority: int(r.priority)}
	if r.gw.IsValid() {
		out.GW = r.gw.AsSlice()
	}
	if r.table != nil {
		table := int(*r.table)
		out.Table = &table
	}
	if r.scope != nil {
		scope := int(*r.scope)
		out.Scope = &scope
	}
	return out
}

// kernel returns r as the kernel takes it, through the gateway of its family if it names none. A route of link or host scope has no gateway.
func (r route) kernel(gateway func(netip.Addr) netip.Addr) rtnl.Route {
	k := rtnl.Route{Dst: r.dst, Gateway: r.gw, Priority: r.priority, MTU: r.mtu, AdvMSS: r.advMSS, Scope: rtnl.ScopeAuto}
	if r.table != nil {
		k.Table = *r.table
	}
	if r.scope != nil {
		k.Scope = *r.scope
	}
	if !k.Gateway.IsValid() && (r.scope == nil || *r.scope == rtnl.ScopeUniverse) {
		k.Gateway = gateway(r.dst.Addr())
	}
	return k
}

// ipNet converts to the type of the CNI library.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
