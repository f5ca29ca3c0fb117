package kube

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// taintToBeDeleted is the taint with which the cluster autoscaler announces that it removes a node.
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// Node is what the API says of a node. The zero Node is one that does not exist.
type Node struct {
	Exists   bool
	Deleting bool // it is being deleted, or the cluster autoscaler has announced that

	Zone     string         // of the label topology.kubernetes.io/zone
	Addrs    []netip.Addr   // of type InternalIP, then ExternalIP
	PodCIDRs []netip.Prefix // of spec
}

// Primary returns the node's primary addresses: the first, and the first of the other family.
func (n Node) Primary() []netip.Addr {
	if len(n.Addrs) == 0 {
		return nil
	}
	primary := n.Addrs[:1:1]
	for _, a := range n.Addrs[1:] {
		if a.Is4() != primary[0].Is4() {
			return append(primary, a)
		}
	}
	return primary
}

// Equal reports whether two Nodes are the same.
func (n Node) Equal(o Node) bool {
	return n.Exists == o.Exists && n.Deleting == o.Deleting && n.Zone == o.Zone && slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}

// NodeOf converts a Node. What is no address or range is left out.
func NodeOf(in *corev1.Node) Node {
	out := Node{Exists: true, Deleting: !in.DeletionTimestamp.IsZero(), Zone: in.Labels[corev1.LabelTopologyZone]}
	for _, t := range in.Spec.Taints {
		out.Deleting = out.Deleting || t.Key == taintToBeDeleted
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range in.Status.Addresses {
			if ip := addr(a.Address); a.Type == kind && ip.IsValid() {
				out.Addrs = append(out.Addrs, ip)
			}
		}
	}
	cidrs := in.Spec.PodCIDRs
	if len(cidrs) == 0 && in.Spec.PodCIDR != "" {
		cidrs = []string{in.Spec.PodCIDR}
	}
	for _, s := range cidrs {
		if p := prefix(s); p.IsValid() {
			out.PodCIDRs = append(out.PodCIDRs, p)
		}
	}
	return out
}

// serviceCIDRs returns the ranges of a ServiceCIDR, ready or not.
func serviceCIDRs(in *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in.Spec.CIDRs {
		if p := prefix(s); p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}
