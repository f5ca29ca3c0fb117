package rtnl

import (
	"context"

	"golang.org/x/sys/unix"
)

// Neighs returns the neighbour entries of a device, without those in state NUD_NOARP or NUD_NONE (multicast).
func (c *Conn) Neighs(ctx context.Context, link string) ([]Neigh, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	t := table{typ: unix.RTM_GETNEIGH, family: unix.AF_UNSPEC, filter: RouteFilter{Link: link}}
	neighs := make([]Neigh, 0, c.read.sizes.room(t))
	err := c.read.dumpNeighs(ctx, "neigh dump", unix.AF_UNSPEC, link, func() { neighs = neighs[:0] }, func(n observedNeigh) {
		if n.family != unix.AF_BRIDGE && n.flags&unix.NTF_PROXY == 0 && n.state&^unix.NUD_NOARP != 0 && n.IP.IsValid() {
			n.Link = link
			neighs = append(neighs, n.Neigh)
		}
	})
	if err != nil {
		return nil, err
	}
	c.read.sizes.remember(t, len(neighs))
	if len(neighs) == 0 {
		return nil, nil
	}
	return neighs, nil
}

// FDB returns the unicast forwarding entries with a destination of a VXLAN device, without those that it learned: they expire.
func (c *Conn) FDB(ctx context.Context, link string) ([]FDB, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	t := table{typ: unix.RTM_GETNEIGH, family: unix.AF_BRIDGE, filter: RouteFilter{Link: link}}
	entries := make([]FDB, 0, c.read.sizes.room(t))
	err := c.read.dumpNeighs(ctx, "fdb dump", unix.AF_BRIDGE, link, func() { entries = entries[:0] }, func(n observedNeigh) {
		if n.family == unix.AF_BRIDGE && n.flags&unix.NTF_SELF != 0 && n.Permanent &&
			n.IP.IsValid() && !n.MAC.IsZero() && !n.MAC.IsMulticast() {
			entries = append(entries, FDB{Link: link, MAC: n.MAC, Dst: n.IP})
		}
	})
	if err != nil {
		return nil, err
	}
	c.read.sizes.remember(t, len(entries))
	if len(entries) == 0 {
		return nil, nil
	}
	return entries, nil
}

// dumpNeighs visits the neighbours, or with AF_BRIDGE the forwarding entries, of one device.
func (s *socket) dumpNeighs(ctx context.Context, op string, family uint8, link string, restart func(), visit func(observedNeigh)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	index, err := s.index(link)
	if err != nil {
		return err
	}
	r, err := s.dump(ctx, unix.RTM_GETNEIGH,
		func(e *encoder) {
			encodeNdMsg(e, family, 0, 0, 0)
			e.attr32(unix.NDA_IFINDEX, uint32(index))
		},
		restart,
		func(m message) {
			if n, ok := decodeNeigh(m.body); ok && n.index == index {
				visit(n)
			}
		})
	if err == nil {
		err = r.error(op, link)
	}
	return err
}

// encodeNdMsg writes a struct ndmsg.
func encodeNdMsg(e *encoder, family uint8, index int32, state uint16, flags uint8) {
	e.u8(family, 0, 0, 0)
	e.u32(uint32(index))
	e.buf = native.AppendUint16(e.buf, state)
	e.u8(flags, 0)
}

func encodeNeigh(e *encoder, n Neigh, index int32, verb Verb) {
	state := uint16(unix.NUD_REACHABLE)
	if n.Permanent {
		state = unix.NUD_PERMANENT
	}
	encodeNdMsg(e, addressFamily(FamilyOf(n.IP)), index, state, 0)
	e.attrIP(unix.NDA_DST, n.IP)
	if verb != Delete && !n.MAC.IsZero() {
		e.attrMAC(unix.NDA_LLADDR, n.MAC)
	}
}

func encodeFDB(e *encoder, f FDB, index int32) {
	encodeNdMsg(e, unix.AF_BRIDGE, index, unix.NUD_PERMANENT, unix.NTF_SELF)
	e.attrMAC(unix.NDA_LLADDR, f.MAC)
	if f.Dst.IsValid() {
		e.attrIP(unix.NDA_DST, f.Dst)
	}
}

// observedNeigh is what an RTM_NEWNEIGH says.
type observedNeigh struct {
	family, flags uint8
	state         uint16
	index         int32
	Neigh
}

func decodeNeigh(body []byte) (observedNeigh, bool) {
	if len(body) < unix.SizeofNdMsg {
		return observedNeigh{}, false
	}
	n := observedNeigh{family: body[0], index: int32(native.Uint32(body[4:])), state: native.Uint16(body[8:]), flags: body[10]}
	for typ, v := range attributes(body[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			n.IP = decodeIP(v)
		case unix.NDA_LLADDR:
			n.MAC = decodeMAC(v)
		}
	}
	n.Permanent = n.state&unix.NUD_PERMANENT != 0
	return n, n.index > 0
}
