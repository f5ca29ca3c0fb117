package kube_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
)

// fuzzed are texts of addresses, ranges and names that are wrong in the ways of the world.
var fuzzed = []string{"10.0.0.1", "010.0.0.1", "::1", "fe80::1%eth0", "::ffff:1.2.3.4", "0.0.0.0/0", "1.2.3.4/33", " 10.0.0.0/8 ", "None", "", "1.2.3.4.5", "1..2", "a/b", "\x00", "é", "٣.1.1.1"}

func wellNamed(t *testing.T, n service.Name) {
	t.Helper()
	for _, s := range []string{n.Namespace, n.Name} {
		if s == "" || len(s) > 253 || strings.ContainsAny(s, "/\x00\n \"") {
			t.Errorf("name %q", s)
		}
	}
}

// whole reports whether an address is one, and not one in disguise.
func whole(a netip.Addr) bool { return a == netip.Addr{} || !a.Is4In6() && a.Zone() == "" }

// FuzzService: no object makes the conversion panic, and what comes out is bounded; the plan takes it without a panic too, and leaves out what is wrong.
func FuzzService(f *testing.F) {
	for _, s := range fuzzed {
		object, err := json.Marshal(one(func(o *corev1.Service) {
			o.Name, o.Spec.Type = "web", corev1.ServiceTypeLoadBalancer
			o.Spec.ClusterIPs, o.Spec.ExternalIPs, o.Spec.LoadBalancerSourceRanges = []string{s, "10.96.0.1"}, []string{s}, []string{s, s + "/8"}
			o.Spec.Ports = []corev1.ServicePort{{Name: s, Port: 80, NodePort: 70000, Protocol: corev1.Protocol(s)}, {Port: -1}}
			o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: s}}
			o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in corev1.Service
		if json.Unmarshal(data, &in) != nil {
			return
		}
		s, ok := kube.Service(&in)
		if !ok {
			return
		}
		wellNamed(t, s.Name)
		for _, list := range [][]netip.Addr{s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs} {
			for _, a := range list {
				if !whole(a) {
					t.Errorf("address %v", a)
				}
			}
		}
		for _, p := range s.SourceRanges {
			if p.IsValid() && (p != p.Masked() || p.Addr().Is4In6()) {
				t.Errorf("range %v", p)
			}
		}
		tracker := service.NewTracker()
		tracker.SetNode(service.Node{Name: "a", ExternalIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}})
		tracker.SetService(s)
		checkPlan(t, tracker)
	})
}

// FuzzEndpointSlice is the same for endpoints.
func FuzzEndpointSlice(f *testing.F) {
	for _, s := range fuzzed {
		object, err := json.Marshal(&discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr[int32](80)}, {Name: &s, Port: ptr[int32](-5)}, {}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{s}, NodeName: &s, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: s}}}}, {Addresses: []string{"10.0.0.9"}}},
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in discoveryv1.EndpointSlice
		if json.Unmarshal(data, &in) != nil {
			return
		}
		in.Namespace, in.Name = "ns", "web-1"
		in.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
		of, slice, ok := kube.EndpointSlice(&in)
		if !ok {
			return
		}
		wellNamed(t, of)
		for _, p := range slice.Ports {
			if p.Port == 0 {
				t.Errorf("port %+v", p)
			}
		}
		for _, e := range slice.Endpoints {
			if !whole(e.Addr) || e.Addr.IsValid() && service.FamilyOf(e.Addr) != family(in.AddressType) {
				t.Errorf("endpoint %v in a slice of %s", e.Addr, in.AddressType)
			}
		}
		tracker := service.NewTracker()
		tracker.SetService(service.Service{Name: of, ClusterIPs: []netip.Addr{a("10.96.0.1"), a("fd00::1")}, Ports: []service.Port{{Protocol: service.TCP, Port: 80, NodePort: 30080}}})
		tracker.SetSlice(of, "web-1", slice)
		checkPlan(t, tracker)
	})
}

func family(of discoveryv1.AddressType) service.Family {
	if of == discoveryv1.AddressTypeIPv6 {
		return service.IPv6
	}
	return service.IPv4
}

// checkPlan proves that nothing reaches a dataplane that a packet could not have.
func checkPlan(t *testing.T, tracker *service.Tracker) {
	t.Helper()
	for _, planned := range tracker.Take() {
		for _, port := range planned.Program.Ports {
			for _, f := range port.Frontends {
				if f.Port == 0 || f.Kind != service.NodePort && service.FamilyOf(f.Addr) != port.Family || f.Kind != service.NodePort && !f.Addr.IsValid() {
					t.Errorf("frontend %v of %s", f, port.Family)
				}
			}
			for _, b := range append(port.Cluster, port.Local...) {
				if b.Addr.Port() == 0 || service.FamilyOf(b.Addr.Addr()) != port.Family || b.Addr.Addr().IsLoopback() {
					t.Errorf("endpoint %v of %s", b, port.Family)
				}
			}
		}
	}
}
