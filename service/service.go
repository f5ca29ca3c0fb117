package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Name identifies a Service.
type Name struct{ Namespace, Name string }

// String returns "namespace/name", or the name alone where there is no namespace.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

func (n Name) compare(m Name) int {
	if c := strings.Compare(n.Namespace, m.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, m.Name)
}

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The protocols that Services know (core/v1 Protocol).
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name as Kubernetes writes it, such as "TCP".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Family is an IP family.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// Families returns both families, for loops over them.
func Families() [2]Family { return [2]Family{IPv4, IPv6} }

// FamilyOf returns the family of an address; that of an IPv4 address mapped into IPv6 is IPv6, and such are refused as faults.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// TrafficPolicy says which endpoints traffic may go to (internalTrafficPolicy, externalTrafficPolicy).
type TrafficPolicy uint8

// The traffic policies.
const (
	Cluster TrafficPolicy = iota // endpoints on all nodes
	Local                        // endpoints on this node only, with the client's address kept for external traffic
)

// String returns the policy as Kubernetes writes it.
func (p TrafficPolicy) String() string {
	if p == Local {
		return "Local"
	}
	return "Cluster"
}

// Service is a Service of Kubernetes or of anybody else. Headless and ExternalName Services are none: they have no ClusterIPs.
type Service struct {
	Name Name

	// Created is when the Service was made, in seconds since 1970. It decides who of two claimants has an address and port: the older. 0 is the oldest.
	Created int64

	Ports []Port

	// ClusterIPs are its addresses inside the cluster, at most one per family. Nothing is programmed for a family without one.
	ClusterIPs []netip.Addr

	// ExternalIPs are further addresses that the cluster's users asked for (spec.externalIPs). They are programmed only if Node.ExternalIPs allows them.
	ExternalIPs []netip.Addr

	// LoadBalancerIPs are addresses of a load balancer which delivers packets with this destination (status.loadBalancer.ingress[].ip, ipMode VIP).
	LoadBalancerIPs []netip.Addr

	// SourceRanges are those who may use LoadBalancerIPs (spec.loadBalancerSourceRanges). A family without one, or with a /0, is not restricted.
	SourceRanges []netip.Prefix

	InternalPolicy TrafficPolicy // for ClusterIPs
	ExternalPolicy TrafficPolicy // for ExternalIPs, LoadBalancerIPs and NodePorts

	// Affinity keeps a client (an address) on one endpoint until it has been silent for so long (sessionAffinity ClientIP). 0 is none; whole seconds.
	Affinity time.Duration

	// HealthCheckNodePort is where a load balancer asks whether this node has local endpoints; 0 is nowhere.
	HealthCheckNodePort uint16

	// Scheduler is the name of an IPVS scheduler for this Service; "" is the dataplane's default. Dataplanes without schedulers choose at random.
	Scheduler string
}

// Port is one port of a Service.
type Port struct {
	Name     string // "" is allowed for the only port; endpoints are found by it
	Protocol Protocol
	Port     uint16 // of the addresses
	NodePort uint16 // of every node; 0 is none
}

// Equal reports whether two Services are the same, in the order of their lists too.
func (s Service) Equal(o Service) bool {
	return s.Name == o.Name && s.Created == o.Created && s.InternalPolicy == o.InternalPolicy && s.ExternalPolicy == o.ExternalPolicy &&
		s.Affinity == o.Affinity && s.HealthCheckNodePort == o.HealthCheckNodePort && s.Scheduler == o.Scheduler &&
		slices.Equal(s.Ports, o.Ports) && slices.Equal(s.ClusterIPs, o.ClusterIPs) && slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) && slices.Equal(s.SourceRanges, o.SourceRanges)
}

// Slice is a part of a Service's endpoints: all of them have the same ports (discovery/v1 EndpointSlice).
type Slice struct {
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// Equal reports whether two slices are the same, in their order too.
func (s Slice) Equal(o Slice) bool {
	return slices.Equal(s.Ports, o.Ports) && slices.Equal(s.Endpoints, o.Endpoints)
}

// EndpointPort is a port on which endpoints listen. It belongs to the Service's port of the same name and protocol.
type EndpointPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is somebody who serves. The zero conditions are those of one that is ready.
type Endpoint struct {
	Addr netip.Addr
	Node string // the node's name; "" is unknown, and not local

	// Hints say for whom the endpoint is meant (KEP-2433, KEP-3015).
	ForNodes, ForZones Names

	NotReady    bool // conditions.ready is false: gets no new connections while there are ready ones
	NotServing  bool // conditions.serving is false
	Terminating bool // conditions.terminating: its pod is being deleted
}

// fallback reports whether the endpoint may be used when none is ready (KEP-1669).
func (e Endpoint) fallback() bool { return !e.NotServing && e.Terminating }

// Names is a comparable set of names. The zero value is empty. Make one with MakeNames.
type Names string

// MakeNames returns the set of the given names. Empty names, and names with a comma, which no Kubernetes object can have, are left out.
func MakeNames(names ...string) Names {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" || strings.Contains(n, ",") })
	slices.Sort(names)
	return Names(strings.Join(slices.Compact(names), ","))
}

// Has reports whether name is in the set.
func (n Names) Has(name string) bool {
	if name == "" {
		return false
	}
	for one := range strings.SplitSeq(string(n), ",") {
		if one == name {
			return true
		}
	}
	return false
}
