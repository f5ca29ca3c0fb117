package hostgw

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/internal/check"
	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/rtnl"
)

// Config is everything this package is to bring about in a network namespace. The zero Config owns nothing: applying it cleans up.
type Config struct {
	// Underlay is the device on whose segment the peers are: the uplink.
	Underlay string

	// Endpoints are this node's own addresses on Underlay, at most one per address family.
	Endpoints []Endpoint

	// ClusterCIDRs are the ranges that all pods are in. If there are any, a peer whose PodCIDR is not inside one is refused: else
	// one bad node description could draw the node's other traffic, to Services or to the outside, to itself.
	ClusterCIDRs []netip.Prefix

	// Peers are the other nodes, one entry per node and address family.
	Peers []Peer
}

// Endpoint is this node in one address family.
type Endpoint struct {
	Local   netip.Addr   // the node's own address on Underlay
	PodCIDR netip.Prefix // this node's pods
}

// Peer is another node in one address family.
type Peer struct {
	Name    string       // for error messages, and it decides who wins: the first by name
	PodCIDR netip.Prefix // that node's pods
	Addr    netip.Addr   // its address, the gateway to its pods
}

// PeerError says what is wrong with one peer. The others are not affected. Errors of Validate, Plan and Apply may join many.
type PeerError = peers.Error

func (c Config) isZero() bool {
	return c.Underlay == "" && len(c.Endpoints) == 0 && len(c.ClusterCIDRs) == 0 && len(c.Peers) == 0
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
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("hostgw: "+format, args...)) }
	if err := check.Device(c.Underlay); err != nil {
		fault("Underlay %w", err)
	}
	for _, err := range peers.CheckClusterCIDRs(c.ClusterCIDRs) {
		fault("%w", err)
	}
	if len(c.Endpoints) == 0 && len(c.Peers) > 0 {
		fault("Endpoints: none; want one per address family of Peers")
	}
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
	}
	return errors.Join(faults...)
}

func (e Endpoint) validate() (faults []error) { return peers.CheckEndpoint(e.Local, e.PodCIDR) }

// acceptPeers returns the peers that can be programmed, by family in the order of their names, and what is wrong with the others.
func (c Config) acceptPeers() (map[rtnl.Family][]Peer, []error) {
	claims := peers.NewClaims(len(c.Peers)/max(1, len(c.Endpoints)), c.ClusterCIDRs)
	for _, e := range c.Endpoints {
		claims.Own(e.Local, e.PodCIDR)
	}
	accepted := map[rtnl.Family][]Peer{}
	var faults []error
	for _, p := range peers.SortedBy(c.Peers, func(p Peer) (string, netip.Prefix) { return p.Name, p.PodCIDR }) {
		if err := claims.Accept(p.Name, p.PodCIDR, p.Addr); err != nil {
			faults = append(faults, &PeerError{Peer: p.Name, Err: err})
			continue
		}
		family := rtnl.FamilyOf(p.Addr)
		accepted[family] = append(accepted[family], p)
	}
	return accepted, faults
}
