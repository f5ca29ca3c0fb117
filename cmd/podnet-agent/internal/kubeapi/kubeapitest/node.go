package kubeapitest

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node returns a small Node with podCIDRs and internal addresses; the older, the smaller age is.
func Node(name string, age int, podCIDRs, addresses []string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID(fmt.Sprintf("uid-%03d-%s", age, name)), CreationTimestamp: metav1.Unix(1790000000+int64(age), 0), Annotations: map[string]string{},
	}}
	n.Spec.PodCIDRs = podCIDRs
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// Fill makes a Node as large as they are in production: labels, annotations of other components, managed fields, conditions, 50 images. That is about
// 10 KB of JSON.
func Fill(n *corev1.Node) *corev1.Node {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	for i := range 12 {
		n.Labels[fmt.Sprintf("topology.example.com/label-%d", i)] = fmt.Sprintf("value-%d", i)
	}
	n.Annotations["volumes.kubernetes.io/controller-managed-attach-detach"] = "true"
	n.Annotations["csi.volume.kubernetes.io/nodeid"] = `{"ebs.csi.example.com":"i-0123456789abcdef0"}`
	now := metav1.NewTime(time.Unix(1790000000, 0))
	for _, manager := range []string{"kubelet", "kube-controller-manager", "podnet-agent"} {
		n.ManagedFields = append(n.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: "Update", APIVersion: "v1", Time: &now, FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{` + strings.Repeat(`"f:example.com/some-annotation":{},`, 12) + `"f:x":{}}}}`)})
	}
	n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("263842572Ki"), "pods": resource.MustParse("110")}
	n.Status.Allocatable = n.Status.Capacity
	for _, c := range []corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: "False", LastHeartbeatTime: now, LastTransitionTime: now,
			Reason: "KubeletHasSufficient" + string(c), Message: "kubelet has sufficient memory, disk and process identifiers available"})
	}
	n.Status.NodeInfo = corev1.NodeSystemInfo{MachineID: strings.Repeat("a", 32), SystemUUID: strings.Repeat("b", 36), KernelVersion: "6.18.0", KubeletVersion: "v1.36.3", OSImage: "Debian GNU/Linux 12"}
	for i := range 50 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{SizeBytes: int64(i) << 20,
			Names: []string{fmt.Sprintf("registry.example.com/team/service-%d@sha256:%s", i, strings.Repeat("c", 64))}})
	}
	return n
}
