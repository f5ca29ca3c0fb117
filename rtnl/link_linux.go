package rtnl

import (
	"context"

	"golang.org/x/sys/unix"
)

// Constants that x/sys/unix v0.49 lacks.
const (
	skipStats    = 1 << 3 // RTEXT_FILTER_SKIP_STATS: 300 bytes less per device
	vethInfoPeer = 1      // VETH_INFO_PEER
)

// encodeGetLink asks for one device by index or name, or, with neither, for all.
func encodeGetLink(e *encoder, index int32, name string) {
	encodeIfInfo(e, unix.AF_UNSPEC, index, 0, 0)
	if name != "" {
		e.text(unix.IFLA_IFNAME, name)
	}
	e.attr32(unix.IFLA_EXT_MASK, skipStats)
}

// encodeIfInfo writes a struct ifinfomsg.
func encodeIfInfo(e *encoder, family uint8, index int32, flags, change uint32) {
	e.u8(family, 0, 0, 0)
	e.u32(uint32(index))
	e.u32(flags)
	e.u32(change)
}

// linkHeader is what identifies a device in a link message.
type linkHeader struct {
	family uint8
	index  int32
	flags  uint32
	name   string
}

func decodeLinkHeader(body []byte) (linkHeader, bool) {
	if len(body) < unix.SizeofIfInfomsg {
		return linkHeader{}, false
	}
	h := linkHeader{family: body[0], index: int32(native.Uint32(body[4:])), flags: native.Uint32(body[8:])}
	for typ, v := range attributes(body[unix.SizeofIfInfomsg:]) {
		if typ == unix.IFLA_IFNAME {
			h.name = decodeText(v)
			break
		}
	}
	return h, h.index > 0
}

// observedLink is a Link with the devices it refers to still as indexes.
type observedLink struct {
	Link
	master, underlay, lower int32
	elsewhere               bool // lower is an index of another network namespace
}

func decodeLink(body []byte) (observedLink, bool) {
	h, ok := decodeLinkHeader(body)
	if !ok {
		return observedLink{}, false
	}
	l := observedLink{Link: Link{Name: h.name, Index: int(h.index), Up: Off, Running: h.flags&unix.IFF_RUNNING != 0}}
	if h.flags&unix.IFF_UP != 0 {
		l.Up = On
	}
	for typ, v := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_MTU:
			l.MTU = int(decode32(v))
		case unix.IFLA_ADDRESS:
			l.MAC = decodeMAC(v)
		case unix.IFLA_IFALIAS:
			l.Alias = decodeText(v)
		case unix.IFLA_MASTER:
			l.master = int32(decode32(v))
		case unix.IFLA_LINK:
			l.lower = int32(decode32(v))
		case unix.IFLA_LINK_NETNSID:
			l.elsewhere = true
		case unix.IFLA_LINKINFO:
			decodeLinkInfo(&l, v)
		}
	}
	if l.Kind == KindVeth {
		l.Veth.PeerIndex = int(l.lower)
	}
	return l, true
}

func decodeLinkInfo(l *observedLink, info []byte) {
	var data, slaveData []byte
	var slaveKind string
	for typ, v := range attributes(info) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.Kind = Kind(decodeText(v))
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slaveKind = decodeText(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			slaveData = v
		}
	}
	if l.Kind == KindVXLAN {
		decodeVXLAN(l, data)
	}
	if slaveKind != string(KindBridge) {
		return
	}
	for typ, v := range attributes(slaveData) {
		if typ == unix.IFLA_BRPORT_MODE {
			l.Hairpin = switchOf(decode8(v) != 0)
		}
	}
}

func decodeVXLAN(l *observedLink, data []byte) {
	for typ, v := range attributes(data) {
		switch typ {
		case unix.IFLA_VXLAN_ID:
			l.VXLAN.VNI = decode32(v)
		case unix.IFLA_VXLAN_PORT:
			l.VXLAN.Port = decodePort(v)
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			if a := decodeIP(v); !a.IsUnspecified() {
				l.VXLAN.Local = a
			}
		case unix.IFLA_VXLAN_LINK:
			l.underlay = int32(decode32(v))
		case unix.IFLA_VXLAN_LEARNING:
			l.VXLAN.Learning = switchOf(decode8(v) != 0)
		}
	}
}

func switchOf(on bool) Switch {
	if on {
		return On
	}
	return Off
}

// resolve fills in the devices that l refers to.
func (l *observedLink) resolve(name func(int32) (string, error)) (err error) {
	if l.master != 0 {
		if l.Master, err = name(l.master); err != nil {
			return err
		}
	}
	if l.underlay != 0 {
		if l.VXLAN.Underlay, err = name(l.underlay); err != nil {
			return err
		}
	}
	if l.Kind == KindVeth && l.lower != 0 && !l.elsewhere {
		l.Veth.Peer, err = name(l.lower)
	}
	return err
}

// Links returns every device of the namespace.
func (c *Conn) Links(ctx context.Context) ([]Link, error) {
	observed, err := c.dumpLinks(ctx)
	if err != nil {
		return nil, err
	}
	names := make(map[int32]string, len(observed))
	for _, l := range observed {
		names[int32(l.Index)] = l.Name
	}
	links := make([]Link, len(observed))
	for i, l := range observed {
		if err := l.resolve(func(index int32) (string, error) { return names[index], nil }); err != nil {
			return nil, err
		}
		if err := c.observeTxChecksum(&l.Link); err != nil {
			return nil, err
		}
		links[i] = l.Link
	}
	return links, nil
}

func (c *Conn) dumpLinks(ctx context.Context) ([]observedLink, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	var observed []observedLink
	r, err := c.read.dump(ctx, unix.RTM_GETLINK, func(e *encoder) { encodeGetLink(e, 0, "") },
		func() { observed = observed[:0] },
		func(m message) {
			if l, ok := decodeLink(m.body); ok {
				observed = append(observed, l)
			}
		})
	if err == nil {
		err = r.error("link dump", "")
	}
	return observed, err
}

// Link returns one device; its absence is an error that matches fs.ErrNotExist.
func (c *Conn) Link(ctx context.Context, name string) (Link, error) {
	if err := ctx.Err(); err != nil {
		return Link{}, err
	}
	l, err := c.getLink(name)
	if err != nil {
		return Link{}, err
	}
	if err := c.observeTxChecksum(&l.Link); err != nil {
		return Link{}, err
	}
	return l.Link, nil
}

func (c *Conn) getLink(name string) (observedLink, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	return c.read.link(name)
}

func (s *socket) link(name string) (observedLink, error) {
	if name == "" { // would ask for index 0
		return observedLink{}, &Error{Op: "link get", Object: name, Errno: unix.ENODEV, Missing: true}
	}
	var l observedLink
	r, err := s.get(unix.RTM_GETLINK, func(e *encoder) { encodeGetLink(e, 0, name) }, func(m message) {
		l, _ = decodeLink(m.body)
	})
	if err == nil {
		err = r.error("link get", name)
	}
	if err != nil {
		return observedLink{}, err
	}
	if l.Name != name { // an alternative name of another device
		return observedLink{}, &Error{Op: "link get", Object: name, Errno: unix.ENODEV, Missing: true}
	}
	return l, l.resolve(s.linkName)
}
