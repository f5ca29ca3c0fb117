package rtnl

import (
	"net/netip"
)

// Object is one kernel object: a [Link], [Addr], [Route], [Neigh], [FDB], [Nexthop] or [Sysctl].
// Every Object is comparable and prints itself as the arguments of the iproute2 (or sysctl)
// command that would make it.
type Object interface {
	String() string
	object()
}

// Switch is a setting that can also be left alone. Observed values are On or Off.
type Switch uint8

// The values of a Switch.
const (
	Unset Switch = iota // leave alone; in a new object: the kernel's default
	On
	Off
)

// Kind is the rtnetlink link type (IFLA_INFO_KIND). Physical devices have kind "".
type Kind string

// The kinds that rtnl can create.
const (
	KindBridge Kind = "bridge"
	KindVeth   Kind = "veth"
	KindVXLAN  Kind = "vxlan"
)

// Link is a network device. In an Add or Set change a zero field is left to the kernel or left
// alone; an observed Link has every field that its kind knows.
type Link struct {
	Name  string // at most 15 bytes, the key
	Kind  Kind
	Index int    // observed only: it changes when a link of the same name is made again
	MTU   int    // bytes
	MAC   MAC    // set at creation, so that udev's MACAddressPolicy leaves it (addr_assign_type SET)
	Alias string // ifalias, up to 255 bytes: podnet's ownership mark on links
	Up    Switch // administrative state (IFF_UP)

	Master  string // the bridge this link is a port of, by name
	Hairpin Switch // bridge port: may send a frame back through the port it came from

	// Running is observed only: operational state (IFF_RUNNING).
	Running bool

	// TxChecksum is the device's transmit checksum offload (ethtool tx-checksum-ip-generic).
	// Observed and settable for vxlan devices only; Unset elsewhere.
	TxChecksum Switch

	Veth  Veth  // kind veth
	VXLAN VXLAN // kind vxlan
}

// Veth says where the other end of a veth pair is.
type Veth struct {
	Peer      string // name of the other end. Observed only when it is in the same netns.
	PeerNetns string // netns path (/run/netns/x, /proc/PID/ns/net) the other end is born in; "" = same. Never observed.
	PeerMAC   MAC    // zero: chosen by the kernel. Never observed.
	// PeerIndex is observed only: ifindex of the other end, in its own netns (IFLA_LINK).
	PeerIndex int
}

// VXLAN is what a VXLAN tunnel endpoint (RFC 7348) is made of. The kernel refuses to change
// VNI, Port or Underlay of an existing device.
type VXLAN struct {
	VNI      uint32     // 1 to 1<<24-1
	Port     uint16     // UDP destination port; 0 in a new device = 8472, the kernel's default
	Local    netip.Addr // outer source address; its family is the underlay's family
	Underlay string     // lower device by name (IFLA_VXLAN_LINK); "" = routed
	Learning Switch     // dynamic FDB learning; Unset in a new device = the kernel's default, on
}

// Addr is an address on a link.
type Addr struct {
	Link   string
	Prefix netip.Prefix // the address (host bits kept) and the length of its subnet
	NoDAD  bool         // IPv6: no duplicate address detection, usable at once (IFA_F_NODAD)
	// NoPrefixRoute asks the kernel for no connected route (IFA_F_NOPREFIXROUTE).
	NoPrefixRoute bool
	// Tentative and DADFailed are observed only (IPv6): not usable (yet).
	Tentative, DADFailed bool
}

// Protocol is the origin of a route or nexthop (rtm_protocol). podnet marks what it owns with its own numbers.
type Protocol uint8

// Protocols that podnet reads or writes; the whole list stands in iproute2's rt_protos.
const (
	ProtocolUnspec Protocol = 0
	ProtocolKernel Protocol = 2 // connected routes
	ProtocolBoot   Protocol = 3 // what ip(8) and flannel write
	ProtocolStatic Protocol = 4

	// ProtocolVXLAN, ProtocolHostGW and ProtocolService are podnet's marks. They are free in iproute2 6.x's
	// rt_protos and in FRR, BIRD, Calico (80) and Open/R (99).
	ProtocolVXLAN   Protocol = 112
	ProtocolHostGW  Protocol = 113
	ProtocolService Protocol = 114
)

// Scope is the distance to a route's destination (rtm_scope, IPv4 only).
type Scope uint8

// Scopes of routes.
const (
	ScopeUniverse Scope = 0
	ScopeLink     Scope = 253
	ScopeHost     Scope = 254
	// ScopeAuto is what Canonical replaces: link for a route without gateway, host for a Local one, else universe.
	ScopeAuto Scope = 255
)

// The kernel's tables. TableLocal holds what is delivered on this node; the kernel's own routes in it, of ProtocolKernel, are never observed.
const (
	TableMain  uint32 = 254
	TableLocal uint32 = 255
)

// RouteType is the kind of a route (rtm_type). The zero RouteType is a unicast route.
type RouteType uint8

// Types of routes.
const (
	Unicast RouteType = iota
	Blackhole
	Unreachable
	Local // delivered on this node though no device has the address: in TableLocal, out of lo
)

// Route is a route. Its key is (Table, Dst, Priority). [Route.Canonical] fills in what the kernel would, so that a wanted and
// an observed Route can be compared with ==.
type Route struct {
	Dst      netip.Prefix // always valid: the default route is 0.0.0.0/0 or ::/0
	Gateway  netip.Addr   // invalid: none
	Link     string       // output device by name
	Src      netip.Addr   // preferred source; invalid: none
	Priority uint32       // metric; 0 = the kernel's default (0 for IPv4, 1024 for IPv6)
	Table    uint32       // 0 = TableMain
	Protocol Protocol
	Scope    Scope // IPv4; IPv6 routes have ScopeUniverse. See ScopeAuto.
	Type     RouteType
	Onlink   bool   // the gateway is on Link though no route says so
	MTU      int    // bytes; 0 = the device's
	AdvMSS   int    // bytes; 0 = the kernel's
	Nexthop  uint32 // ID of a nexthop object, instead of Gateway, Link and Onlink (Linux 5.3)
}

// Neigh is a neighbour entry (ARP, NDP).
type Neigh struct {
	Link      string
	IP        netip.Addr
	MAC       MAC
	Permanent bool // NUD_PERMANENT; other states are observed as false
}

// FDB is an entry of a VXLAN device's forwarding database: frames to MAC go to the tunnel
// endpoint Dst (bridge fdb ... self permanent).
type FDB struct {
	Link string
	MAC  MAC
	Dst  netip.Addr
}

// Nexthop is a nexthop object (ip nexthop, Linux 5.3), shared by routes through its ID.
type Nexthop struct {
	ID       uint32 // 1 and up
	Gateway  netip.Addr
	Link     string
	Onlink   bool
	Protocol Protocol
}

// Sysctl is a kernel setting of the network namespace.
type Sysctl struct {
	// Name is the path below /proc/sys with slashes, since device names may hold dots:
	// "net/ipv6/conf/eth0/accept_ra".
	Name  string
	Value string
}

func (Link) object()    {}
func (Addr) object()    {}
func (Route) object()   {}
func (Neigh) object()   {}
func (FDB) object()     {}
func (Nexthop) object() {}
func (Sysctl) object()  {}

// Canonical returns r as the kernel would report it after adding it: table, metric, scope and the protocol of an IPv6 route filled in, destination masked.
func (r Route) Canonical() Route {
	r.Dst = r.Dst.Masked()
	if r.Table == 0 {
		r.Table = TableMain
	}
	if r.Dst.Addr().Is6() {
		r.Scope = ScopeUniverse
		if r.Priority == 0 {
			r.Priority = 1024
		}
		if r.Protocol == ProtocolUnspec {
			r.Protocol = ProtocolBoot
		}
	} else if r.Scope == ScopeAuto {
		r.Scope = ScopeLink
		if r.Type == Local {
			r.Scope = ScopeHost
		} else if r.Gateway.IsValid() || r.Nexthop != 0 || r.Type != Unicast {
			r.Scope = ScopeUniverse
		}
	}
	return r
}

// RouteFilter selects routes in the kernel where it can, so that a dump costs what it returns.
// Zero fields select all; the zero RouteFilter selects every unicast, blackhole and unreachable route of TableMain, both families.
type RouteFilter struct {
	Table    uint32 // 0 = TableMain
	Protocol Protocol
	Link     string
	Family   Family
}

// Family is an address family.
type Family uint8

// Families; AnyFamily stands for both.
const (
	AnyFamily Family = 0
	IPv4      Family = 4
	IPv6      Family = 6
)

// FamilyOf returns the family of a, or AnyFamily if a is invalid.
func FamilyOf(a netip.Addr) Family {
	switch {
	case !a.IsValid():
		return AnyFamily
	case a.Is4():
		return IPv4
	default:
		return IPv6
	}
}
