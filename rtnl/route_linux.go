package rtnl

import (
	"context"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

const rtaNexthopID = 30 // RTA_NH_ID, which x/sys/unix v0.49 lacks

// Routes returns the routes that the filter selects, canonical (see Route.Canonical). Of a route with several gateways (RTA_MULTIPATH)
// it returns the key without gateway and device: rtnl cannot write such a route.
func (c *Conn) Routes(ctx context.Context, f RouteFilter) ([]Route, error) {
	if f.Table == 0 {
		f.Table = TableMain
	}
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	names, index, err := c.read.namesFor(ctx, f.Link)
	if err != nil {
		return nil, err
	}
	families := []Family{IPv4, IPv6}
	if f.Family != AnyFamily {
		families = []Family{f.Family}
	}
	t := table{typ: unix.RTM_GETROUTE, filter: f}
	routes := make([]Route, 0, c.read.sizes.room(t))
	for _, family := range families {
		start := len(routes)
		r, err := c.read.dump(ctx, unix.RTM_GETROUTE,
			func(e *encoder) { encodeRouteFilter(e, addressFamily(family), f, index) },
			func() { routes = routes[:start] },
			func(m message) {
				o, ok := decodeRoute(m.body)
				// Without IPv6 in the kernel the IPv6 dump is answered with all families.
				if ok && o.writable() && FamilyOf(o.Dst.Addr()) == family && o.Table == f.Table &&
					(f.Protocol == 0 || o.Protocol == f.Protocol) && (index == 0 || o.out == index) {
					routes = append(routes, o.named(names[o.out]))
				}
			})
		if r.errno == unix.ENOENT { // the table was never used
			continue
		}
		if err == nil {
			err = r.error("route dump", f.Link)
		}
		if err != nil {
			return nil, err
		}
	}
	c.read.sizes.remember(t, len(routes))
	if len(routes) == 0 {
		return nil, nil
	}
	return routes, nil
}

// RouteTo returns the route that a packet to dst would take (ip route get); Dst is then the single address. That there is none is an error that
// unwraps to ENETUNREACH or, by an unreachable route, EHOSTUNREACH.
func (c *Conn) RouteTo(ctx context.Context, dst netip.Addr) (Route, error) {
	if err := ctx.Err(); err != nil {
		return Route{}, err
	}
	dst = dst.WithZone("")
	if !dst.IsValid() || dst.Is4In6() {
		return Route{}, &Error{Op: "route get", Object: dst.String(), Errno: unix.EINVAL}
	}
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	var o observedRoute
	r, err := c.read.get(unix.RTM_GETROUTE, func(e *encoder) {
		m := rtMsg{family: addressFamily(FamilyOf(dst)), dstLen: uint8(dst.BitLen())}
		if dst.Is4() {
			m.flags = unix.RTM_F_LOOKUP_TABLE // else IPv4 says main; IPv6 refuses the flag and tells the table anyway
		}
		encodeRtMsg(e, m)
		e.attrIP(unix.RTA_DST, dst)
	}, func(m message) { o, _ = decodeRoute(m.body) })
	if err == nil {
		err = r.error("route get", dst.String())
	}
	if err == nil && o.errno != 0 { // IPv6 reports an unreachable destination as a route
		err = &Error{Op: "route get", Object: dst.String(), Errno: o.errno}
	}
	if err != nil {
		return Route{}, err
	}
	name, err := c.read.linkName(o.out)
	o.Dst = netip.PrefixFrom(dst, dst.BitLen())
	if o.Type == Local { // where a packet goes is asked, not which route says so
		o.Type = Unicast
	}
	return o.named(name), err
}

// rtMsg is a struct rtmsg.
type rtMsg struct {
	family, dstLen, table, protocol, scope, kind uint8
	flags                                        uint32
}

func encodeRtMsg(e *encoder, m rtMsg) {
	e.u8(m.family, m.dstLen, 0, 0, m.table, m.protocol, m.scope, m.kind)
	e.u32(m.flags)
}

func encodeRouteFilter(e *encoder, family uint8, f RouteFilter, index int32) {
	encodeRtMsg(e, rtMsg{family: family, protocol: uint8(f.Protocol)})
	e.attr32(unix.RTA_TABLE, f.Table)
	if index != 0 {
		e.attr32(unix.RTA_OIF, uint32(index))
	}
}

var routeTypes = map[RouteType]uint8{Unicast: unix.RTN_UNICAST, Blackhole: unix.RTN_BLACKHOLE, Unreachable: unix.RTN_UNREACHABLE, Local: unix.RTN_LOCAL}

// encodeRoute writes a canonical route to add, replace or delete. A deletion names gateway, device, protocol and type as well, so
// that another route that took the key meanwhile is not hit.
func encodeRoute(e *encoder, r Route, index int32, verb Verb) {
	is4 := r.Dst.Addr().Is4()
	m := rtMsg{
		family:   addressFamily(FamilyOf(r.Dst.Addr())),
		dstLen:   uint8(r.Dst.Bits()),
		protocol: uint8(r.Protocol),
		scope:    uint8(r.Scope),
		kind:     routeTypes[r.Type],
	}
	if r.Table < 256 {
		m.table = uint8(r.Table)
	}
	if verb == Delete && is4 {
		m.scope = unix.RT_SCOPE_NOWHERE // any
	}
	if r.Onlink && verb != Delete {
		m.flags = unix.RTNH_F_ONLINK
	}
	encodeRtMsg(e, m)
	e.attrIP(unix.RTA_DST, r.Dst.Addr())
	if m.table == 0 {
		e.attr32(unix.RTA_TABLE, r.Table)
	}
	if r.Priority != 0 {
		e.attr32(unix.RTA_PRIORITY, r.Priority)
	}
	if r.Nexthop != 0 {
		e.attr32(rtaNexthopID, r.Nexthop)
	}
	if r.Gateway.IsValid() {
		encodeGateway(e, r.Gateway, r.Gateway.Is4() == is4)
	}
	if index != 0 {
		e.attr32(unix.RTA_OIF, uint32(index))
	}
	if verb == Delete {
		return
	}
	if r.Src.IsValid() {
		e.attrIP(unix.RTA_PREFSRC, r.Src)
	}
	if r.MTU == 0 && r.AdvMSS == 0 {
		return
	}
	metrics := e.nest(unix.RTA_METRICS)
	if r.MTU != 0 {
		e.attr32(unix.RTAX_MTU, uint32(r.MTU))
	}
	if r.AdvMSS != 0 {
		e.attr32(unix.RTAX_ADVMSS, uint32(r.AdvMSS))
	}
	e.endNest(metrics)
}

// encodeGateway writes a gateway; one of the other family goes as struct rtvia (IPv4 over IPv6, Linux 5.2).
func encodeGateway(e *encoder, gateway netip.Addr, sameFamily bool) {
	if sameFamily {
		e.attrIP(unix.RTA_GATEWAY, gateway)
		return
	}
	e.bytes(unix.RTA_VIA, append(native.AppendUint16(nil, uint16(addressFamily(FamilyOf(gateway)))), gateway.AsSlice()...))
}

// observedRoute is a Route with its device still as an index.
type observedRoute struct {
	Route
	out       int32
	cached    bool          // an exception made by path MTU discovery or a redirect
	kind      uint8         // rtm_type
	multipath bool          // RTA_MULTIPATH
	errno     syscall.Errno // why there is no route, from RTM_GETROUTE of one address
}

// writable reports whether the route is one that a user could have written: not the kernel's own local, broadcast, multicast and anycast routes.
func (o observedRoute) writable() bool {
	switch o.kind {
	case unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE:
		return !o.cached
	case unix.RTN_LOCAL:
		return !o.cached && o.Table == TableLocal && o.Protocol != ProtocolKernel
	}
	return false
}

func (o observedRoute) named(link string) Route {
	r := o.Route
	if r.Nexthop == 0 && !o.multipath && (r.Type == Unicast || r.Type == Local) { // IPv6 blackhole routes go out through lo
		r.Link = link
	}
	return r
}

func decodeRoute(body []byte) (observedRoute, bool) {
	if len(body) < unix.SizeofRtMsg {
		return observedRoute{}, false
	}
	flags := native.Uint32(body[8:])
	o := observedRoute{
		Route:  Route{Table: uint32(body[4]), Protocol: Protocol(body[5]), Scope: Scope(body[6]), Onlink: flags&unix.RTNH_F_ONLINK != 0},
		cached: flags&unix.RTM_F_CLONED != 0,
		kind:   body[7],
	}
	var dst []byte
	for typ, v := range attributes(body[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			dst = v
		case unix.RTA_GATEWAY:
			o.Gateway = decodeIP(v)
		case unix.RTA_VIA:
			if len(v) > 2 {
				o.Gateway = decodeIP(v[2:])
			}
		case unix.RTA_OIF:
			o.out = int32(decode32(v))
		case unix.RTA_PREFSRC:
			o.Src = decodeIP(v)
		case unix.RTA_PRIORITY:
			o.Priority = decode32(v)
		case unix.RTA_TABLE:
			o.Table = decode32(v)
		case unix.RTA_METRICS:
			decodeMetrics(&o.Route, v)
		case unix.RTA_MULTIPATH:
			o.multipath = true
		case rtaNexthopID:
			o.Nexthop = decode32(v)
		}
	}
	var ok bool
	if o.Dst, ok = makePrefix(dst, body[1], body[0]); !ok {
		return observedRoute{}, false
	}
	o.settle()
	return o, true
}

// settle makes an observed route equal to the canonical form of the one that was written.
func (o *observedRoute) settle() {
	switch o.kind {
	case unix.RTN_BLACKHOLE:
		o.Type, o.errno = Blackhole, unix.EINVAL
	case unix.RTN_UNREACHABLE:
		o.Type, o.errno = Unreachable, unix.EHOSTUNREACH
	case unix.RTN_LOCAL:
		o.Type = Local
	}
	if o.Nexthop != 0 || o.multipath || o.Type != Unicast { // the kernel shows what the nexthop object resolves to
		o.Gateway, o.Onlink = netip.Addr{}, false
	}
	if o.Dst.Addr().Is6() {
		o.Scope = ScopeUniverse
	}
}

func decodeMetrics(r *Route, metrics []byte) {
	for typ, v := range attributes(metrics) {
		switch typ {
		case unix.RTAX_MTU:
			r.MTU = int(decode32(v))
		case unix.RTAX_ADVMSS:
			r.AdvMSS = int(decode32(v))
		}
	}
}
