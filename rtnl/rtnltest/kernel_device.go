package rtnltest

import (
	"bytes"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"

	"github.com/podnet/podnet/rtnl"
)

// device is a network device. Its embedded Link holds what was set; what follows from other devices (Index, Master, Running, Veth) is
// filled in by observe.
type device struct {
	rtnl.Link
	ns    *FakeNetns
	index int

	macSet  bool      // a bridge with a MAC of its own does not take that of its ports
	mtuSet  bool      // a bridge whose MTU was set does not follow its ports
	carrier bool      // bridges only, see selectPorts
	master  *device   // the bridge this is a port of
	ports   []*device // of a bridge
	peer    *device   // veth
	segment *Segment  // uplink
	lower   *device   // vxlan: its underlay
	upper   []*device // vxlan devices that have this one as underlay

	addrs  []address
	neighs map[netip.Addr]rtnl.Neigh
	fdb    map[rtnl.MAC]rtnl.FDB
	routes int // routes out of this device: most devices have few and need no walk over the table
}

// newDevice registers a device, with a MAC of its own unless l has one. Up, Master and what the kinds have are set later.
func (n *FakeNetns) newDevice(l rtnl.Link) *device {
	n.lastIndex++
	n.births[l.Name]++
	d := &device{Link: l, ns: n, index: n.lastIndex, carrier: true, macSet: !l.MAC.IsZero()}
	d.Up, d.Master = rtnl.Off, ""
	if l.MAC.IsZero() && l.Name != "lo" {
		d.MAC = n.newMAC(l.Name)
	}
	n.devices[l.Name] = d
	n.bornSysctls(l.Name)
	d.emit("link", false)
	return d
}

// newMAC returns a locally administered address that depends on namespace, name and how often a device of that name was made: dumps are
// reproducible, and yet a device that is made again has another address, as in the kernel.
func (n *FakeNetns) newMAC(name string) rtnl.MAC {
	h := fnv.New64a()
	h.Write([]byte(n.name + "\x00" + name + "\x00" + strconv.Itoa(n.births[name])))
	sum := h.Sum(nil)
	m := rtnl.MAC(sum[2:8])
	m[0] = m[0]&^1 | 2
	return m
}

// observe returns the device as a dump shows it.
func (d *device) observe() rtnl.Link {
	l := d.Link
	l.Index = d.index
	l.Running = d.running()
	if d.master != nil {
		l.Master = d.master.Name
	} else {
		l.Hairpin = rtnl.Unset
	}
	if d.peer != nil {
		l.Veth.PeerIndex = d.peer.index
		if d.peer.ns == d.ns {
			l.Veth.Peer = d.peer.Name
		}
	}
	if d.lower != nil {
		l.VXLAN.Underlay = d.lower.Name
	}
	return l
}

func (d *device) up() bool { return d.Up == rtnl.On }

// hasCarrier reports whether the other side is there.
func (d *device) hasCarrier() bool {
	switch {
	case d.peer != nil:
		return d.up() && d.peer.up()
	case d.Kind == rtnl.KindBridge:
		return d.carrier
	}
	return true
}

// running reports IFF_RUNNING: up and with carrier.
func (d *device) running() bool { return d.up() && d.hasCarrier() }

// setUp changes the administrative state with all that follows.
func (d *device) setUp(up bool) {
	if d.up() == up {
		return
	}
	if up {
		d.Up = rtnl.On
		d.emit("link", false)
		if d.Name == "lo" {
			d.loopbackAddrs()
		}
		d.restoreConnected()
	} else {
		d.Up = rtnl.Off
		d.emit("link", false)
		d.flushIPv4Routes(false)
		d.ifdownIPv6(false)
		d.flushNeighs(rtnl.AnyFamily)
		d.flushNexthops()
	}
	d.portChanged()
	for _, p := range d.ports {
		if up && p.running() {
			d.selectPorts()
		}
	}
	if !up && len(d.ports) > 0 {
		d.selectPorts()
	}
	d.carrierChanged()
	if d.peer != nil {
		d.peer.emit("link", false)
		d.peer.portChanged()
		d.peer.carrierChanged()
	}
}

// carrierChanged does what the kernel does when operational state comes or goes.
func (d *device) carrierChanged() {
	if d.running() {
		d.addLinkLocal()
		return
	}
	if d.up() { // carrier lost: nexthop objects go, and neighbours that are not permanent
		d.flushNexthops()
		for ip, n := range d.neighs {
			if !n.Permanent {
				delete(d.neighs, ip)
				d.emit("neigh", true)
			}
		}
	}
}

// portChanged tells the bridge that one of its ports went up or down.
func (d *device) portChanged() {
	if d.master != nil && d.master.up() {
		d.master.selectPorts()
	}
}

// selectPorts sets a bridge's carrier: there while a port runs. Before this is called for the first time a bridge has carrier: it is
// called when a port comes, changes or goes, and when the bridge's MAC changes, also by being set at creation (6.18).
func (d *device) selectPorts() {
	before := d.running()
	d.carrier = d.up() && slices.ContainsFunc(d.ports, (*device).running)
	if d.running() != before {
		d.emit("link", false)
		d.carrierChanged()
	}
}

// enslave makes d a port of bridge b, or of none if b is nil.
func (d *device) enslave(b *device) {
	if d.master == b {
		return
	}
	if old := d.master; old != nil {
		old.ports = slices.DeleteFunc(old.ports, func(p *device) bool { return p == d })
		d.master = nil
		old.followPorts()
		old.selectPorts()
	}
	d.Hairpin = rtnl.Unset
	if b != nil {
		d.master = b
		d.Hairpin = rtnl.Off
		b.ports = append(b.ports, d)
		b.followPorts()
		if b.up() && d.running() {
			b.selectPorts()
		}
	}
	d.emit("link", false)
}

// followPorts recomputes what a bridge takes from its ports: the lowest MAC (all zero without ports, 6.18) and the lowest MTU.
func (d *device) followPorts() {
	mac, mtu := d.MAC, d.MTU
	if !d.macSet {
		d.MAC = rtnl.MAC{}
		for i, p := range d.ports {
			if i == 0 || bytes.Compare(p.MAC[:], d.MAC[:]) < 0 {
				d.MAC = p.MAC
			}
		}
	}
	if !d.mtuSet {
		least := 0
		for _, p := range d.ports {
			if least == 0 || p.MTU < least {
				least = p.MTU
			}
		}
		if least == 0 {
			least = 1500
		}
		d.setMTU(least)
	}
	if d.MAC != mac {
		d.flushNeighs(rtnl.AnyFamily)
		d.selectPorts()
	}
	if d.MAC != mac || d.MTU != mtu {
		d.emit("link", false)
	}
}

// remove unregisters a device and all that depends on it.
func (d *device) remove() {
	n := d.ns
	if n.devices[d.Name] != d {
		return
	}
	d.setUp(false)
	for _, v := range slices.Clone(d.upper) {
		v.remove()
	}
	for _, p := range slices.Clone(d.ports) {
		p.enslave(nil)
	}
	d.enslave(nil)
	if d.lower != nil {
		d.lower.upper = slices.DeleteFunc(d.lower.upper, func(v *device) bool { return v == d })
	}
	if d.segment != nil {
		d.segment.ports = slices.DeleteFunc(d.segment.ports, func(p *device) bool { return p == d })
	}
	d.flushIPv4Routes(true)
	d.ifdownIPv6(true)
	for len(d.addrs) > 0 {
		d.dropAddr(len(d.addrs) - 1)
	}
	d.flushNeighs(rtnl.AnyFamily)
	for range d.fdb {
		d.emit("neigh", true)
	}
	d.flushNexthops()
	delete(n.devices, d.Name)
	n.diedSysctls(d.Name)
	d.emit("link", true)
	if p := d.peer; p != nil {
		d.peer, p.peer = nil, nil
		p.remove()
	}
}
