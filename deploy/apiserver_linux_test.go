package deploy

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

type object = map[string]any

// TestAPIServer applies the manifests to a real API server and tries what an agent's token may do and what it may not. The token is bound to a node, as a pod's is.
func TestAPIServer(t *testing.T) {
	config := controlplane.Config{}
	if os.Geteuid() == 0 {
		config.Netns = rtnltest.NewNetns(t).Path()
	}
	plane := controlplanetest.Start(t, config)
	ctx, admin := t.Context(), plane.Admin()
	for _, dir := range []string{"base", "proxy/base"} {
		if out, err := plane.Kubectl(ctx, nil, "apply", "-k", dir); err != nil || strings.Contains(string(out), "Warning") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, dir := range []string{"base", "overlays/dual-stack", "overlays/from-flannel", "overlays/host-gw", "overlays/metrics", "overlays/selinux", "overlays/without-kube-proxy", "uninstall",
		"proxy/base", "proxy/overlays/from-kube-proxy", "proxy/overlays/init-only", "proxy/overlays/iptables", "proxy/overlays/ipvs", "proxy/cleanup"} {
		if out, err := plane.Kubectl(ctx, nil, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-k", dir); err != nil {
			t.Errorf("%s: %v\n%s", dir, err, out)
		}
	}
	for _, name := range []string{"node-a", "node-b"} {
		node := object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": name, "annotations": object{"other.example/key": "precious", "flannel.alpha.coreos.com/public-ip": "192.0.2.1"},
			"labels": object{"role": "worker"}}, "spec": object{"podCIDR": "10.244.1.0/24", "podCIDRs": []string{"10.244.1.0/24"}}}
		status := object{"status": object{"addresses": []object{{"type": "InternalIP", "address": "192.168.1.1"}}, "capacity": object{"cpu": "4"},
			"conditions": []object{{"type": "Ready", "status": "True", "reason": "KubeletReady"}}}}
		if err := errors.Join(admin.Do(ctx, http.MethodPost, "/api/v1/nodes", node, nil), admin.Do(ctx, http.MethodPatch, nodePath(name)+"/status", status, nil)); err != nil {
			t.Fatal(err)
		}
	}
	token := func(namespace, account, node string) *controlplane.Client {
		t.Helper()
		token, err := plane.Token(ctx, controlplane.TokenRequest{Namespace: namespace, ServiceAccount: account, Node: node})
		if err != nil {
			t.Fatal(err)
		}
		return plane.Client(token)
	}
	agent, unbound := token("podnet-system", "podnet-agent", "node-a"), token("podnet-system", "podnet-agent", "")
	t.Run("proxy", func(t *testing.T) {
		try(t, token("kube-system", "podnet-proxy", "node-a"), proxyAllowed, proxyForbidden)
	})

	// A new policy is in force after a moment.
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := agent.Do(ctx, http.MethodPatch, nodePath("node-b")+"/status?dryRun=All", annotation("flannel.alpha.coreos.com/x", "y"), nil)
		if refusedWith(err, http.StatusForbidden, "may not write node node-b") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the admission policy does not come into force: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}

	try(t, agent, allowed, forbidden)
	if err := admin.Do(ctx, http.MethodPatch, nodePath("node-b")+"/status?dryRun=All", object{"metadata": object{"labels": object{"x": "y"}}}, nil); err != nil {
		t.Errorf("the policy is in the way of others: %v", err)
	}
	err := unbound.Do(ctx, http.MethodPatch, nodePath("node-a")+"/status", annotation("flannel.alpha.coreos.com/x", "y"), nil)
	if !refusedWith(err, http.StatusForbidden, "a token for node (none)") {
		t.Errorf("a token that is not bound to a node: %v", err)
	}

	var policy struct {
		Status struct {
			TypeChecking struct {
				ExpressionWarnings []struct{ FieldRef, Warning string }
			}
		}
	}
	if err := admin.Do(ctx, http.MethodGet, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/podnet-agent", nil, &policy); err != nil {
		t.Error(err)
	}
	for _, w := range policy.Status.TypeChecking.ExpressionWarnings {
		t.Errorf("%s: %s", w.FieldRef, w.Warning)
	}
}

// try makes requests that have to be allowed and such that have to be refused.
func try(t *testing.T, as *controlplane.Client, allowed, forbidden []request) {
	t.Helper()
	for _, c := range allowed {
		if err := as.Do(t.Context(), c.method, c.path, c.body, nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range forbidden {
		if err := as.Do(t.Context(), c.method, c.path, c.body, nil); !refusedWith(err, http.StatusForbidden, c.says) {
			t.Errorf("%s: %v, want a refusal with 403 and %q", c.name, err, c.says)
		}
	}
	t.Logf("%d requests allowed, %d refused", len(allowed), len(forbidden))
}

func nodePath(name string) string { return "/api/v1/nodes/" + name }

func annotation(key, value string) object {
	return object{"metadata": object{"annotations": object{key: value}}}
}

func refusedWith(err error, code int, text string) bool {
	var refused *controlplane.StatusError
	return errors.As(err, &refused) && refused.Code == code && strings.Contains(refused.Message, text)
}

type request struct {
	name, method, path string
	body               any
	says               string
}

const (
	ownStatus = "/api/v1/nodes/node-a/status"
	rbacSays  = "cannot "
)

func condition(kind, status string) object {
	return object{"status": object{"conditions": []object{
		{"type": "Ready", "status": map[bool]string{true: status, false: "True"}[kind == "Ready"], "reason": "KubeletReady", "lastHeartbeatTime": nil, "lastTransitionTime": nil},
		{"type": "NetworkUnavailable", "status": status, "reason": "Test"}}}}
}

func event(namespace string) object {
	return object{"apiVersion": "v1", "kind": "Event", "metadata": object{"name": "node-a.test", "namespace": namespace},
		"involvedObject": object{"kind": "Node", "name": "node-a"}, "reason": "Test", "message": "test", "type": "Normal"}
}

var allowed = []request{
	{name: "list nodes", method: http.MethodGet, path: "/api/v1/nodes?limit=500"},
	{name: "watch nodes", method: http.MethodGet, path: "/api/v1/nodes?watch=1&timeoutSeconds=1&resourceVersion=0&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dnone"},
	{name: "own annotation", method: http.MethodPatch, path: ownStatus, body: annotation("flannel.alpha.coreos.com/backend-type", "vxlan")},
	{name: "own annotation changed", method: http.MethodPatch, path: ownStatus, body: annotation("flannel.alpha.coreos.com/public-ip", "192.0.2.2")},
	{name: "own annotation removed", method: http.MethodPatch, path: ownStatus, body: object{"metadata": object{"annotations": object{"flannel.alpha.coreos.com/public-ip": nil}}}},
	{name: "podnet's annotation", method: http.MethodPatch, path: ownStatus, body: annotation("podnet.dev/x", "y")},
	{name: "condition NetworkUnavailable", method: http.MethodPatch, path: ownStatus, body: condition("NetworkUnavailable", "False")},
	{name: "condition again", method: http.MethodPatch, path: ownStatus, body: condition("NetworkUnavailable", "True")},
	{name: "event", method: http.MethodPost, path: "/api/v1/namespaces/default/events", body: event("default")},
	{name: "event counted", method: http.MethodPatch, path: "/api/v1/namespaces/default/events/node-a.test", body: object{"count": 2}},
}

var forbidden = []request{
	{"another node's annotation", http.MethodPatch, "/api/v1/nodes/node-b/status", annotation("flannel.alpha.coreos.com/public-ip", "192.0.2.66"), "may not write node node-b"},
	{"another node's condition", http.MethodPatch, "/api/v1/nodes/node-b/status", condition("NetworkUnavailable", "True"), "may not write node node-b"},
	{"own label", http.MethodPatch, ownStatus, object{"metadata": object{"labels": object{"node-role.kubernetes.io/control-plane": ""}}}, "may not change labels"},
	{"own label removed", http.MethodPatch, ownStatus, object{"metadata": object{"labels": object{"role": nil}}}, "may not change labels"},
	{"own finalizer", http.MethodPatch, ownStatus, object{"metadata": object{"finalizers": []string{"example.com/x"}}}, "may not change labels, finalizers"},
	{"own owner", http.MethodPatch, ownStatus, object{"metadata": object{"ownerReferences": []object{{"apiVersion": "v1", "kind": "Node", "name": "node-b", "uid": "x"}}}}, "or owners"},
	{"foreign annotation", http.MethodPatch, ownStatus, annotation("other.example/new", "x"), "may only write annotations"},
	{"foreign annotation changed", http.MethodPatch, ownStatus, annotation("other.example/key", "x"), "may only write annotations"},
	{"foreign annotation removed", http.MethodPatch, ownStatus, object{"metadata": object{"annotations": object{"other.example/key": nil}}}, "may only write annotations"},
	{"all annotations removed", http.MethodPatch, ownStatus, object{"metadata": object{"annotations": nil}}, "may only write annotations"},
	{"condition Ready", http.MethodPatch, ownStatus, condition("Ready", "False"), "conditions other than NetworkUnavailable"},
	{"all conditions removed", http.MethodPatch, ownStatus, object{"status": object{"conditions": nil}}, "conditions other than NetworkUnavailable"},
	{"own address", http.MethodPatch, ownStatus, object{"status": object{"addresses": []object{{"type": "InternalIP", "address": "192.0.2.66"}}}}, "status but for the condition"},
	{"own capacity", http.MethodPatch, ownStatus, object{"status": object{"capacity": object{"cpu": "400"}}}, "status but for the condition"},
	{"own images", http.MethodPatch, ownStatus, object{"status": object{"images": []object{{"names": []string{"x"}}}}}, "status but for the condition"},
	{"read one node", http.MethodGet, "/api/v1/nodes/node-b", nil, rbacSays + "get"},
	{"own podCIDR", http.MethodPatch, "/api/v1/nodes/node-a", object{"spec": object{"podCIDR": "10.244.0.0/16"}}, rbacSays + "patch"},
	{"own taint", http.MethodPatch, "/api/v1/nodes/node-a", object{"spec": object{"taints": nil}}, rbacSays + "patch"},
	{"put own status", http.MethodPut, ownStatus, object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": "node-a"}}, rbacSays + "update"},
	{"make a node", http.MethodPost, "/api/v1/nodes", object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": "node-c"}}, rbacSays + "create"},
	{"delete a node", http.MethodDelete, "/api/v1/nodes/node-b", nil, rbacSays + "delete"},
	{"delete all nodes", http.MethodDelete, "/api/v1/nodes", nil, rbacSays + "deletecollection"},
	{"proxy to a kubelet", http.MethodGet, "/api/v1/nodes/node-b/proxy/pods", nil, rbacSays + "get"},
	{"list pods", http.MethodGet, "/api/v1/pods", nil, rbacSays + "list"},
	{"make a pod", http.MethodPost, "/api/v1/namespaces/podnet-system/pods", object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "x"}}, rbacSays + "create"},
	{"list secrets", http.MethodGet, "/api/v1/secrets", nil, rbacSays + "list"},
	{"read a secret", http.MethodGet, "/api/v1/namespaces/kube-system/secrets/x", nil, rbacSays + "get"},
	{"read its ConfigMap by the API", http.MethodGet, "/api/v1/namespaces/podnet-system/configmaps", nil, rbacSays + "list"},
	{"write a ConfigMap", http.MethodPost, "/api/v1/namespaces/podnet-system/configmaps", object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "x"}}, rbacSays + "create"},
	{"list services", http.MethodGet, "/api/v1/services", nil, rbacSays + "list"},
	{"list namespaces", http.MethodGet, "/api/v1/namespaces", nil, rbacSays + "list"},
	{"read events", http.MethodGet, "/api/v1/namespaces/default/events", nil, rbacSays + "list"},
	{"event elsewhere", http.MethodPost, "/api/v1/namespaces/kube-system/events", event("kube-system"), rbacSays + "create"},
	{"delete an event", http.MethodDelete, "/api/v1/namespaces/default/events/node-a.test", nil, rbacSays + "delete"},
	{"token of another account", http.MethodPost, "/api/v1/namespaces/kube-system/serviceaccounts/default/token",
		object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": object{}}, rbacSays + "create"},
	{"widen its role", http.MethodPatch, "/apis/rbac.authorization.k8s.io/v1/clusterroles/podnet-agent", object{"rules": nil}, rbacSays + "patch"},
	{"remove the policy", http.MethodDelete, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/podnet-agent", nil, rbacSays + "delete"},
	{"change its DaemonSet", http.MethodPatch, "/apis/apps/v1/namespaces/podnet-system/daemonsets/podnet-agent", object{"spec": nil}, rbacSays + "patch"},
	{"take a lease", http.MethodPost, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
		object{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": object{"name": "node-b"}}, rbacSays + "create"},
}
