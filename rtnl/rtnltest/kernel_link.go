package rtnltest

import (
	"net/netip"
	"path"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

const (
	minMTU      = 68
	maxMTU      = 65535
	maxAlias    = 255
	maxVNI      = 1<<24 - 1
	defaultPort = 8472
)

// checkMTU refuses what no device takes; 0 passes.
func checkMTU(mtu int) *refusal {
	switch {
	case mtu < 0 || mtu > 0 && mtu < minMTU:
		return refuse(syscall.EINVAL, "mtu less than device minimum")
	case mtu > maxMTU:
		return refuse(syscall.EINVAL, "mtu greater than device maximum")
	}
	return nil
}

func checkMAC(m rtnl.MAC) *refusal {
	if m.IsMulticast() {
		return refuse(syscall.EADDRNOTAVAIL, "")
	}
	return nil
}

// first returns the first refusal.
func first(refusals ...*refusal) *refusal {
	for _, r := range refusals {
		if r != nil {
			return r
		}
	}
	return nil
}

// addLink makes a bridge, a veth pair or a vxlan device, wholly or not at all.
func (n *FakeNetns) addLink(l rtnl.Link) *refusal {
	validMTU := checkMTU(l.MTU)
	if l.Kind == rtnl.KindBridge { // its MTU is looked at later
		validMTU = nil
	}
	if r := first(checkMAC(l.MAC), validMTU); r != nil {
		return r
	}
	if n.devices[l.Name] != nil {
		return refuse(syscall.EEXIST, "")
	}
	var d *device
	r := checkMTU(l.MTU)
	switch {
	case r != nil:
	case l.Kind == rtnl.KindBridge:
		d = n.newDevice(bare(l))
		if l.MTU == 0 {
			d.MTU = 1500
		}
		d.carrier = l.MAC.IsZero()
	case l.Kind == rtnl.KindVeth:
		d, r = n.newVeth(l)
	default:
		d, r = n.newVXLAN(l)
	}
	if r != nil {
		return r
	}
	d.Alias = ""
	d.setUp(l.Up == rtnl.On)
	r = d.changeMaster(l)
	if r == nil {
		r = first(checkAlias(l.Alias), d.changeHairpin(l.Hairpin), d.changeTxChecksum(l.TxChecksum))
	}
	if r != nil {
		d.remove()
		return r
	}
	return d.changeAlias(l)
}

// bare returns what a new device of any kind takes from l.
func bare(l rtnl.Link) rtnl.Link {
	return rtnl.Link{Name: l.Name, Kind: l.Kind, MTU: l.MTU, MAC: l.MAC, Alias: l.Alias}
}

// newVeth makes both ends of a pair, the far one first as the kernel does.
func (n *FakeNetns) newVeth(l rtnl.Link) (*device, *refusal) {
	far := n
	if where := l.Veth.PeerNetns; where != "" {
		if far = n.k.netns[netnsName(where)]; far == nil {
			if n.k.netns[netnsName(path.Dir(where))] != nil {
				return nil, refuse(syscall.ENOTDIR, "")
			}
			return nil, refuse(syscall.ENOENT, "no netns "+where)
		}
	}
	if far.devices[l.Veth.Peer] != nil || far == n && l.Veth.Peer == l.Name {
		return nil, refuse(syscall.EEXIST, "")
	}
	if l.Veth.PeerMAC.IsMulticast() {
		return nil, refuse(syscall.EADDRNOTAVAIL, "")
	}
	mtu := l.MTU
	if mtu == 0 {
		mtu = 1500
	}
	near := bare(l)
	near.MTU = mtu
	p := far.newDevice(rtnl.Link{Name: l.Veth.Peer, Kind: rtnl.KindVeth, MAC: l.Veth.PeerMAC, MTU: mtu})
	d := n.newDevice(near)
	d.peer, p.peer = p, d
	return d, nil
}

// overhead is what VXLAN adds to an inner IP packet: Ethernet 14, VXLAN 8, UDP 8 and the outer IP header.
func overhead(local netip.Addr) int {
	if local.Is6() {
		return 70
	}
	return 50
}

func (n *FakeNetns) newVXLAN(l rtnl.Link) (*device, *refusal) {
	v := l.VXLAN
	if v.VNI > maxVNI {
		return nil, refuse(syscall.ERANGE, "")
	}
	if v.Port == 0 {
		v.Port = defaultPort
	}
	if v.Learning == rtnl.Unset {
		v.Learning = rtnl.On
	}
	mtu := l.MTU
	var lower *device
	if v.Underlay != "" {
		if lower = n.devices[v.Underlay]; v.Local.Is6() && lower.disabledIPv6() {
			return nil, refuse(syscall.EPERM, "IPv6 support disabled by administrator")
		}
		// Silently clamped, 6.18; later the same MTU is EINVAL.
		if most := max(lower.MTU-overhead(v.Local), minMTU); mtu == 0 || mtu > most {
			mtu = most
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	for _, o := range n.devices {
		if o.Kind == rtnl.KindVXLAN && o.VXLAN.VNI == v.VNI && o.VXLAN.Port == v.Port && o.VXLAN.Local.Is6() == v.Local.Is6() {
			return nil, refuse(syscall.EEXIST, "A VXLAN device with the specified VNI already exists")
		}
	}
	made := bare(l)
	made.MTU = mtu
	d := n.newDevice(made)
	d.VXLAN = v
	d.VXLAN.Underlay = ""
	d.TxChecksum = rtnl.On
	if l.TxChecksum != rtnl.Unset {
		d.TxChecksum = l.TxChecksum
	}
	d.setLower(lower)
	return d, nil
}

func (d *device) setLower(lower *device) {
	if d.lower = lower; lower != nil {
		lower.upper = append(lower.upper, d)
	}
}

// setLink changes the non-zero fields of a device.
func (n *FakeNetns) setLink(l rtnl.Link) *refusal {
	d, r := n.device(l.Name)
	if r != nil {
		return first(checkAlias(l.Alias), r)
	}
	switch {
	case l.Kind != "" && l.Kind != d.Kind, l.VXLAN != (rtnl.VXLAN{}) && l.Kind != rtnl.KindVXLAN:
		return unmodelled("another kind")
	case l.Veth != (rtnl.Veth{}):
		return unmodelled("another peer of a veth")
	case d.Name == "lo" && (!l.MAC.IsZero() || l.Alias != "" || l.MTU != 0):
		return unmodelled("address, alias or MTU of lo")
	}
	r = checkAlias(l.Alias)
	if r == nil && l.VXLAN != (rtnl.VXLAN{}) {
		if r = first(checkMAC(l.MAC), checkMTU(l.MTU), d.checkVXLAN(l.VXLAN)); r == nil {
			d.setVXLAN(l.VXLAN)
		}
	}
	if r == nil {
		r = d.change(l)
	}
	// Whether a port may hairpin is a message of its own.
	if r = first(r, d.changeHairpin(l.Hairpin)); r != nil {
		return r
	}
	return d.changeTxChecksum(l.TxChecksum)
}

// checkVXLAN refuses what the kernel does not change on an existing device.
func (d *device) checkVXLAN(v rtnl.VXLAN) *refusal {
	switch {
	case v.VNI > maxVNI:
		return refuse(syscall.ERANGE, "")
	case v.VNI != 0 && v.VNI != d.VXLAN.VNI:
		return refuse(syscall.EOPNOTSUPP, "Cannot change VNI")
	case v.Local.IsValid() && v.Local.Is6() != d.VXLAN.Local.Is6():
		return refuse(syscall.EOPNOTSUPP, "New local address family does not match old")
	case v.Port != 0:
		return refuse(syscall.EOPNOTSUPP, "Cannot change port")
	case v.Underlay != "" && (d.lower == nil || v.Underlay != d.lower.Name):
		return unmodelled("another underlay of a vxlan device")
	}
	return nil
}

func (d *device) setVXLAN(v rtnl.VXLAN) {
	if v.Local.IsValid() {
		d.VXLAN.Local = v.Local
	}
	if v.Learning != rtnl.Unset {
		d.VXLAN.Learning = v.Learning
	}
}

// change sets the fields that every kind has, in the kernel's order (do_setlink): what comes before a refusal stays done.
func (d *device) change(l rtnl.Link) *refusal {
	for _, step := range []func(rtnl.Link) *refusal{d.changeMAC, d.changeMTU, d.changeAlias, d.changeMaster} {
		if r := step(l); r != nil {
			return r
		}
	}
	if l.Up != rtnl.Unset {
		d.setUp(l.Up == rtnl.On)
	}
	d.emit("link", false)
	return nil
}

func (d *device) changeHairpin(s rtnl.Switch) *refusal {
	switch {
	case s == rtnl.Unset:
		return nil
	case d.master == nil:
		return refuse(syscall.EOPNOTSUPP, "not a bridge port")
	}
	d.Hairpin = s
	d.emit("link", false)
	return nil
}

func (d *device) changeTxChecksum(s rtnl.Switch) *refusal {
	switch {
	case s == rtnl.Unset:
		return nil
	case d.Kind != rtnl.KindVXLAN:
		return refuse(syscall.EOPNOTSUPP, "")
	}
	d.TxChecksum = s
	return nil
}

func (d *device) changeMAC(l rtnl.Link) *refusal {
	if l.MAC.IsZero() {
		return nil
	}
	if r := checkMAC(l.MAC); r != nil {
		return r
	}
	changed := d.MAC != l.MAC
	d.MAC, d.macSet = l.MAC, true
	d.flushNeighs(rtnl.AnyFamily) // even if it was the same, 6.18
	switch {
	case d.master != nil:
		d.master.followPorts()
	case changed && d.Kind == rtnl.KindBridge:
		d.selectPorts()
	}
	return nil
}

func (d *device) changeMTU(l rtnl.Link) *refusal {
	if l.MTU == 0 || l.MTU == d.MTU { // the same MTU does not even pin that of a bridge, 6.18
		return nil
	}
	if r := checkMTU(l.MTU); r != nil {
		return r
	}
	if d.lower != nil && l.MTU > max(d.lower.MTU-overhead(d.VXLAN.Local), minMTU) {
		return refuse(syscall.EINVAL, "")
	}
	d.mtuSet = true
	d.setMTU(l.MTU)
	if d.master != nil {
		d.master.followPorts()
	}
	return nil
}

func checkAlias(alias string) *refusal {
	if len(alias) > maxAlias {
		return refuse(syscall.ERANGE, "Attribute failed policy validation")
	}
	return nil
}

func (d *device) changeAlias(l rtnl.Link) *refusal {
	if l.Alias != "" {
		d.Alias = l.Alias
	}
	return nil
}

func (d *device) changeMaster(l rtnl.Link) *refusal {
	if l.Master == "" {
		return nil
	}
	b, r := d.ns.device(l.Master)
	switch {
	case r != nil:
		return r
	case b == d.master:
		return nil
	}
	d.enslave(nil) // even if the new one is refused
	switch {
	case b.Kind != rtnl.KindBridge:
		return refuse(syscall.EOPNOTSUPP, "")
	case d.Name == "lo":
		return refuse(syscall.EINVAL, "")
	case d.Kind == rtnl.KindBridge:
		return refuse(syscall.ELOOP, "Can not enslave a bridge to a bridge")
	}
	d.enslave(b)
	return nil
}

func (n *FakeNetns) deleteLink(l rtnl.Link) *refusal {
	d, r := n.device(l.Name)
	if r != nil {
		return r
	}
	if d.Kind == "" {
		return refuse(syscall.EOPNOTSUPP, "") // lo and physical devices
	}
	d.remove()
	return nil
}
