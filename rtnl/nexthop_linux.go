package rtnl

import (
	"context"

	"golang.org/x/sys/unix"
)

// Nexthops returns the nexthop objects with protocol p, or all if p is 0. Of a group or blackhole it returns ID and protocol: rtnl
// cannot write those.
func (c *Conn) Nexthops(ctx context.Context, p Protocol) ([]Nexthop, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	var names map[int32]string
	t := table{typ: unix.RTM_GETNEXTHOP, filter: RouteFilter{Protocol: p}}
	room := c.read.sizes.room(t)
	nexthops, out := make([]Nexthop, 0, room), make([]int32, 0, room)
	r, err := c.read.dump(ctx, unix.RTM_GETNEXTHOP, // the kernel filters by device only, not by protocol (6.18)
		func(e *encoder) { encodeNhMsg(e, unix.AF_UNSPEC, 0, 0) },
		func() { nexthops, out = nexthops[:0], out[:0] },
		func(m message) {
			if n, index, ok := decodeNexthop(m.body); ok && (p == 0 || n.Protocol == p) {
				nexthops, out = append(nexthops, n), append(out, index)
			}
		})
	if err == nil {
		err = r.error("nexthop dump", "")
	}
	if err != nil {
		return nil, err
	}
	c.read.sizes.remember(t, len(nexthops))
	if len(nexthops) == 0 {
		return nil, nil
	}
	if names, err = c.read.linkNames(ctx); err != nil {
		return nil, err
	}
	for i := range nexthops {
		nexthops[i].Link = names[out[i]]
	}
	return nexthops, nil
}

// encodeNhMsg writes a struct nhmsg.
func encodeNhMsg(e *encoder, family uint8, p Protocol, flags uint32) {
	e.u8(family, 0, uint8(p), 0)
	e.u32(flags)
}

func encodeNexthop(e *encoder, n Nexthop, index int32, verb Verb) {
	if verb == Delete {
		encodeNhMsg(e, unix.AF_UNSPEC, 0, 0)
		e.attr32(unix.NHA_ID, n.ID)
		return
	}
	family := uint8(unix.AF_INET)
	if n.Gateway.Is6() {
		family = unix.AF_INET6
	}
	var flags uint32
	if n.Onlink {
		flags = unix.RTNH_F_ONLINK
	}
	encodeNhMsg(e, family, n.Protocol, flags)
	e.attr32(unix.NHA_ID, n.ID)
	if n.Gateway.IsValid() {
		e.attrIP(unix.NHA_GATEWAY, n.Gateway)
	}
	if index != 0 {
		e.attr32(unix.NHA_OIF, uint32(index))
	}
}

// decodeNexthop returns a nexthop without the name of its device, and that device's index.
func decodeNexthop(body []byte) (n Nexthop, index int32, ok bool) {
	if len(body) < unix.SizeofNhmsg {
		return Nexthop{}, 0, false
	}
	n.Protocol = Protocol(body[2])
	n.Onlink = native.Uint32(body[4:])&unix.RTNH_F_ONLINK != 0
	for typ, v := range attributes(body[unix.SizeofNhmsg:]) {
		switch typ {
		case unix.NHA_ID:
			n.ID = decode32(v)
		case unix.NHA_OIF:
			index = int32(decode32(v))
		case unix.NHA_GATEWAY:
			n.Gateway = decodeIP(v)
		}
	}
	return n, index, n.ID != 0
}
