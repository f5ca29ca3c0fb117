package kube_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
)

var comparable = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})

func ptr[T any](v T) *T { return &v }

func a(s string) netip.Addr { return netip.MustParseAddr(s) }

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// one returns a Service of type ClusterIP, changed.
func one(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}}}
	change(s)
	return s
}

func TestService(t *testing.T) {
	base := service.Service{Name: service.Name{Namespace: "ns", Name: "web"}, ClusterIPs: []netip.Addr{a("10.96.0.10")}}
	for _, tt := range []struct {
		name   string
		change func(*corev1.Service)
		want   func(*service.Service)
	}{
		{"plain", func(s *corev1.Service) {}, func(s *service.Service) {}},
		{"before dual-stack", func(s *corev1.Service) { s.Spec.ClusterIPs = nil }, func(s *service.Service) {}},
		{"both families", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.10", "fd00:96::a"} }, func(s *service.Service) {
			s.ClusterIPs = []netip.Addr{a("10.96.0.10"), a("fd00:96::a")}
		}},
		{"leading zeros", func(s *corev1.Service) {
			s.Spec.ClusterIPs = []string{"010.096.000.010", "::ffff:10.1.2.3", "no", "1.2.3.4%x"}
		}, func(s *service.Service) {
			s.ClusterIPs = []netip.Addr{a("10.96.0.10"), a("10.1.2.3"), {}, {}}
		}},
		{"age", func(s *corev1.Service) { s.CreationTimestamp = metav1.Unix(1700000000, 5) }, func(s *service.Service) { s.Created = 1700000000 }},
		{"ports", func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Protocol: "UDP", Port: 53, NodePort: 30053}, {Protocol: "SCTP", Port: 65536, NodePort: -1}, {Protocol: "DCCP", Port: -1}}
		}, func(s *service.Service) {
			s.Ports = []service.Port{{Name: "a", Protocol: service.TCP, Port: 80}, {Name: "b", Protocol: service.UDP, Port: 53, NodePort: 30053}, {Protocol: service.SCTP}, {}}
		}},
		{"external IPs", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"", "192.0.2.1", "None"} }, func(s *service.Service) { s.ExternalIPs = []netip.Addr{a("192.0.2.1")} }},
		{"load balancer", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {Hostname: "lb"}, {IP: "192.0.2.2", IPMode: ptr(corev1.LoadBalancerIPModeVIP)},
				{IP: "192.0.2.3", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {IP: "192.0.2.4", IPMode: ptr(corev1.LoadBalancerIPMode("new"))}, {IP: "2001:db8::1"}}
		}, func(s *service.Service) {
			s.LoadBalancerIPs = []netip.Addr{a("192.0.2.1"), a("192.0.2.2"), a("2001:db8::1")}
		}},
		{"source ranges", func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{" 192.0.2.1/24\t", "0.0.0.0/0", "2001:db8::1/32", "1.2.3.4", "010.0.0.0/8", "::ffff:10.0.0.0/104", "1.2.3.4/33", "::ffff:1.2.3.4/8"}
		}, func(s *service.Service) {
			s.SourceRanges = []netip.Prefix{p("192.0.2.0/24"), p("0.0.0.0/0"), p("2001:db8::/32"), {}, p("10.0.0.0/8"), p("10.0.0.0/8"), {}, {}}
		}},
		{"internal policy", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal) }, func(s *service.Service) { s.InternalPolicy = service.Local }},
		{"internal policy Cluster", func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyCluster)
		}, func(s *service.Service) {}},
		{"external policy of a NodePort", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal, 31000
		}, func(s *service.Service) { s.ExternalPolicy = service.Local }},
		{"external policy of a load balancer", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 31000
		}, func(s *service.Service) { s.ExternalPolicy, s.HealthCheckNodePort = service.Local, 31000 }},
		{"health check with policy Cluster", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 31000
		}, func(s *service.Service) {}},
		{"affinity", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr[int32](60)}}
		}, func(s *service.Service) { s.Affinity = time.Minute }},
		{"affinity without a time", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{}}
		}, func(s *service.Service) { s.Affinity = 3 * time.Hour }},
		{"scheduler", func(s *corev1.Service) {
			s.Annotations = map[string]string{kube.AnnotationScheduler: "lc", "kube-router.io/service.scheduler": "sh"}
		}, func(s *service.Service) { s.Scheduler = "lc" }},
		{"kube-router's scheduler", func(s *corev1.Service) { s.Annotations = map[string]string{"kube-router.io/service.scheduler": "sh"} }, func(s *service.Service) { s.Scheduler = "sh" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := base
			tt.want(&want)
			got, ok := kube.Service(one(tt.change))
			if !ok {
				t.Fatal("not converted")
			}
			if diff := cmp.Diff(want, got, comparable); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServiceSkipped(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"headless":     func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
		"no address":   func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil },
		"ExternalName": func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
		"no name":      func(s *corev1.Service) { s.Name = "" },
		"no namespace": func(s *corev1.Service) { s.Namespace = "" },
		"hostile name": func(s *corev1.Service) { s.Name = "a\n-j ACCEPT" },
		"slash":        func(s *corev1.Service) { s.Name = "a/b" },
		"long name":    func(s *corev1.Service) { s.Name = strings.Repeat("a", 254) },
	} {
		if got, ok := kube.Service(one(change)); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestEndpointSlice(t *testing.T) {
	in := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr("http"), Port: ptr[int32](8080), Protocol: ptr(corev1.ProtocolTCP)}, {Name: ptr(""), Port: ptr[int32](53), Protocol: ptr(corev1.ProtocolUDP)}, {Name: ptr("none"), Port: ptr[int32](1)},
			{Port: ptr[int32](1)}, {Name: ptr("all")}, {Name: ptr("zero"), Port: ptr[int32](0)}, {Name: ptr("high"), Port: ptr[int32](70000)},
		},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.1.2", "10.244.1.3"}, NodeName: ptr("node-a")},
			{Addresses: []string{"10.244.01.4"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)}},
			{Addresses: []string{"10.244.1.5"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(false), Serving: ptr(true), Terminating: ptr(true)}},
			{Addresses: []string{"10.244.1.6"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(false), Serving: ptr(false)}},
			{Addresses: []string{"10.244.1.7"}, Hints: &discoveryv1.EndpointHints{
				ForZones: []discoveryv1.ForZone{{Name: "z2"}, {Name: "z1"}}, ForNodes: []discoveryv1.ForNode{{Name: "node-a"}},
			}},
			{Addresses: []string{"fd00::1"}}, {}, {Addresses: []string{"pod.example"}},
		},
	}
	of, got, ok := kube.EndpointSlice(in)
	want := service.Slice{
		Ports: []service.EndpointPort{{Name: "http", Protocol: service.TCP, Port: 8080}, {Protocol: service.UDP, Port: 53}, {Name: "none", Protocol: service.TCP, Port: 1}},
		Endpoints: []service.Endpoint{
			{Addr: a("10.244.1.2"), Node: "node-a"},
			{Addr: a("10.244.1.4")},
			{Addr: a("10.244.1.5"), NotReady: true, Terminating: true},
			{Addr: a("10.244.1.6"), NotReady: true, NotServing: true},
			{Addr: a("10.244.1.7"), ForZones: service.MakeNames("z1", "z2"), ForNodes: service.MakeNames("node-a")},
			{}, // for the plan to report
		},
	}
	if diff := cmp.Diff(want, got, comparable); diff != "" || !ok || of != (service.Name{Namespace: "ns", Name: "web"}) {
		t.Errorf("of %v, %v (-want +got):\n%s", of, ok, diff)
	}
	for name, change := range map[string]func(*discoveryv1.EndpointSlice){
		"FQDN":           func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN },
		"of no Service":  func(s *discoveryv1.EndpointSlice) { s.Labels = nil },
		"hostile":        func(s *discoveryv1.EndpointSlice) { s.Labels[discoveryv1.LabelServiceName] = "a b" },
		"without a name": func(s *discoveryv1.EndpointSlice) { s.Name = "" },
	} {
		s := in.DeepCopy()
		change(s)
		if _, got, ok := kube.EndpointSlice(s); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestNodeOf(t *testing.T) {
	in := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "x", "fd00:1::/64"}, PodCIDR: "10.244.1.0/24"},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeExternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"},
			{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"}, {Type: corev1.NodeInternalIP, Address: ""},
		}},
	}
	got := kube.NodeOf(in)
	want := kube.Node{Exists: true, Zone: "z1", Addrs: []netip.Addr{a("10.0.0.1"), a("10.0.0.2"), a("fd00::1"), a("192.0.2.1")}, PodCIDRs: []netip.Prefix{p("10.244.1.0/24"), p("fd00:1::/64")}}
	if diff := cmp.Diff(want, got, comparable); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]netip.Addr{a("10.0.0.1"), a("fd00::1")}, got.Primary(), comparable); diff != "" {
		t.Errorf("primary (-want +got):\n%s", diff)
	}
	if primary := (kube.Node{}).Primary(); primary != nil {
		t.Errorf("primary of nothing: %v", primary)
	}
	in.Spec.Taints = []corev1.Taint{{Key: "other"}, {Key: "ToBeDeletedByClusterAutoscaler"}}
	if !kube.NodeOf(in).Deleting {
		t.Error("the taint of the cluster autoscaler is not seen")
	}
	in.Spec.Taints, in.DeletionTimestamp = nil, &metav1.Time{Time: time.Unix(1, 0)}
	if !kube.NodeOf(in).Deleting {
		t.Error("the deletion is not seen")
	}
}
