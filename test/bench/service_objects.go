package main

import (
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// dataset is a cluster of Services of one TCP port each, as the API server would serve it: with labels, owners and managed fields, which proxies pay for.
type dataset struct{ services, endpoints int }

func (d dataset) String() string { return fmt.Sprintf("%d Services x %d", d.services, d.endpoints) }

const (
	serviceNode   = "bench-node" // the node that the proxies believe to be on
	namespace     = "bench"
	servicePort   = 80
	targetPort    = 8080
	perSlice      = 100 // endpoints in one EndpointSlice: the EndpointSlice controller's default
	serviceCIDR   = "10.96.0.0/12"
	clusterCIDR   = "10.128.0.0/9"
	endpointRange = "10.160.0.0/12" // of the pods behind the Services
)

// offset returns the n-th address after a.
func offset(a string, n int) netip.Addr {
	b := netip.MustParseAddr(a).As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func (d dataset) clusterIP(i int) netip.Addr   { return offset("10.96.0.10", i) }
func (d dataset) endpoint(i, j int) netip.Addr { return offset("10.160.0.1", i*d.endpoints+j) }
func (d dataset) slices() int                  { return (d.endpoints + perSlice - 1) / perSlice }

// spare is the n-th address that no endpoint has at first.
func spare(n int) netip.Addr { return offset("10.175.0.1", n) }

func serviceName(i int) string { return fmt.Sprintf("shop-%05d", i) }

// fields are managed fields of about the size that a Service or an EndpointSlice has.
func fields(manager string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", Time: &created,
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{".":{},"f:app.kubernetes.io/instance":{},"f:app.kubernetes.io/name":{},"f:app.kubernetes.io/part-of":{}}},"f:spec":{"f:internalTrafficPolicy":{},` +
			`"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}`)}}
}

var created = metav1.Unix(1_780_000_000, 0)

func labels(i int) map[string]string {
	return map[string]string{"app.kubernetes.io/name": serviceName(i), "app.kubernetes.io/instance": "bench", "app.kubernetes.io/part-of": "shop"}
}

func uid(kind, i, j int) types.UID {
	return types.UID(fmt.Sprintf("%08x-0000-4000-8000-%06x%06x", kind, i, j))
}

func (d dataset) service(i int) *corev1.Service {
	policy, families := corev1.ServiceInternalTrafficPolicyCluster, corev1.IPFamilyPolicySingleStack
	ip := d.clusterIP(i).String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(i), Namespace: namespace, UID: uid(1, i, 0), ResourceVersion: "1", CreationTimestamp: created,
			Labels: labels(i), ManagedFields: fields("kubectl")},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: labels(i), SessionAffinity: corev1.ServiceAffinityNone,
			InternalTrafficPolicy: &policy, IPFamilyPolicy: &families, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(targetPort)}}},
	}
}

// slice is the k-th EndpointSlice of Service i.
func (d dataset) slice(i, k int) *discoveryv1.EndpointSlice {
	name, protocol, port := "http", corev1.ProtocolTCP, int32(targetPort)
	yes, no := true, false
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%05d", serviceName(i), k), GenerateName: serviceName(i) + "-", Namespace: namespace, UID: uid(2, i, k), ResourceVersion: "1",
			CreationTimestamp: created, Generation: 1, ManagedFields: fields("kube-controller-manager"), Labels: labels(i),
			Annotations:     map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-01T00:00:00Z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: serviceName(i), UID: uid(1, i, 0), Controller: &yes, BlockOwnerDeletion: &yes}}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}},
	}
	s.Labels[discoveryv1.LabelServiceName] = serviceName(i)
	s.Labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
	for j := k * perSlice; j < min((k+1)*perSlice, d.endpoints); j++ {
		// One pod in fifty is on this node.
		node, zone := fmt.Sprintf("node-%04d", (i*7+j)%1000), "zone-"+strconv.Itoa(j%3)
		if (i+j)%50 == 0 {
			node = serviceNode
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{d.endpoint(i, j).String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}, NodeName: &node, Zone: &zone,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: fmt.Sprintf("%s-6c9f7d8b5-%05x", serviceName(i), j), UID: uid(3, i, j)}})
	}
	return s
}

func node() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: serviceNode, UID: uid(4, 0, 0), ResourceVersion: "1", CreationTimestamp: created,
			Labels: map[string]string{corev1.LabelHostname: serviceNode, corev1.LabelTopologyZone: "zone-0"}},
		Spec:   corev1.NodeSpec{PodCIDR: clientCIDR, PodCIDRs: []string{clientCIDR}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}},
	}
}

func serviceRange() *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", UID: uid(5, 0, 0), ResourceVersion: "1", CreationTimestamp: created},
		Spec:   networkingv1.ServiceCIDRSpec{CIDRs: []string{serviceCIDR}},
		Status: networkingv1.ServiceCIDRStatus{Conditions: []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: created}}}}
}
