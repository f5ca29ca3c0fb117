package vxlan

import (
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
)

// devicePlan is how a VTEP gets to what is wanted.
type devicePlan struct {
	changes rtnl.Plan
	after   rtnl.Plan // deletions of addresses, for after the new one is there
	// emptied says that the device is made again: its addresses, neighbours, FDB, routes and nexthops go.
	emptied bool
	// unneighboured says that its neighbours go, even the permanent ones: the kernel forgets them when the MAC changes (Linux 6.18).
	unneighboured bool
	fault         error // something that could not be done as wanted, though the device works
}

// planDevice plans the device of e. An error means that it cannot be had, and that nothing of its family is to be touched.
func planDevice(c Config, e Endpoint, underlay rtnl.Link, have snapshot, release string) (devicePlan, error) {
	var p devicePlan
	want := rtnl.Link{
		Name: e.Device, Kind: rtnl.KindVXLAN, MAC: e.MAC, Alias: Alias, TxChecksum: c.TxChecksum,
		VXLAN: rtnl.VXLAN{VNI: c.VNI, Port: c.Port, Local: e.Local, Underlay: c.Underlay, Learning: rtnl.Off},
	}
	if want.TxChecksum == rtnl.Unset {
		want.TxChecksum = TxChecksumFor(release)
	}
	if want.MTU, p.fault = e.mtu(underlay); want.MTU == 0 {
		return p, p.fault
	}
	there, exists := have.link(e.Device)
	if exists {
		if err := mayOwn(there, want); err != nil {
			return p, err
		}
		p.emptied = mustRecreate(there.VXLAN, want.VXLAN)
	} else if other, taken := sameTunnel(have.links, want); taken {
		return p, fmt.Errorf("vxlan: device %s: %q has VNI %d and port %d already and is not podnet's; remove it (ip link del %s), or choose another VNI or port",
			want.Name, other.Name, c.VNI, c.Port, other.Name)
	}
	d := have.devices[e.Device]
	ra := d.acceptRA
	switch {
	case !exists || p.emptied:
		if p.emptied {
			p.changes = append(p.changes, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: e.Device}})
		}
		p.emptied = true
		p.changes = append(p.changes, rtnl.Change{Verb: rtnl.Add, Object: want})
		there, d, ra = rtnl.Link{}, device{}, have.acceptRA
	default:
		if set := missing(want, there); set != (rtnl.Link{Name: want.Name}) {
			p.unneighboured = !set.MAC.IsZero()
			p.changes = append(p.changes, rtnl.Change{Verb: rtnl.Set, Object: set})
		}
	}
	if setting := acceptRA(e.Device); ra != "" && ra != setting.Value {
		p.changes = append(p.changes, rtnl.Change{Verb: rtnl.Set, Object: setting})
	}
	if there.Up != rtnl.On {
		p.changes = append(p.changes, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: e.Device, Up: rtnl.On}})
	}
	p.planAddrs(e, d.addrs)
	return p, nil
}

// planAddrs gives the device the network address of the node's pods, as a single address: it is the source of what the node itself
// sends to remote pods, and what peers' routes name as gateway. Every other address but link-local ones goes.
func (p *devicePlan) planAddrs(e Endpoint, have []rtnl.Addr) {
	addr := e.PodCIDR.Addr()
	want := rtnl.Addr{Link: e.Device, Prefix: netip.PrefixFrom(addr, addr.BitLen()), NoDAD: addr.Is6()}
	found := false
	for _, h := range have {
		switch {
		case h.Prefix == want.Prefix:
			found = true
		case h.Prefix.Addr().IsLinkLocalUnicast():
		default:
			p.after = append(p.after, rtnl.Change{Verb: rtnl.Delete, Object: h})
		}
	}
	if !found {
		p.changes = append(p.changes, rtnl.Change{Verb: rtnl.Add, Object: want})
	}
}

// mtu returns the device's MTU: what is wanted, or the largest that the underlay allows. 0 means that there is none.
func (e Endpoint) mtu(underlay rtnl.Link) (int, error) {
	largest := MTUFor(underlay.MTU, rtnl.FamilyOf(e.Local))
	if e.Local.Is6() && largest < minMTU6 {
		return 0, fmt.Errorf("vxlan: device %s: underlay %s has MTU %d; IPv6 pods need %d or more", e.Device, underlay.Name, underlay.MTU, minMTU6+Overhead(rtnl.IPv6))
	}
	if e.MTU > largest {
		return largest, fmt.Errorf("vxlan: device %s: MTU %d: underlay %s with MTU %d allows up to %d, which it gets", e.Device, e.MTU, underlay.Name, underlay.MTU, largest)
	}
	if e.MTU == 0 {
		return largest, nil
	}
	return e.MTU, nil
}

// mayOwn returns why a device that has the wanted one's name cannot be taken: it is not podnet's. One without any mark (flannel's, say) is
// adopted if it would not have to be made again.
func mayOwn(there, want rtnl.Link) error {
	switch {
	case there.Kind != rtnl.KindVXLAN:
		return fmt.Errorf("vxlan: device %s: exists and is no vxlan device (kind %q); choose another name", want.Name, there.Kind)
	case there.Alias == Alias, there.Alias == "" && there.VXLAN == want.VXLAN:
		return nil
	case there.Alias != "":
		return fmt.Errorf("vxlan: device %s: exists and belongs to %q; remove it (ip link del %s), or choose another name", want.Name, there.Alias, want.Name)
	}
	return fmt.Errorf("vxlan: device %s: exists, is not podnet's, and differs from what is wanted (%s): %s; remove it (ip link del %s), or choose another name",
		want.Name, want, there, want.Name)
}

// sameTunnel returns a device that keeps want from being created: the kernel wants VNI, port and family to be unique.
func sameTunnel(links []rtnl.Link, want rtnl.Link) (rtnl.Link, bool) {
	for _, l := range links {
		if l.Kind == rtnl.KindVXLAN && l.Alias != Alias && l.VXLAN.VNI == want.VXLAN.VNI && l.VXLAN.Port == want.VXLAN.Port &&
			l.VXLAN.Local.Is6() == want.VXLAN.Local.Is6() {
			return l, true
		}
	}
	return rtnl.Link{}, false
}

// mustRecreate reports whether the kernel cannot make one tunnel of the other. It can change the local address, though not its family.
func mustRecreate(there, want rtnl.VXLAN) bool {
	if there.Local.IsValid() && there.Local.Is4() == want.Local.Is4() {
		there.Local = want.Local
	}
	there.Learning = want.Learning
	return there != want
}

// missing returns the settings of want that there has otherwise and that can be changed in place.
func missing(want, there rtnl.Link) rtnl.Link {
	set := rtnl.Link{Name: want.Name}
	if there.MTU != want.MTU {
		set.MTU = want.MTU
	}
	if there.MAC != want.MAC {
		set.MAC = want.MAC
	}
	if there.Alias != want.Alias {
		set.Alias = want.Alias
	}
	if there.TxChecksum != rtnl.Unset && there.TxChecksum != want.TxChecksum {
		set.TxChecksum = want.TxChecksum
	}
	if there.VXLAN.Local != want.VXLAN.Local || there.VXLAN.Learning != want.VXLAN.Learning {
		set.Kind = want.Kind
		set.VXLAN = rtnl.VXLAN{VNI: want.VXLAN.VNI, Local: want.VXLAN.Local, Learning: want.VXLAN.Learning}
	}
	return set
}
