package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Fault is a part of a Service that is left out because it is wrong. Everything else of the Service is programmed.
type Fault struct {
	Field  string // such as "spec.externalIPs"
	Value  string
	Reason string // what is wrong, and what is allowed
}

// Error returns the fault as one line.
func (f Fault) Error() string { return fmt.Sprintf("%s %q: %s", f.Field, f.Value, f.Reason) }

// maxAffinity is the longest time that Kubernetes allows (core/v1 ClientIPConfig).
const maxAffinity = 24 * time.Hour

// mostFaults is how many faults of one Service are listed. Somebody may write thousands of wrong endpoints.
const mostFaults = 50

// faults collects what is wrong, each once.
type faults struct {
	found []Fault
	seen  map[Fault]struct{}
}

func (f *faults) add(field string, value any, reason string) {
	one := Fault{Field: field, Value: fmt.Sprint(value), Reason: reason}
	if _, again := f.seen[one]; again {
		return
	}
	if f.seen == nil {
		f.seen = map[Fault]struct{}{}
	}
	f.seen[one] = struct{}{}
	if len(f.seen) <= mostFaults {
		f.found = append(f.found, one)
	}
}

// list returns what was found, and how much of it is not listed.
func (f *faults) list() []Fault {
	if more := len(f.seen) - len(f.found); more > 0 {
		return append(f.found, Fault{Field: "service", Value: fmt.Sprint(more), Reason: "further faults, which are not listed"})
	}
	return f.found
}

// service returns the Service without what is wrong with it.
func (f *faults) service(node Node, s Service, taken func(netip.Addr) bool) Service {
	s.Ports = f.ports(s.Ports)
	s.ClusterIPs = f.clusterIPs(s.ClusterIPs)
	s.ExternalIPs = keep(s.ExternalIPs, func(a netip.Addr) bool {
		reason := externalFault(node, a, taken)
		if reason != "" {
			f.add("spec.externalIPs", a, reason)
		}
		return reason == ""
	})
	s.LoadBalancerIPs = keep(s.LoadBalancerIPs, func(a netip.Addr) bool {
		reason := unicast(a)
		if reason == "" && (ranged(node.ServiceCIDRs, a) || taken(a)) {
			reason = "is an address for ClusterIPs; want the load balancer's own"
		}
		if reason != "" {
			f.add("status.loadBalancer.ingress.ip", a, reason)
		}
		return reason == ""
	})
	s.SourceRanges = keep(s.SourceRanges, func(p netip.Prefix) bool {
		if !p.IsValid() {
			f.add("spec.loadBalancerSourceRanges", p, "is no range; want such as 192.0.2.0/24")
		}
		return p.IsValid()
	})
	if s.Affinity < 0 || s.Affinity > maxAffinity || s.Affinity%time.Second != 0 {
		f.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds", s.Affinity, "want whole seconds from 1 to 86400; the nearest is used")
		s.Affinity = min(max(s.Affinity, 0), maxAffinity).Round(time.Second)
	}
	return s
}

func (f *faults) ports(ports []Port) []Port {
	var kept []Port
	for _, p := range ports {
		switch {
		case p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP:
			f.add("spec.ports.protocol", p.Protocol, "want TCP, UDP or SCTP")
		case p.Port == 0:
			f.add("spec.ports.port", p.Port, "want 1 to 65535")
		case slices.ContainsFunc(kept, func(k Port) bool { return k.Protocol == p.Protocol && (k.Name == p.Name || k.Port == p.Port) }):
			f.add("spec.ports", fmt.Sprintf("%s %d/%s", p.Name, p.Port, p.Protocol), "stands there twice; want each name and each port once per protocol")
		default:
			if p.NodePort != 0 && slices.ContainsFunc(kept, func(k Port) bool { return k.Protocol == p.Protocol && k.NodePort == p.NodePort }) {
				f.add("spec.ports.nodePort", p.NodePort, "stands there twice; want each node port once per protocol")
				p.NodePort = 0
			}
			kept = append(kept, p)
		}
	}
	return kept
}

func (f *faults) clusterIPs(addrs []netip.Addr) []netip.Addr {
	var kept []netip.Addr
	for _, a := range addrs {
		reason := unicast(a)
		if reason == "" && slices.ContainsFunc(kept, func(k netip.Addr) bool { return FamilyOf(k) == FamilyOf(a) }) {
			reason = "is the second of its family; want one"
		}
		if reason != "" {
			f.add("spec.clusterIPs", a, reason)
			continue
		}
		kept = append(kept, a)
	}
	return kept
}

// endpoint tells of an endpoint that is left out: one in loopback or link-local would lead into the node itself or to its cloud's metadata (CVE-2021-25737, CVE-2020-8558).
func (f *faults) endpoint(a netip.Addr) { f.add("endpoints.addresses", a, unicast(a)) }

// externalFault says why an address may not be an external IP (CVE-2020-8554).
func externalFault(node Node, a netip.Addr, taken func(netip.Addr) bool) string {
	if reason := unicast(a); reason != "" {
		return reason
	}
	switch {
	case !ranged(node.ExternalIPs, a):
		return "is not in the ranges that are allowed for external IPs"
	case slices.Contains(node.Addrs, a):
		return "is an address of this node"
	case ranged(node.ServiceCIDRs, a), taken(a):
		return "is an address for ClusterIPs"
	case ranged(node.PodCIDRs, a):
		return "is an address for pods"
	}
	return ""
}

// unicast says why an address is not one that a packet can be sent to from elsewhere.
func unicast(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "is no address"
	case a.Is4In6():
		return "is IPv4 in IPv6; want plain IPv4"
	case a.Zone() != "":
		return "has a zone; want an address without"
	case a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast(), a == broadcast:
		return "is unspecified, loopback, link-local, multicast or broadcast; want a unicast address"
	}
	return ""
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// keep returns the elements that are wanted, without changing s.
func keep[T any](s []T, want func(T) bool) []T {
	var kept []T
	for _, x := range s {
		if want(x) {
			kept = append(kept, x)
		}
	}
	return kept
}
