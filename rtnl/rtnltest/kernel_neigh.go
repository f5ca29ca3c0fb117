package rtnltest

import (
	"net/netip"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

func (n *FakeNetns) addNeigh(e rtnl.Neigh) *refusal     { return n.putNeigh(e, false) }
func (n *FakeNetns) replaceNeigh(e rtnl.Neigh) *refusal { return n.putNeigh(e, true) }

func (n *FakeNetns) putNeigh(e rtnl.Neigh, replace bool) *refusal {
	d, r := n.device(e.Link)
	if r != nil {
		return r
	}
	e.IP = e.IP.WithZone("")
	switch _, exists := d.neighs[e.IP]; {
	case !e.IP.IsValid(), d.Name == "lo" && e.IP.IsLoopback():
		return refuse(syscall.EINVAL, "")
	case e.IP.IsMulticast():
		return unmodelled("multicast neighbours")
	case e.IP.Is6() && (d.MTU < minIPv6MTU || d.disabledIPv6()):
		return refuse(syscall.EINVAL, "")
	case exists && !replace:
		return refuse(syscall.EEXIST, "")
	}
	if d.neighs == nil {
		d.neighs = make(map[netip.Addr]rtnl.Neigh)
	}
	d.neighs[e.IP] = e
	d.emit("neigh", false)
	return nil
}

func (n *FakeNetns) deleteNeigh(e rtnl.Neigh) *refusal {
	d, r := n.device(e.Link)
	if r != nil {
		return r
	}
	e.IP = e.IP.WithZone("")
	if _, ok := d.neighs[e.IP]; !ok {
		return absent(syscall.ENOENT)
	}
	delete(d.neighs, e.IP)
	d.emit("neigh", true)
	return nil
}

// flushNeighs removes the neighbours of a device, permanent ones too.
func (d *device) flushNeighs(f rtnl.Family) {
	for ip := range d.neighs {
		if f == rtnl.AnyFamily || f == rtnl.FamilyOf(ip) {
			delete(d.neighs, ip)
			d.emit("neigh", true)
		}
	}
}

func (n *FakeNetns) addFDB(e rtnl.FDB) *refusal     { return n.putFDB(e, false) }
func (n *FakeNetns) replaceFDB(e rtnl.FDB) *refusal { return n.putFDB(e, true) }

func (n *FakeNetns) putFDB(e rtnl.FDB, replace bool) *refusal {
	d, r := n.vxlanDevice(e.Link)
	if r != nil {
		return r
	}
	group := e.MAC.IsZero() || e.MAC.IsMulticast()
	switch _, exists := d.fdb[e.MAC]; {
	case !e.Dst.IsValid():
		return unmodelled("a forwarding entry without destination")
	case e.Dst.Is6() != d.VXLAN.Local.Is6():
		return refuse(syscall.EAFNOSUPPORT, "")
	case exists && !replace:
		return refuse(syscall.EEXIST, "")
	case exists && group:
		return refuse(syscall.EOPNOTSUPP, "Cannot replace non-unicast fdb entries")
	}
	if d.fdb == nil {
		d.fdb = make(map[rtnl.MAC]rtnl.FDB)
	}
	d.fdb[e.MAC] = e
	d.emit("neigh", false)
	return nil
}

// deleteFDB deletes the entry of a MAC if its destination is the same, or none is named. With another destination it does nothing, and
// says nothing either (6.18).
func (n *FakeNetns) deleteFDB(e rtnl.FDB) *refusal {
	d, r := n.vxlanDevice(e.Link)
	if r != nil {
		return r
	}
	have, ok := d.fdb[e.MAC]
	switch {
	case !ok:
		return absent(syscall.ENOENT)
	case e.Dst.IsValid() && e.Dst != have.Dst:
		return nil
	}
	delete(d.fdb, e.MAC)
	d.emit("neigh", true)
	return nil
}

func (n *FakeNetns) vxlanDevice(name string) (*device, *refusal) {
	d, r := n.device(name)
	if r == nil && d.Kind != rtnl.KindVXLAN {
		r = unmodelled("forwarding entries of devices other than vxlan")
	}
	return d, r
}
