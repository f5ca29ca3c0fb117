package service

import (
	"net/netip"
	"slices"
)

// Node is what a plan needs to know of this node and of the cluster. The zero Node works: no endpoint is local, no source is a local pod, NodePorts listen on all
// addresses, and no external IP is allowed.
type Node struct {
	Name string // endpoints with this node name are local; "" has none
	Zone string // of the label topology.kubernetes.io/zone, for hints

	// Addrs are the node's addresses (status.addresses, InternalIP and ExternalIP). A load balancer's own address may use it if one of them is in the source ranges; an
	// external IP may not be one of them.
	Addrs []netip.Addr

	// LocalPods says which sources are pods of this node: they are told from the rest for masquerading and for the external traffic policy Local.
	LocalPods LocalPods

	// NodePortAddrs restricts NodePorts to local addresses in these ranges. Empty is all local addresses but loopback.
	NodePortAddrs []netip.Prefix

	// MasqueradeAll translates the source of all traffic to ClusterIPs.
	MasqueradeAll bool

	// ExternalIPs are the ranges from which Services may claim ExternalIPs. Empty allows none: whoever may create Services could take over any address (CVE-2020-8554).
	ExternalIPs []netip.Prefix

	// ServiceCIDRs are the ranges of ClusterIPs. Packets to an address in them that no Service has are dropped; external IPs may not be in them. Empty: unknown, nothing is dropped.
	ServiceCIDRs []netip.Prefix

	// PodCIDRs are the ranges of all pods in the cluster: external IPs may not be in them. Empty: unknown.
	PodCIDRs []netip.Prefix
}

// LocalPods recognises packets that come from a pod of this node. At most one way is used: the first that is set. The zero value recognises none.
type LocalPods struct {
	CIDRs           []netip.Prefix // by the source address; of a family without a range, none is a local pod
	Interface       string         // by the device they come in from, such as a bridge
	InterfacePrefix string         // by the beginning of that device's name
}

// Known reports whether packets of a family can be told to come from a local pod.
func (l LocalPods) Known(f Family) bool {
	if len(l.CIDRs) > 0 {
		return slices.ContainsFunc(l.CIDRs, func(p netip.Prefix) bool { return FamilyOf(p.Addr()) == f })
	}
	return l.Interface != "" || l.InterfacePrefix != ""
}

// Equal reports whether two Nodes are the same, in the order of their lists too.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && n.MasqueradeAll == o.MasqueradeAll &&
		n.LocalPods.Interface == o.LocalPods.Interface && n.LocalPods.InterfacePrefix == o.LocalPods.InterfacePrefix &&
		slices.Equal(n.LocalPods.CIDRs, o.LocalPods.CIDRs) && slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.NodePortAddrs, o.NodePortAddrs) &&
		slices.Equal(n.ExternalIPs, o.ExternalIPs) && slices.Equal(n.ServiceCIDRs, o.ServiceCIDRs) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}

// clone returns a copy that shares nothing with n.
func (n Node) clone() Node {
	n.Addrs, n.NodePortAddrs, n.ExternalIPs = slices.Clone(n.Addrs), slices.Clone(n.NodePortAddrs), slices.Clone(n.ExternalIPs)
	n.ServiceCIDRs, n.PodCIDRs, n.LocalPods.CIDRs = slices.Clone(n.ServiceCIDRs), slices.Clone(n.PodCIDRs), slices.Clone(n.LocalPods.CIDRs)
	return n
}

// ranged reports whether one of the ranges holds a.
func ranged(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
