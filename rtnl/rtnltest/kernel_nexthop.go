package rtnltest

import (
	"slices"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

type nexthop struct {
	rtnl.Nexthop
	dev   *device
	own   bool // IPv4: the gateway is an address of ours
	users map[*route]struct{}
}

func (n *FakeNetns) addNexthop(o rtnl.Nexthop) *refusal {
	dev, no := n.checkNexthop(o)
	switch {
	case no != nil:
		return no
	case n.nexthops[o.ID] != nil:
		return refuse(syscall.EEXIST, "")
	}
	nh := &nexthop{Nexthop: o, dev: dev, own: n.isOwn(o.Gateway), users: make(map[*route]struct{})}
	n.nexthops[o.ID] = nh
	n.emitNexthop(nh, false)
	return nil
}

func (n *FakeNetns) replaceNexthop(o rtnl.Nexthop) *refusal {
	dev, no := n.checkNexthop(o)
	if no != nil {
		return no
	}
	nh := n.nexthops[o.ID]
	if nh == nil {
		return n.addNexthop(o)
	}
	for r := range nh.users {
		if r.Dst.Addr().Is6() && !o.Gateway.Is6() {
			return refuse(syscall.EINVAL, "IPv6 routes can not use an IPv4 nexthop")
		}
	}
	nh.Nexthop, nh.dev, nh.own = o, dev, n.isOwn(o.Gateway)
	n.emitNexthop(nh, false)
	return nil
}

// checkNexthop checks as the kernel does: unlike a route, a nexthop object wants a device that is up and has carrier.
func (n *FakeNetns) checkNexthop(o rtnl.Nexthop) (*device, *refusal) {
	if o.Link == "" {
		return nil, refuse(syscall.EINVAL, "Device attribute required for non-blackhole and non-fdb nexthops")
	}
	d, no := n.device(o.Link)
	switch {
	case no != nil:
		return nil, no
	case o.ID == 0:
		return nil, unmodelled("a nexthop ID chosen by the kernel")
	case !d.up():
		return nil, refuse(syscall.ENETDOWN, "Nexthop device is not up")
	case !d.hasCarrier():
		return nil, refuse(syscall.ENETDOWN, "Carrier for nexthop device is down")
	case !o.Gateway.IsValid() && o.Onlink:
		return nil, refuse(syscall.EINVAL, "ONLINK flag can not be set for nexthop without a gateway")
	case o.Gateway.Is6():
		return n.checkNextHop6(d, o.Gateway, o.Onlink, rtnl.TableMain)
	}
	return n.checkNextHop4(d, o.Gateway, o.Onlink, rtnl.ScopeUniverse, rtnl.TableMain)
}

func (n *FakeNetns) deleteNexthop(o rtnl.Nexthop) *refusal {
	nh := n.nexthops[o.ID]
	if nh == nil {
		return absent(syscall.ENOENT)
	}
	n.dropNexthop(nh)
	return nil
}

// dropNexthop removes a nexthop object and its routes; only of the IPv6 ones the kernel tells.
func (n *FakeNetns) dropNexthop(nh *nexthop) {
	users := make([]*route, 0, len(nh.users))
	for r := range nh.users {
		users = append(users, r)
	}
	slices.SortFunc(users, compareRoutes)
	for _, r := range users {
		n.removeRoute(r, r.Dst.Addr().Is6())
	}
	delete(n.nexthops, nh.ID)
	n.emitNexthop(nh, true)
}

func (n *FakeNetns) emitNexthop(nh *nexthop, deleted bool) {
	n.emit(rtnl.Event{Object: "nexthop", Deleted: deleted, Link: nh.Link, Protocol: nh.Protocol})
}

// flushNexthops removes the nexthop objects out of a device.
func (d *device) flushNexthops() {
	for _, nh := range d.ns.nexthops {
		if nh.dev == d {
			d.ns.dropNexthop(nh)
		}
	}
}
