package rtnl

import (
	"golang.org/x/sys/unix"
)

// link adds the messages for a change of a device.
func (w *writer) link(i int, v Verb, l Link) {
	switch v {
	case Add:
		w.addLink(i, l)
	case Set:
		w.setLink(i, l)
	case Delete:
		w.relinked[l.Name] = true
		w.message(i, unix.RTM_DELLINK, 0, func(e *encoder) {
			encodeIfInfo(e, unix.AF_UNSPEC, 0, 0, 0)
			e.text(unix.IFLA_IFNAME, l.Name)
		})
	}
}

// links are the devices that a link message refers to.
type links struct {
	master, underlay int32
	peerNetns        int // file descriptor, -1 for none
}

func (w *writer) links(i int, l Link) (refs links, ok bool) {
	refs.peerNetns = -1
	if l.Master != "" {
		if refs.master, ok = w.index(i, l.Master); !ok {
			return refs, false
		}
	}
	if l.Kind == KindVXLAN && l.VXLAN.Underlay != "" {
		if refs.underlay, ok = w.index(i, l.VXLAN.Underlay); !ok {
			return refs, false
		}
	}
	return refs, true
}

// addLink makes a device. What RTM_NEWLINK does not take for a new device (the alias, whether a bridge port may hairpin, offloads;
// Linux 6.18) follows in finishLinks once it is known that the device is new.
func (w *writer) addLink(i int, l Link) {
	refs, ok := w.links(i, l)
	if !ok {
		return
	}
	if l.Kind == KindVeth && l.Veth.PeerNetns != "" {
		fd, err := unix.Open(l.Veth.PeerNetns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			w.fail(i, err)
			return
		}
		refs.peerNetns = fd
		w.netns = append(w.netns, fd)
	}
	w.relinked[l.Name] = true
	if l.Kind == KindVeth && l.Veth.PeerNetns == "" {
		w.relinked[l.Veth.Peer] = true
	}
	if l.Alias != "" || l.Hairpin != Unset || l.TxChecksum != Unset {
		w.finish = append(w.finish, i)
	}
	w.message(i, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, func(e *encoder) {
		encodeLink(e, l, refs)
		info := e.nest(unix.IFLA_LINKINFO)
		e.text(unix.IFLA_INFO_KIND, string(l.Kind))
		data := e.nest(unix.IFLA_INFO_DATA)
		switch l.Kind {
		case KindVeth:
			encodePeer(e, l, refs)
		case KindVXLAN:
			encodeVXLAN(e, l.VXLAN, refs)
		}
		e.endNest(data)
		e.endNest(info)
	})
}

// finishLinks does the second step of additions. A device that cannot be finished is removed: an addition is done wholly or not at all.
func (w *writer) finishLinks(changes []int) {
	var offloads, made []int
	for _, i := range changes {
		if w.failed(i) {
			continue
		}
		made = append(made, i)
		l := w.plan[i].Object.(Link)
		if l.Alias != "" || l.Hairpin != Unset {
			w.message(i, unix.RTM_NEWLINK, 0, func(e *encoder) {
				encodeLink(e, Link{Name: l.Name}, links{})
				encodeAlias(e, l.Alias)
				encodeHairpin(e, l.Hairpin)
			})
		}
		if l.TxChecksum != Unset {
			offloads = append(offloads, i)
		}
	}
	w.exchange()
	for _, i := range offloads {
		l := w.plan[i].Object.(Link)
		if err := w.conn.setTxChecksum(l.Name, l.TxChecksum); err != nil {
			w.fail(i, err)
		}
	}
	for _, i := range made {
		if w.failed(i) {
			w.link(i, Delete, w.plan[i].Object.(Link))
		}
	}
	w.flush()
}

// setLink changes an existing device. Whether a port may hairpin is sent after the message that may make it a port: the kernel
// looks at IFLA_INFO_SLAVE_DATA before IFLA_MASTER.
func (w *writer) setLink(i int, l Link) {
	refs, ok := w.links(i, l)
	if !ok {
		return
	}
	w.message(i, unix.RTM_NEWLINK, 0, func(e *encoder) {
		encodeLink(e, l, refs)
		encodeAlias(e, l.Alias)
		if l.Kind == KindVXLAN && l.VXLAN != (VXLAN{}) {
			info := e.nest(unix.IFLA_LINKINFO)
			e.text(unix.IFLA_INFO_KIND, string(l.Kind))
			data := e.nest(unix.IFLA_INFO_DATA)
			encodeVXLAN(e, l.VXLAN, refs)
			e.endNest(data)
			e.endNest(info)
		}
	})
	if l.Hairpin != Unset {
		w.message(i, unix.RTM_NEWLINK, 0, func(e *encoder) {
			encodeLink(e, Link{Name: l.Name}, links{})
			encodeHairpin(e, l.Hairpin)
		})
	}
	if l.TxChecksum != Unset {
		w.flush()
		if w.failed(i) {
			return
		}
		if err := w.setVXLANChecksum(l); err != nil {
			w.fail(i, err)
		}
	}
}

func (w *writer) setVXLANChecksum(l Link) error {
	have, err := w.socket.link(l.Name)
	if err != nil {
		return err
	}
	if have.Kind != KindVXLAN {
		return unix.EOPNOTSUPP
	}
	return w.conn.setTxChecksum(l.Name, l.TxChecksum)
}

// encodeLink writes what every kind of device has; it is found by name.
func encodeLink(e *encoder, l Link, refs links) {
	var flags, change uint32
	if l.Up != Unset {
		change = unix.IFF_UP
	}
	if l.Up == On {
		flags = unix.IFF_UP
	}
	encodeIfInfo(e, unix.AF_UNSPEC, 0, flags, change)
	e.text(unix.IFLA_IFNAME, l.Name)
	if l.MTU != 0 {
		e.attr32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if !l.MAC.IsZero() {
		e.attrMAC(unix.IFLA_ADDRESS, l.MAC)
	}
	if refs.master != 0 {
		e.attr32(unix.IFLA_MASTER, uint32(refs.master))
	}
}

func encodeAlias(e *encoder, alias string) {
	if alias != "" {
		e.bytes(unix.IFLA_IFALIAS, []byte(alias)) // a final NUL would count as part of it
	}
}

// encodePeer writes the other end of a veth pair: born in its network namespace, down.
func encodePeer(e *encoder, l Link, refs links) {
	peer := e.nest(vethInfoPeer)
	encodeIfInfo(e, unix.AF_UNSPEC, 0, 0, 0)
	if l.Veth.Peer != "" {
		e.text(unix.IFLA_IFNAME, l.Veth.Peer)
	}
	if l.MTU != 0 {
		e.attr32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if !l.Veth.PeerMAC.IsZero() {
		e.attrMAC(unix.IFLA_ADDRESS, l.Veth.PeerMAC)
	}
	if refs.peerNetns >= 0 {
		e.attr32(unix.IFLA_NET_NS_FD, uint32(refs.peerNetns))
	}
	e.endNest(peer)
}

func encodeVXLAN(e *encoder, v VXLAN, refs links) {
	if v.VNI != 0 {
		e.attr32(unix.IFLA_VXLAN_ID, v.VNI)
	}
	if refs.underlay != 0 {
		e.attr32(unix.IFLA_VXLAN_LINK, uint32(refs.underlay))
	}
	switch {
	case v.Local.Is4():
		e.attrIP(unix.IFLA_VXLAN_LOCAL, v.Local)
	case v.Local.Is6():
		e.attrIP(unix.IFLA_VXLAN_LOCAL6, v.Local)
	}
	if v.Learning != Unset {
		var learning uint8
		if v.Learning == On {
			learning = 1
		}
		e.attr8(unix.IFLA_VXLAN_LEARNING, learning)
	}
	if v.Port != 0 {
		e.attrPort(unix.IFLA_VXLAN_PORT, v.Port)
	}
}

// encodeHairpin writes a bridge port's setting; with Unset nothing.
func encodeHairpin(e *encoder, s Switch) {
	if s == Unset {
		return
	}
	var mode uint8
	if s == On {
		mode = 1
	}
	info := e.nest(unix.IFLA_LINKINFO)
	e.text(unix.IFLA_INFO_SLAVE_KIND, string(KindBridge))
	data := e.nest(unix.IFLA_INFO_SLAVE_DATA)
	e.attr8(unix.IFLA_BRPORT_MODE, mode)
	e.endNest(data)
	e.endNest(info)
}
