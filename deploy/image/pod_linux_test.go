package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

// TestPod is TestContainer with nothing changed: nodes, configuration and identity as a kubelet gives them to the pod, on a real API server with the shipped
// RBAC and admission policy.
func TestPod(t *testing.T) {
	rtnltest.RequireKernel(t, "a container in a network namespace")
	requireRunc(t)
	n := newHost(t, imageFiles(t, "podnet-agent", "podnet-cni"))
	plane := controlplanetest.Start(t, controlplane.Config{Netns: n.ns.Path()})
	ctx, admin := t.Context(), plane.Admin()
	if out, err := plane.Kubectl(ctx, nil, "apply", "-k", "../base"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, name := range []string{"node-a", "node-b"} {
		cidrs := []string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:10:244:%d::/64", i+1)}
		node := object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": name}, "spec": object{"podCIDR": cidrs[0], "podCIDRs": cidrs}}
		status := object{"status": object{"addresses": []object{{"type": "InternalIP", "address": fmt.Sprintf("192.168.1.%d", i+1)}, {"type": "InternalIP", "address": fmt.Sprintf("fd00:192::%d", i+1)}}}}
		if err := errors.Join(admin.Do(ctx, http.MethodPost, "/api/v1/nodes", node, nil), admin.Do(ctx, http.MethodPatch, "/api/v1/nodes/"+name+"/status", status, nil)); err != nil {
			t.Fatal(err)
		}
	}
	n.account(t, plane, "podnet-system", "podnet-agent")
	c := n.daemonSet.Spec.Template.Spec.Containers[0]
	log, stop := n.startAgent(t, c)
	defer stop()
	var code int
	var text string
	if !poll(30*time.Second, func() bool {
		code, text = n.get("/readyz")
		return code == http.StatusOK
	}) {
		t.Fatalf("not ready: %d %s\n%s", code, text, log.String())
	}
	n.wantNetwork(t)
	var node struct {
		Metadata struct{ Annotations map[string]string }
		Status   struct {
			Conditions []struct{ Type, Status, Reason string }
		}
	}
	published := func() bool {
		if err := admin.Do(ctx, http.MethodGet, "/api/v1/nodes/node-a", nil, &node); err != nil {
			t.Fatal(err)
		}
		for _, c := range node.Status.Conditions {
			if c.Type == "NetworkUnavailable" && c.Status == "False" && node.Metadata.Annotations["flannel.alpha.coreos.com/public-ip"] == "192.168.1.1" {
				return true
			}
		}
		return false
	}
	if !poll(10*time.Second, published) {
		t.Errorf("the node is not published: %+v", node)
	}
	stop()
	for _, word := range []string{"not permitted", "read-only", "denied", "orbidden", "level=ERROR", "level=WARN"} {
		if strings.Contains(log.String(), word) {
			t.Errorf("the log says %q:\n%s", word, log.String())
		}
	}
}

// account gives the pod what kubelets give: the token of its service account, bound to the node, and the environment.
func (n *host) account(t *testing.T, plane *controlplane.ControlPlane, namespace, name string) {
	t.Helper()
	token, err := plane.Token(t.Context(), controlplane.TokenRequest{Namespace: namespace, ServiceAccount: name, Node: "node-a"})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(plane.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	n.token = n.path("serviceaccount")
	server, err := url.Parse(plane.URL())
	if err := errors.Join(err, os.Mkdir(n.token, 0o755), os.WriteFile(filepath.Join(n.token, "token"), []byte(token), 0o600),
		os.WriteFile(filepath.Join(n.token, "ca.crt"), authority, 0o644)); err != nil {
		t.Fatal(err)
	}
	n.env = []string{"KUBERNETES_SERVICE_HOST=" + server.Hostname(), "KUBERNETES_SERVICE_PORT=" + server.Port()}
	for _, e := range n.daemonSet.Spec.Template.Spec.Containers[0].Env {
		if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil && strings.HasPrefix(e.Name, "KUBERNETES_SERVICE_") {
			continue // as above: where the API server is
		}
		if e.ValueFrom == nil || e.ValueFrom.FieldRef == nil || e.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
			t.Fatalf("what is %s here?", e.Name)
		}
		n.env = append(n.env, e.Name+"=node-a")
	}
}
