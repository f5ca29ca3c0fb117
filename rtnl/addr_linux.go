package rtnl

import (
	"context"

	"golang.org/x/sys/unix"
)

// Addrs returns the addresses of a device, or of all devices if link is "". A missing device is fs.ErrNotExist.
func (c *Conn) Addrs(ctx context.Context, link string) ([]Addr, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	names, index, err := c.read.namesFor(ctx, link)
	if err != nil {
		return nil, err
	}
	var addrs []Addr
	r, err := c.read.dump(ctx, unix.RTM_GETADDR,
		func(e *encoder) { encodeIfAddr(e, unix.AF_UNSPEC, 0, index) },
		func() { addrs = addrs[:0] },
		func(m message) {
			if a, i, ok := decodeAddr(m.body); ok && (index == 0 || i == index) {
				a.Link = names[i]
				addrs = append(addrs, a)
			}
		})
	if err == nil {
		err = r.error("addr dump", link)
	}
	if err != nil {
		return nil, err
	}
	return addrs, nil
}

// namesFor returns the names by index of the devices that a dump filtered by link can tell about, and the index to filter by.
func (s *socket) namesFor(ctx context.Context, link string) (names map[int32]string, index int32, err error) {
	if link == "" {
		names, err = s.linkNames(ctx)
		return names, 0, err
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	index, err = s.index(link)
	return map[int32]string{index: link}, index, err
}

// encodeIfAddr writes a struct ifaddrmsg.
func encodeIfAddr(e *encoder, family, prefixLen uint8, index int32) {
	e.u8(family, prefixLen, 0, 0)
	e.u32(uint32(index))
}

func encodeAddr(e *encoder, a Addr, index int32) {
	ip := a.Prefix.Addr()
	encodeIfAddr(e, addressFamily(FamilyOf(ip)), uint8(a.Prefix.Bits()), index)
	e.attrIP(unix.IFA_LOCAL, ip)
	e.attrIP(unix.IFA_ADDRESS, ip)
	var flags uint32
	if a.NoDAD && ip.Is6() { // IPv4 would keep the flag and report it
		flags |= unix.IFA_F_NODAD
	}
	if a.NoPrefixRoute {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if flags != 0 {
		e.attr32(unix.IFA_FLAGS, flags)
	}
}

// decodeAddr returns an address without the name of its device, and that device's index.
func decodeAddr(body []byte) (a Addr, index int32, ok bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return Addr{}, 0, false
	}
	flags := uint32(body[2])
	index = int32(native.Uint32(body[4:]))
	var local, address []byte
	for typ, v := range attributes(body[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL: // on a point-to-point link IFA_ADDRESS is the other end
			local = v
		case unix.IFA_ADDRESS:
			address = v
		case unix.IFA_FLAGS:
			flags = decode32(v)
		}
	}
	if local == nil {
		local = address
	}
	a.Prefix, ok = makePrefix(local, body[1], body[0])
	if a.Prefix.Addr().Is6() {
		a.NoDAD = flags&unix.IFA_F_NODAD != 0
		a.Tentative = flags&unix.IFA_F_TENTATIVE != 0
		a.DADFailed = flags&unix.IFA_F_DADFAILED != 0
	}
	a.NoPrefixRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
	return a, index, ok
}
