package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/rtnl"
)

// TestTakeOverKubernetes takes over one of two nodes of a cluster that flannel has set up and annotated, with a MAC address of its own for each family. The other
// node stays flannel's: nothing that it was told may change.
func TestTakeOverKubernetes(t *testing.T) {
	c := newKubeCluster(t, 2, nil)
	nodes := flannelNodesOn(t, c.testCluster, false, true)
	a, b := nodes[0], nodes[1]
	for _, n := range nodes {
		key := func(name string) string { return flannel.DefaultPrefix + "/" + name }
		c.post("/api/v1/nodes", map[string]any{"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": n.name, "annotations": map[string]string{
				key("kube-subnet-manager"): "true", key("backend-type"): "vxlan",
				key("public-ip"): n.addr(false).String(), key("public-ipv6"): n.addr(true).String(),
				key("backend-data"):    fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, n.mac(n.index)),
				key("backend-v6-data"): fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, n.mac6(n.index)),
			}},
			"spec": map[string]any{"podCIDR": fmt.Sprintf("10.244.%d.0/24", n.index), "podCIDRs": []string{fmt.Sprintf("10.244.%d.0/24", n.index), fmt.Sprintf("fd00:244:0:%d::/64", n.index)}}})
		c.do(http.MethodPatch, "/api/v1/nodes/"+n.name+"/status", map[string]any{"status": map[string]any{"addresses": []map[string]string{
			{"type": "InternalIP", "address": n.addr(false).String()}, {"type": "InternalIP", "address": n.addr(true).String()}}}}, nil)
	}
	before := []map[string]string{c.node(a.testNode).Metadata.Annotations, c.node(b.testNode).Metadata.Annotations}
	tr := startTraffic(t, a, b)
	c.start(a.testNode, append(a.own(), "--take-over", "flannel")...)
	a.waitReady()
	c.wantCondition(a.testNode, "False PodnetIsUp")
	tr.wantNoLoss("to podnet")
	for i, n := range nodes {
		if diff := cmp.Diff(before[i], c.node(n.testNode).Metadata.Annotations); diff != "" {
			t.Errorf("annotations of %s (-flannel's +now):\n%s", n.name, diff)
		}
	}
	for name, mac := range map[string]string{"flannel.1": a.mac(a.index), "flannel-v6.1": a.mac6(a.index)} {
		if l, err := a.conn.Link(t.Context(), name); err != nil || l.MAC.String() != mac {
			t.Errorf("%s: %v, %v; want MAC %s", name, l, err, mac)
		}
	}
	if n := a.routes(rtnl.ProtocolVXLAN); n != 2 {
		t.Errorf("%d routes are podnet's, want 2", n)
	}
	list, err := os.ReadFile(a.path(a.name, "net.d", "10-podnet.conflist"))
	if err != nil || !strings.Contains(string(list), `"name": "cbr0"`) {
		t.Errorf("podnet's list: %s, %v", list, err)
	}
	// And the other one, which so far was flannel's.
	tr = startTraffic(t, a, b)
	c.start(b.testNode, append(b.own(), "--take-over", "flannel")...)
	b.waitReady()
	tr.wantNoLoss("the second node")
	// One goes back.
	_ = a.kill(15)
	tr = startTraffic(t, a, b)
	a.migrate(t, "--to", "flannel")
	a.rules(t)
	a.migrate(t, "--to", "flannel")
	tr.wantNoLoss("to flannel")
	if diff := cmp.Diff(before[0], c.node(a.testNode).Metadata.Annotations); diff != "" {
		t.Errorf("annotations of %s (-flannel's +now):\n%s", a.name, diff)
	}
}
