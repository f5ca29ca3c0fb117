package vxlan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/podnet/podnet/internal/check"
	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/rtnl"
)

// Defaults of Config, the same as flannel's, so that nodes of both kinds can speak with each other.
const (
	DefaultVNI  uint32 = 1
	DefaultPort uint16 = 8472 // Linux' own; IANA's 4789 came later
)

// Alias is the ifalias of the devices that this package owns.
const Alias = "podnet:vxlan"

const (
	maxVNI  = 1<<24 - 1
	minMTU4 = 68   // RFC 791
	minMTU6 = 1280 // RFC 8200; below it the kernel turns IPv6 off on the device
	maxMTU  = 65535
)

// Config is everything this package is to bring about in a network namespace. The zero Config owns nothing: applying it cleans up.
type Config struct {
	VNI  uint32 // 0 = DefaultVNI; up to 1<<24-1
	Port uint16 // UDP port; 0 = DefaultPort

	// Underlay is the device that carries the tunnel's packets: the uplink.
	Underlay string

	// DirectRouting sends pod traffic to a peer on the underlay's own segment by a plain route, without a tunnel. It is the
	// kernel's routing table that tells which peers those are: the ones it reaches over Underlay without a gateway.
	DirectRouting bool

	// TxChecksum is the VTEPs' transmit checksum offload. Unset takes TxChecksumFor the running kernel.
	TxChecksum rtnl.Switch

	// Endpoints are this node's own ends of the tunnel, at most one per address family.
	Endpoints []Endpoint

	// ClusterCIDRs are the ranges that all pods are in. If there are any, a peer whose PodCIDR is not inside one is refused: else
	// one bad node description could draw the node's other traffic, to Services or to the outside, to itself.
	ClusterCIDRs []netip.Prefix

	// Peers are the other nodes, one entry per node and address family.
	Peers []Peer
}

// Endpoint is this node's tunnel endpoint (VTEP) of one address family.
type Endpoint struct {
	Local   netip.Addr   // outer address: the node's own on Underlay
	PodCIDR netip.Prefix // this node's pods; its network address becomes the device's own address
	MAC     rtnl.MAC     // inner address of the VTEP, as peers are told; see MACFor
	MTU     int          // of the device; 0 = MTUFor the underlay's, and follows it
	Device  string       // name; "" = DeviceName
}

// Peer is another node in one address family.
type Peer struct {
	Name    string       // for error messages, and it decides who wins: the first by name
	PodCIDR netip.Prefix // that node's pods
	Addr    netip.Addr   // outer address
	MAC     rtnl.MAC     // of its VTEP
}

// PeerError says what is wrong with one peer. The others are not affected. Errors of Validate, Plan and Apply may join many.
type PeerError = peers.Error

// DeviceName is the name of the VTEP if an Endpoint does not say: podnet.<vni> and podnet-v6.<vni>, or pod-v6.<vni> from VNI 100000 on, since
// a name has 15 bytes at most. VNI 0 stands for DefaultVNI.
func DeviceName(vni uint32, family rtnl.Family) string {
	if vni == 0 {
		vni = DefaultVNI
	}
	base := "podnet."
	switch {
	case family == rtnl.IPv6 && vni >= 100000:
		base = "pod-v6."
	case family == rtnl.IPv6:
		base = "podnet-v6."
	}
	return base + strconv.FormatUint(uint64(vni), 10)
}

// Overhead is what VXLAN takes from every packet: 8 bytes each of VXLAN and UDP, 14 of inner Ethernet, and the outer IP header.
func Overhead(underlay rtnl.Family) int {
	if underlay == rtnl.IPv6 {
		return 8 + 8 + 14 + 40
	}
	return 8 + 8 + 14 + 20
}

// MTUFor is the largest MTU a VTEP can have over an uplink: 50 bytes less over IPv4, 70 over IPv6.
func MTUFor(uplink int, underlay rtnl.Family) int { return uplink - Overhead(underlay) }

// MACFor derives the address of a VTEP from the names of its node and device: locally administered, unicast, and the same after a
// reboot, so that no peer has to learn a new one.
func MACFor(node, device string) rtnl.MAC {
	sum := sha256.Sum256([]byte("podnet vtep\x00" + node + "\x00" + device))
	mac := rtnl.MAC(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

func (c Config) isZero() bool {
	return c.VNI == 0 && c.Port == 0 && c.Underlay == "" && !c.DirectRouting && c.TxChecksum == rtnl.Unset &&
		len(c.Endpoints) == 0 && len(c.ClusterCIDRs) == 0 && len(c.Peers) == 0
}

// withDefaults fills in what zero fields stand for.
func (c Config) withDefaults() Config {
	if c.VNI == 0 {
		c.VNI = DefaultVNI
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	endpoints := make([]Endpoint, len(c.Endpoints))
	for i, e := range c.Endpoints {
		if e.Device == "" {
			e.Device = DeviceName(c.VNI, rtnl.FamilyOf(e.Local))
		}
		endpoints[i] = e
	}
	c.Endpoints = endpoints
	return c
}

// endpoint returns the node's own end of family, or nil.
func (c Config) endpoint(family rtnl.Family) *Endpoint {
	for i := range c.Endpoints {
		if rtnl.FamilyOf(c.Endpoints[i].Local) == family {
			return &c.Endpoints[i]
		}
	}
	return nil
}

// Validate reports every fault of c at once. Faults of the node's own part stop Plan and Apply before anything is touched; a faulty
// Peer (a *PeerError) is only left out.
func (c Config) Validate() error {
	_, faults := c.acceptPeers()
	if len(c.Endpoints) == 0 {
		faults = nil // one fault, not one per peer
	}
	return errors.Join(c.validateNode(), errors.Join(faults...))
}

func (c Config) validateNode() error {
	if c.isZero() {
		return nil
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("vxlan: "+format, args...)) }
	if c.VNI > maxVNI {
		fault("VNI %d: want 1 to %d", c.VNI, maxVNI)
	}
	if err := check.Device(c.Underlay); err != nil {
		fault("Underlay %w", err)
	}
	if c.TxChecksum > rtnl.Off {
		fault("TxChecksum %d: want Unset, On or Off", c.TxChecksum)
	}
	for _, err := range peers.CheckClusterCIDRs(c.ClusterCIDRs) {
		fault("%w", err)
	}
	if len(c.Endpoints) == 0 && len(c.Peers) > 0 {
		fault("Endpoints: none; want one per address family of Peers")
	}
	if c.VNI > maxVNI {
		c.VNI = maxVNI // reported already; a name made of it would be another fault
	}
	c = c.withDefaults()
	devices := map[string]bool{c.Underlay: true}
	families := map[rtnl.Family]bool{}
	for i, e := range c.Endpoints {
		field := fmt.Sprintf("Endpoints[%d]", i)
		for _, err := range e.validate() {
			fault("%s.%w", field, err)
		}
		if family := rtnl.FamilyOf(e.Local); families[family] {
			fault("%s.Local %s: a second endpoint of IPv%d; want one per family", field, e.Local, family)
		} else {
			families[family] = true
		}
		if devices[e.Device] {
			fault("%s.Device %q: used twice; want a name of its own", field, e.Device)
		}
		devices[e.Device] = true
	}
	return errors.Join(faults...)
}

func (e Endpoint) validate() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	faults = peers.CheckEndpoint(e.Local, e.PodCIDR)
	if err := checkMAC(e.MAC); err != nil {
		fault("MAC %w", err)
	}
	least := minMTU4
	if e.Local.Is6() {
		least = minMTU6
	}
	if e.MTU != 0 && (e.MTU < least || e.MTU > maxMTU) {
		fault("MTU %d: want 0 (from the underlay), or %d to %d", e.MTU, least, maxMTU)
	}
	if err := check.Device(e.Device); err != nil {
		fault("Device %w", err)
	}
	return faults
}

func checkMAC(m rtnl.MAC) error {
	if m.IsZero() || m.IsMulticast() {
		return fmt.Errorf("%q: want a unicast address other than zero", m.String())
	}
	return nil
}

// acceptPeers returns the peers that can be programmed, by family in the order of their names, and what is wrong with the others.
// Of two that claim the same thing the first by name has it, whatever the order they are given in: no route ever flaps between them.
func (c Config) acceptPeers() (map[rtnl.Family][]Peer, []error) {
	perFamily := len(c.Peers) / max(1, len(c.Endpoints))
	claims := peers.NewClaims(perFamily, c.ClusterCIDRs)
	macs := make(map[macKey]string, len(c.Peers))
	for _, e := range c.Endpoints {
		claims.Own(e.Local, e.PodCIDR)
		macs[macKey{rtnl.FamilyOf(e.Local), e.MAC}] = peers.ThisNode
	}
	accepted := map[rtnl.Family][]Peer{}
	var faults []error
	for _, p := range peers.SortedBy(c.Peers, func(p Peer) (string, netip.Prefix) { return p.Name, p.PodCIDR }) {
		key := macKey{rtnl.FamilyOf(p.Addr), p.MAC}
		err := checkMAC(p.MAC)
		switch owner, taken := macs[key]; {
		case err != nil:
			err = fmt.Errorf("MAC %w", err)
		case taken:
			err = fmt.Errorf("MAC %s: is that of %s", p.MAC, peers.Owner(owner))
		default:
			err = claims.Accept(p.Name, p.PodCIDR, p.Addr)
		}
		if err != nil {
			faults = append(faults, &PeerError{Peer: p.Name, Err: err})
			continue
		}
		macs[key] = p.Name
		if accepted[key.family] == nil {
			accepted[key.family] = make([]Peer, 0, perFamily)
		}
		accepted[key.family] = append(accepted[key.family], p)
	}
	return accepted, faults
}

type macKey struct {
	family rtnl.Family
	mac    rtnl.MAC
}
