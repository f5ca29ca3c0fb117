package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// underlay makes eth0 with the addresses of node-0.
func underlay() error {
	for _, argv := range []string{"link set lo up", "link add eth0 type veth peer name far0", "link set far0 up",
		"addr add 10.0.1.0/16 dev eth0", "addr add fd00:a::1/64 dev eth0 nodad", "link set eth0 up"} {
		if out, err := exec.Command("ip", strings.Fields(argv)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", argv, err, out)
		}
	}
	return nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }
func nodeAddr4(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte((i + 256) >> 8), byte(i)})
}
func nodeAddr6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:a::%x", i+1)) }
func podCIDR4(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + byte(i>>8), byte(i), 0}), 24)
}
func podCIDR6(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("fd00:b:%x::/64", i)) }
func addresses(a ...netip.Addr) any {
	list := []any{map[string]any{"type": "Hostname", "address": "host.example.com"}}
	for _, a := range a {
		list = append(list, map[string]any{"type": "InternalIP", "address": a.String()})
	}
	return list
}

// conditions are what a kubelet says every five minutes.
func conditions(at time.Time) any {
	var list []any
	for _, c := range []struct{ kind, status, reason, message string }{
		{"MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		{"DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		{"PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"},
		{"Ready", "True", "KubeletReady", "kubelet is posting ready status"},
	} {
		list = append(list, map[string]any{"type": c.kind, "status": c.status, "reason": c.reason, "message": c.message,
			"lastHeartbeatTime": at.UTC().Format(time.RFC3339), "lastTransitionTime": "2026-01-01T00:00:00Z"})
	}
	return list
}

// nodeObject is a Node as a kubelet makes it: 35 images, labels, conditions; about 10 KB of JSON with what the API server adds.
func nodeObject(i int) map[string]any {
	images := make([]any, 35)
	for j := range images {
		images[j] = map[string]any{"sizeBytes": 10_000_000 + 1000*j, "names": []string{
			fmt.Sprintf("registry.example.com/team-%02d/service-%02d@sha256:%064x", j%7, j, i*1000+j), fmt.Sprintf("registry.example.com/team-%02d/service-%02d:v1.%d.0", j%7, j, j)}}
	}
	resources := map[string]string{"cpu": "16", "memory": "65846212Ki", "pods": "110", "ephemeral-storage": "203070420Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0"}
	return map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": nodeName(i), "labels": map[string]string{
			"beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": nodeName(i),
			"node.kubernetes.io/instance-type": "m5.4xlarge", "topology.kubernetes.io/region": "eu-central-1", "topology.kubernetes.io/zone": "eu-central-1" + string(rune('a'+i%3)),
		}, "annotations": map[string]string{"node.alpha.kubernetes.io/ttl": "15", "volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		"spec": map[string]any{"podCIDR": podCIDR4(i).String(), "podCIDRs": []string{podCIDR4(i).String(), podCIDR6(i).String()}, "providerID": fmt.Sprintf("aws:///eu-central-1a/i-%016x", i)},
		"status": map[string]any{"addresses": addresses(nodeAddr4(i), nodeAddr6(i)), "conditions": conditions(time.Now()), "images": images, "capacity": resources, "allocatable": resources,
			"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": 10250}},
			"nodeInfo": map[string]string{"architecture": "amd64", "bootID": fmt.Sprintf("%036x", i), "containerRuntimeVersion": "containerd://2.1.4", "kernelVersion": "6.8.0-1036-aws",
				"kubeProxyVersion": "", "kubeletVersion": "v1.36.3", "machineID": fmt.Sprintf("%032x", i), "operatingSystem": "linux", "osImage": "Ubuntu 24.04.3 LTS", "systemUUID": fmt.Sprintf("%036x", i)}},
	}
}
