package rtnltest

import (
	"net/netip"
	"path"
	"strings"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

const (
	minMTU      = 68
	maxMTU      = 65535
	maxName     = 15
	maxAlias    = 255
	maxVNI      = 1<<24 - 1
	defaultPort = 8472
)

// checkName refuses what dev_valid_name and the attribute policy refuse, and '%', which the kernel would substitute.
func checkName(name string) *refusal {
	switch {
	case len(name) > maxName:
		return refuse(syscall.ERANGE, "")
	case name == "", name == ".", name == "..", strings.ContainsAny(name, "/:% \t\n\v\f\r"):
		return refuse(syscall.EINVAL, "")
	}
	return nil
}

// checkLink refuses values that no device takes; zero fields pass.
func checkLink(l rtnl.Link) *refusal {
	switch {
	case l.MTU < 0 || l.MTU > 0 && l.MTU < minMTU:
		return refuse(syscall.EINVAL, "mtu less than device minimum")
	case l.MTU > maxMTU:
		return refuse(syscall.EINVAL, "mtu greater than device maximum")
	case l.MAC.IsMulticast():
		return refuse(syscall.EADDRNOTAVAIL, "")
	case len(l.Alias) > maxAlias:
		return refuse(syscall.ERANGE, "")
	}
	return nil
}

// addLink makes a bridge, a veth pair or a vxlan device.
func (n *FakeNetns) addLink(l rtnl.Link) *refusal {
	if r := checkName(l.Name); r != nil {
		return r
	}
	if n.devices[l.Name] != nil {
		return refuse(syscall.EEXIST, "")
	}
	if r := checkLink(l); r != nil {
		return r
	}
	if l.TxChecksum != rtnl.Unset && l.Kind != rtnl.KindVXLAN {
		return unmodelled("tx-checksum of kind " + string(l.Kind))
	}
	bridge, r := n.bridgeFor(l)
	switch {
	case r != nil:
		return r
	case bridge == nil && l.Hairpin != rtnl.Unset:
		return refuse(syscall.EOPNOTSUPP, "not a bridge port")
	}
	var d *device
	switch l.Kind {
	case rtnl.KindBridge:
		d = n.newDevice(bare(l))
		if l.MTU == 0 {
			d.MTU = 1500
		}
		d.carrier = l.MAC.IsZero()
	case rtnl.KindVeth:
		d, r = n.newVeth(l)
	case rtnl.KindVXLAN:
		d, r = n.newVXLAN(l)
	default:
		return refuse(syscall.EOPNOTSUPP, "Unknown device type")
	}
	if r != nil {
		return r
	}
	if bridge != nil {
		d.enslave(bridge)
		if l.Hairpin != rtnl.Unset {
			d.Hairpin = l.Hairpin
		}
	}
	d.setUp(l.Up == rtnl.On)
	return nil
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
	if r := checkName(l.Veth.Peer); r != nil {
		return nil, r
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
		if lower = n.devices[v.Underlay]; lower == nil {
			return nil, absent(syscall.ENODEV)
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

// bridgeFor returns the bridge that l names as master, nil if none.
func (n *FakeNetns) bridgeFor(l rtnl.Link) (*device, *refusal) {
	if l.Master == "" {
		return nil, nil
	}
	b, r := n.device(l.Master)
	switch {
	case r != nil:
		return nil, r
	case b.Kind != rtnl.KindBridge:
		return nil, refuse(syscall.EOPNOTSUPP, "")
	case l.Name == "lo":
		return nil, refuse(syscall.EINVAL, "")
	case l.Kind == rtnl.KindBridge:
		return nil, refuse(syscall.ELOOP, "Can not enslave a bridge to a bridge")
	}
	return b, nil
}

// setLink changes the non-zero fields of a device. Nothing is changed if one of them is refused.
func (n *FakeNetns) setLink(l rtnl.Link) *refusal {
	if len(l.Alias) > maxAlias {
		return refuse(syscall.ERANGE, "Attribute failed policy validation")
	}
	d, r := n.device(l.Name)
	if r != nil {
		return r
	}
	if l.Kind != "" && l.Kind != d.Kind {
		return refuse(syscall.EOPNOTSUPP, "")
	}
	l.Kind = d.Kind
	if r := checkLink(l); r != nil {
		return r
	}
	if d.Name == "lo" && (!l.MAC.IsZero() || l.Alias != "") {
		return unmodelled("address or alias of lo")
	}
	if d.lower != nil && l.MTU > max(d.lower.MTU-overhead(d.VXLAN.Local), minMTU) {
		return refuse(syscall.EINVAL, "")
	}
	if l.Veth != (rtnl.Veth{}) {
		return refuse(syscall.EOPNOTSUPP, "the peer of a veth cannot be changed")
	}
	if r := d.checkVXLAN(l); r != nil {
		return r
	}
	bridge, r := n.bridgeFor(l)
	if r != nil {
		return r
	}
	if l.Hairpin != rtnl.Unset && bridge == nil && d.master == nil {
		return refuse(syscall.EOPNOTSUPP, "not a bridge port")
	}
	d.change(l, bridge)
	return nil
}

// checkVXLAN refuses what the kernel does not change on an existing device.
func (d *device) checkVXLAN(l rtnl.Link) *refusal {
	if l.TxChecksum != rtnl.Unset && d.Kind != rtnl.KindVXLAN {
		return refuse(syscall.EOPNOTSUPP, "")
	}
	v := l.VXLAN
	switch {
	case v == rtnl.VXLAN{}:
		return nil
	case d.Kind != rtnl.KindVXLAN:
		return refuse(syscall.EOPNOTSUPP, "")
	case v.VNI != 0 && v.VNI != d.VXLAN.VNI:
		return refuse(syscall.EOPNOTSUPP, "Cannot change VNI")
	case v.Port != 0:
		return refuse(syscall.EOPNOTSUPP, "Cannot change port")
	case v.Underlay != "" && (d.lower == nil || v.Underlay != d.lower.Name):
		return unmodelled("another underlay of a vxlan device")
	case v.Local.IsValid() && v.Local.Is6() != d.VXLAN.Local.Is6():
		return refuse(syscall.EOPNOTSUPP, "New local address family does not match old")
	}
	return nil
}

// change does what setLink has found to be possible.
func (d *device) change(l rtnl.Link, bridge *device) {
	if l.VXLAN.Local.IsValid() {
		d.VXLAN.Local = l.VXLAN.Local
	}
	if l.VXLAN.Learning != rtnl.Unset {
		d.VXLAN.Learning = l.VXLAN.Learning
	}
	if l.TxChecksum != rtnl.Unset {
		d.TxChecksum = l.TxChecksum
	}
	if l.Alias != "" {
		d.Alias = l.Alias
	}
	if !l.MAC.IsZero() {
		changed := d.MAC != l.MAC
		d.MAC, d.macSet = l.MAC, true
		if changed && d.Kind == rtnl.KindBridge {
			d.selectPorts()
		}
		d.flushNeighs(rtnl.AnyFamily) // even if it is the MAC that the device has
	}
	if l.MTU != 0 {
		d.mtuSet = true
		d.setMTU(l.MTU)
	}
	if d.master != nil && (!l.MAC.IsZero() || l.MTU != 0) {
		d.master.followPorts()
	}
	if bridge != nil {
		d.enslave(bridge)
	}
	if l.Hairpin != rtnl.Unset {
		d.Hairpin = l.Hairpin
	}
	d.emit("link", false)
	if l.Up != rtnl.Unset {
		d.setUp(l.Up == rtnl.On)
	}
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
