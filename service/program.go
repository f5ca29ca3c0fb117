package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Program is what one Service becomes on one node: the desired state of a dataplane for it. The same Service, slices and Node always give the same Program, in the same order.
type Program struct {
	Name  Name
	Ports []PortProgram // by family, then in the order of the Service's ports

	// HealthCheckNodePort and LocalReady are for the health check of load balancers: the port, 0 if there is none, and how many local endpoints (distinct addresses, of the
	// first family that has some) are ready.
	HealthCheckNodePort uint16
	LocalReady          int
}

// PortProgram is one port of a Service in one family.
type PortProgram struct {
	Port     string // its name
	Protocol Protocol
	Family   Family

	Frontends []Frontend

	// Cluster and Local are the usable endpoints of the two traffic policies, sorted, nil where no frontend uses them. Both fall back to terminating endpoints by
	// themselves; topology is applied to Cluster only.
	Cluster, Local []Backend

	// Serving are all endpoints that serve, whatever policy and topology say: whose UDP flows may stay. Only for UDP. Sorted.
	Serving []netip.AddrPort

	// Affinity is the time after which a silent client may get another endpoint; 0 is no affinity.
	Affinity time.Duration

	// SourceRanges are who may use the frontends that are Restricted.
	SourceRanges []netip.Prefix

	Scheduler string // for IPVS; "" is the default

	// NoLocalInternal and NoLocalExternal say that a traffic policy Local drops traffic here although there are endpoints elsewhere.
	NoLocalInternal, NoLocalExternal bool
}

// Kind is the kind of a frontend.
type Kind uint8

// The kinds of frontends.
const (
	ClusterIP Kind = iota
	ExternalIP
	LoadBalancerIP
	NodePort
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case ExternalIP:
		return "ExternalIP"
	case LoadBalancerIP:
		return "LoadBalancerIP"
	case NodePort:
		return "NodePort"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Frontend is an address and port at which a Service is reached, and what becomes of a packet by where it comes from.
type Frontend struct {
	Kind Kind
	Addr netip.Addr // of a NodePort the zero Addr: any local address that Node.NodePortAddrs allows
	Port uint16

	// Pod is for packets of this node's pods (Node.LocalPods; where they are not known there are none), Host for those of the node itself,
	// Remote for all others.
	Pod, Host, Remote Route

	// Restricted frontends let only PortProgram.SourceRanges in; other packets are dropped. That is checked before anything else.
	Restricted bool
}

// Route is what becomes of a new connection.
type Route struct {
	Action Action

	// Masquerade gives the packet the node's address as its source. A connection of an endpoint to itself (hairpin) is masqueraded always.
	Masquerade bool
}

// Action is where a new connection goes.
type Action uint8

// The actions.
const (
	ToCluster Action = iota // one of PortProgram.Cluster, at random
	ToLocal                 // one of PortProgram.Local, at random
	Reject                  // refused with ICMP port unreachable: nobody serves anywhere
	Drop                    // dropped: somebody serves, but not here, and a load balancer may still send packets
)

// String returns "cluster", "local", "reject" or "drop".
func (a Action) String() string {
	switch a {
	case ToCluster:
		return "cluster"
	case ToLocal:
		return "local"
	case Reject:
		return "reject"
	case Drop:
		return "drop"
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// Backend is a usable endpoint.
type Backend struct {
	Addr  netip.AddrPort
	Local bool // it is on this node
}

// Equal reports whether two programs are the same.
func (p Program) Equal(o Program) bool {
	return p.Name == o.Name && p.HealthCheckNodePort == o.HealthCheckNodePort && p.LocalReady == o.LocalReady &&
		slices.EqualFunc(p.Ports, o.Ports, PortProgram.Equal)
}

// Equal reports whether two programs of a port are the same.
func (p PortProgram) Equal(o PortProgram) bool {
	return p.Port == o.Port && p.Protocol == o.Protocol && p.Family == o.Family && p.Affinity == o.Affinity && p.Scheduler == o.Scheduler &&
		p.NoLocalInternal == o.NoLocalInternal && p.NoLocalExternal == o.NoLocalExternal &&
		slices.Equal(p.Frontends, o.Frontends) && slices.Equal(p.Cluster, o.Cluster) && slices.Equal(p.Local, o.Local) &&
		slices.Equal(p.Serving, o.Serving) && slices.Equal(p.SourceRanges, o.SourceRanges)
}

// String returns the kind, address and port, such as "ClusterIP 10.96.0.1:443" or "NodePort 30080".
func (f Frontend) String() string {
	if f.Kind == NodePort {
		return fmt.Sprintf("NodePort %d", f.Port)
	}
	return f.Kind.String() + " " + netip.AddrPortFrom(f.Addr, f.Port).String()
}
