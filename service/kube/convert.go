package kube

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/podnet/podnet/service"
)

// Labels and annotations that are read.
const (
	// LabelProxyName names the proxy that a Service is for; without it, the Service is for the cluster's own proxy (service.kubernetes.io/service-proxy-name).
	LabelProxyName = "service.kubernetes.io/service-proxy-name"

	// AnnotationScheduler on a Service names its IPVS scheduler.
	AnnotationScheduler = "podnet.dev/ipvs-scheduler"

	// annotationKubeRouter is kube-router's name for the same, for those who come from there.
	annotationKubeRouter = "kube-router.io/service.scheduler"
)

// defaultAffinity is how long affinity lasts if the Service does not say (core/v1 DefaultClientIPServiceAffinitySeconds).
const defaultAffinity = 3 * time.Hour

// Service converts a Service. It reports false for one that no proxy serves: headless, of type ExternalName, without a ClusterIP yet, or
// with a name that no API server accepts. What is wrong with the rest (a port of 0, an address that is none) stays in, for the plan to report.
func Service(in *corev1.Service) (out service.Service, ok bool) {
	spec := &in.Spec
	if spec.ClusterIP == "" || spec.ClusterIP == corev1.ClusterIPNone || spec.Type == corev1.ServiceTypeExternalName || !nameable(in.Namespace, in.Name) {
		return service.Service{}, false
	}
	out = service.Service{
		Name:        service.Name{Namespace: in.Namespace, Name: in.Name},
		ExternalIPs: addrs(spec.ExternalIPs),
		Scheduler:   in.Annotations[AnnotationScheduler],
	}
	if out.Scheduler == "" {
		out.Scheduler = in.Annotations[annotationKubeRouter]
	}
	if !in.CreationTimestamp.IsZero() {
		out.Created = in.CreationTimestamp.Unix()
	}
	out.ClusterIPs = addrs(spec.ClusterIPs)
	if len(out.ClusterIPs) == 0 { // an API server from before dual-stack
		out.ClusterIPs = addrs([]string{spec.ClusterIP})
	}
	for _, p := range spec.Ports {
		out.Ports = append(out.Ports, service.Port{Name: p.Name, Protocol: protocol(p.Protocol), Port: port(p.Port), NodePort: port(p.NodePort)})
	}
	for _, ingress := range in.Status.LoadBalancer.Ingress {
		if ingress.IP != "" && (ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP) {
			out.LoadBalancerIPs = append(out.LoadBalancerIPs, addr(ingress.IP))
		}
	}
	for _, s := range spec.LoadBalancerSourceRanges {
		out.SourceRanges = append(out.SourceRanges, prefix(s))
	}
	if p := spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		out.InternalPolicy = service.Local
	}
	if spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		out.ExternalPolicy = service.Local
		if spec.Type == corev1.ServiceTypeLoadBalancer {
			out.HealthCheckNodePort = port(spec.HealthCheckNodePort)
		}
	}
	out.Affinity = affinity(spec)
	return out, true
}

func affinity(spec *corev1.ServiceSpec) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return defaultAffinity
}

// EndpointSlice converts an EndpointSlice and returns the Service that it belongs to. It reports false for one that belongs to none, or whose addresses are not IP
// addresses (FQDN).
func EndpointSlice(in *discoveryv1.EndpointSlice) (of service.Name, out service.Slice, ok bool) {
	of = service.Name{Namespace: in.Namespace, Name: in.Labels[discoveryv1.LabelServiceName]}
	var family service.Family
	switch in.AddressType {
	case discoveryv1.AddressTypeIPv4:
		family = service.IPv4
	case discoveryv1.AddressTypeIPv6:
		family = service.IPv6
	}
	if family == 0 || !nameable(of.Namespace, of.Name) || !nameable(in.Namespace, in.Name) {
		return service.Name{}, service.Slice{}, false
	}
	for _, p := range in.Ports {
		if p.Name == nil || p.Port == nil || port(*p.Port) == 0 { // no port is all ports, which a proxy cannot serve
			continue
		}
		one := service.EndpointPort{Name: *p.Name, Protocol: service.TCP, Port: port(*p.Port)}
		if p.Protocol != nil {
			one.Protocol = protocol(*p.Protocol)
		}
		out.Ports = append(out.Ports, one)
	}
	out.Endpoints = make([]service.Endpoint, 0, len(in.Endpoints))
	for i := range in.Endpoints {
		if e, ok := endpoint(&in.Endpoints[i], family); ok {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	return of, out, true
}

// endpoint converts one endpoint. Consumers use the first address only (discovery/v1). An address of the other family is left out, one that is none is kept for the plan to
// report.
func endpoint(in *discoveryv1.Endpoint, family service.Family) (out service.Endpoint, ok bool) {
	if len(in.Addresses) == 0 {
		return out, false
	}
	out.Addr = addr(in.Addresses[0])
	if out.Addr.IsValid() && service.FamilyOf(out.Addr) != family {
		return out, false
	}
	if in.NodeName != nil {
		out.Node = *in.NodeName
	}
	c := in.Conditions
	out.NotReady = c.Ready != nil && !*c.Ready
	out.NotServing = c.Serving != nil && !*c.Serving
	out.Terminating = c.Terminating != nil && *c.Terminating
	if in.Hints != nil {
		zones := make([]string, 0, len(in.Hints.ForZones))
		for _, z := range in.Hints.ForZones {
			zones = append(zones, z.Name)
		}
		nodes := make([]string, 0, len(in.Hints.ForNodes))
		for _, n := range in.Hints.ForNodes {
			nodes = append(nodes, n.Name)
		}
		out.ForZones, out.ForNodes = service.MakeNames(zones...), service.MakeNames(nodes...)
	}
	return out, true
}

// maxName is the longest name of an object that an API server accepts (RFC 1123 subdomain).
const maxName = 253

// nameable reports whether both could be names of an API object.
func nameable(namespace, name string) bool {
	return namespace != "" && name != "" && len(namespace) <= maxName && len(name) <= maxName &&
		!strings.ContainsFunc(namespace+name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' })
}

func protocol(p corev1.Protocol) service.Protocol {
	switch p {
	case corev1.ProtocolTCP, "":
		return service.TCP
	case corev1.ProtocolUDP:
		return service.UDP
	case corev1.ProtocolSCTP:
		return service.SCTP
	}
	return 0
}

// port returns 0 for what is no port.
func port(p int32) uint16 {
	if p < 0 || p > 65535 {
		return 0
	}
	return uint16(p)
}

func addrs(in []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		if s != "" && s != corev1.ClusterIPNone {
			out = append(out, addr(s))
		}
	}
	return out
}

// addr parses an address as Kubernetes does since Go 1.17 (ParseIPSloppy): leading zeros in IPv4 count for nothing, and IPv4 in IPv6 is IPv4. The zero Addr is none.
func addr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		a, err = netip.ParseAddr(trimZeros(s))
	}
	if err != nil || a.Zone() != "" {
		return netip.Addr{}
	}
	return a.Unmap()
}

// prefix parses a range as Kubernetes does (ParseCIDRSloppy): host bits count for nothing, and spaces around it, which the validation of source ranges lets
// through. The zero Prefix is none.
func prefix(s string) netip.Prefix {
	address, bits, ok := strings.Cut(strings.TrimSpace(s), "/")
	if !ok {
		return netip.Prefix{}
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		a, err = netip.ParseAddr(trimZeros(address))
	}
	n, numberErr := strconv.ParseUint(bits, 10, 8)
	if err != nil || numberErr != nil || a.Zone() != "" {
		return netip.Prefix{}
	}
	length := int(n)
	if a.Is4In6() {
		a, length = a.Unmap(), length-96
	}
	if length < 0 || length > a.BitLen() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, length).Masked()
}

// trimZeros removes leading zeros of the decimal numbers of an address, also of an IPv4 one at the end of an IPv6 one.
func trimZeros(s string) string {
	head := ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		if !strings.Contains(s[i:], ".") {
			return s
		}
		head, s = s[:i+1], s[i+1:]
	}
	parts := strings.Split(s, ".")
	for i, p := range parts {
		t := strings.TrimLeft(p, "0")
		if t == "" && p != "" {
			t = "0"
		}
		parts[i] = t
	}
	return head + strings.Join(parts, ".")
}
