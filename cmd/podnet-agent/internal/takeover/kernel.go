package takeover

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

// Alias is given to the devices that go back to flannel, so that no podnet takes them for its own.
const Alias = "flannel"

// DeviceName is flannel's name for the VTEP of a family.
func DeviceName(vni uint32, f rtnl.Family) string {
	base := "flannel."
	if f == rtnl.IPv6 {
		base = "flannel-v6."
	}
	return base + strconv.FormatUint(uint64(vni), 10)
}

// flannels reports whether a device is flannel's: a vxlan device with flannel's name for its VNI, without anybody's mark.
func flannels(l rtnl.Link) bool {
	return named(l) && (l.Alias == "" || l.Alias == Alias)
}

func named(l rtnl.Link) bool {
	return l.Kind == rtnl.KindVXLAN && (l.Name == DeviceName(l.VXLAN.VNI, rtnl.IPv4) || l.Name == DeviceName(l.VXLAN.VNI, rtnl.IPv6))
}

// VTEP returns the name of this node's VTEP: flannel's, if there is a device of that name which is podnet's already, or which may be taken over, or if
// flannel's names are preferred anyhow. The name is the node's own affair: no peer sees it.
func VTEP(links []rtnl.Link, vni uint32, f rtnl.Family, takeOver, prefer bool) string {
	name := DeviceName(vni, f)
	for _, l := range links {
		if l.Name == name && named(l) && (l.Alias == vxlan.Alias || takeOver && flannels(l)) {
			return name
		}
	}
	own := vxlan.DeviceName(vni, f)
	mine := slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Name == own && l.Alias == vxlan.Alias })
	if prefer && !mine && len(name) <= 15 {
		return name
	}
	return own
}

// Left reports whether a device of flannel that nobody has taken over has the VNI.
func Left(links []rtnl.Link, vni uint32) bool {
	return slices.ContainsFunc(links, func(l rtnl.Link) bool { return flannels(l) && l.VXLAN.VNI == vni })
}

// Node is what has to be known of a node to tell flannel's routes from others.
type Node struct {
	HostGW   bool           // the backend is host-gw
	Networks []netip.Prefix // of all pods
	Uplink   string
	PodCIDRs []netip.Prefix // of the peers
}

// FromFlannel returns what marks flannel's devices and routes as podnet's. It changes no packet's way: every route is replaced in place by an equal one.
func FromFlannel(n Node, links []rtnl.Link, routes []rtnl.Route) (p rtnl.Plan) {
	devices := map[string]bool{}
	for _, l := range links {
		if named(l) {
			devices[l.Name] = true
		}
		if flannels(l) {
			p = append(p, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: l.Name, Alias: vxlan.Alias}})
		}
	}
	peers := make(map[netip.Prefix]bool, len(n.PodCIDRs))
	for _, c := range n.PodCIDRs {
		peers[c] = true
	}
	for _, r := range routes {
		direct := r.Link == n.Uplink && peers[r.Dst]
		if r.Protocol != rtnl.ProtocolBoot || !r.Gateway.IsValid() || !(direct || devices[r.Link] && inside(n.Networks, r.Dst)) {
			continue
		}
		r.Protocol = rtnl.ProtocolVXLAN
		if n.HostGW && direct {
			r.Protocol = rtnl.ProtocolHostGW
		}
		p = append(p, rtnl.Change{Verb: rtnl.Replace, Object: r})
	}
	return p
}

// Rename is a device that gets another name. All that hangs on it stays.
type Rename struct{ From, To string }

// String returns the rename in iproute2 syntax, as a rtnl.Change does.
func (r Rename) String() string { return "link set " + r.From + " name " + r.To }

// ToFlannel returns what makes podnet's devices and routes such as flannel leaves them: flannel finds its device by the name, and whatever podnet owns stays when
// podnet is cleaned up. The renames come first.
func ToFlannel(links []rtnl.Link, routes []rtnl.Route, nexthops []rtnl.Nexthop) (renames []Rename, p rtnl.Plan) {
	name := map[string]string{}
	for _, l := range links {
		if l.Kind != rtnl.KindVXLAN || l.Alias != vxlan.Alias {
			continue
		}
		to := DeviceName(l.VXLAN.VNI, rtnl.FamilyOf(l.VXLAN.Local))
		if len(to) > 15 {
			to = l.Name // flannel could not have such a VNI
		}
		if name[l.Name] = to; to != l.Name {
			renames = append(renames, Rename{l.Name, to})
		}
		p = append(p, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: to, Alias: Alias}})
	}
	via := map[uint32]rtnl.Nexthop{}
	var stale rtnl.Plan
	for _, n := range nexthops {
		if n.Protocol != rtnl.ProtocolVXLAN {
			continue
		}
		if to := name[n.Link]; to != "" {
			n.Link = to
		}
		via[n.ID] = n
		stale = append(stale, rtnl.Change{Verb: rtnl.Delete, Object: n})
	}
	for _, r := range routes {
		if r.Protocol != rtnl.ProtocolVXLAN && r.Protocol != rtnl.ProtocolHostGW {
			continue
		}
		if n, ok := via[r.Nexthop]; ok && r.Nexthop != 0 {
			r.Nexthop, r.Gateway, r.Link, r.Onlink = 0, n.Gateway, n.Link, n.Onlink
		}
		if to := name[r.Link]; to != "" {
			r.Link = to
		}
		r.Protocol = rtnl.ProtocolBoot
		p = append(p, rtnl.Change{Verb: rtnl.Replace, Object: r})
	}
	return renames, append(p, stale...)
}

func inside(networks []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Bits() < p.Bits() && n.Contains(p.Addr()) })
}
