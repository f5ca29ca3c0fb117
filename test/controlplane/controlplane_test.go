package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

type object = map[string]any

type node struct {
	Metadata struct{ Name, UID, ResourceVersion string }
	Spec     struct{ PodCIDRs []string }
}

// cluster is a control plane as the lab uses it: as root in a network namespace of its own, else on the loopback.
func cluster(t *testing.T) *controlplane.ControlPlane {
	config := controlplane.Config{
		Addresses:    []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		Users:        []controlplane.User{{Name: "nobody", Groups: []string{"visitors", "guests"}}},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
	}
	if os.Geteuid() == 0 {
		config.Netns = rtnltest.NewNetns(t).Path()
	}
	started := time.Now()
	c := controlplanetest.Start(t, config)
	t.Logf("ready after %.1f s", time.Since(started).Seconds())
	return c
}

func TestControlPlane(t *testing.T) {
	c := cluster(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *controlplane.ControlPlane)
	}{
		{"nodes get podCIDRs of both families", podCIDRs},
		{"RBAC", rbac},
		{"token of a node", nodeToken},
		{"kubeconfig", kubeconfig},
		{"half-open", halfOpen},
		{"restart keeps state", restart},
		{"rotated token", rotated},
		{"410", expired},
		{"429", tooMany},
		{"older etcd", olderEtcd},
		{"usage", usage},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, c) })
	}
	if !t.Failed() { // else the logs are wanted
		t.Run("close leaves nothing", func(t *testing.T) { closeLeavesNothing(t, c) })
	}
}

func createNode(t *testing.T, c *controlplane.ControlPlane, name string) {
	t.Helper()
	err := c.Admin().Do(t.Context(), http.MethodPost, "/api/v1/nodes", object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": name}}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func getNode(t *testing.T, c *controlplane.ControlPlane, name string) (n node, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return n, c.Admin().Do(ctx, http.MethodGet, "/api/v1/nodes/"+name, nil, &n)
}

// eventually polls until check returns nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("after 30 s: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// wantCode checks that a request was refused with a status code.
func wantCode(t *testing.T, err error, code int) {
	t.Helper()
	var refused *controlplane.StatusError
	if !errors.As(err, &refused) || refused.Code != code {
		t.Errorf("got %v, want status %d", err, code)
	}
}

func podCIDRs(t *testing.T, c *controlplane.ControlPlane) {
	taken := map[string]string{}
	for _, name := range []string{"node-a", "node-b"} {
		createNode(t, c, name)
		var got node
		eventually(t, func() (err error) {
			if got, err = getNode(t, c, name); err == nil && len(got.Spec.PodCIDRs) != 2 {
				err = fmt.Errorf("podCIDRs of %s: %v, want two", name, got.Spec.PodCIDRs)
			}
			return err
		})
		v4, v6 := netip.MustParsePrefix(got.Spec.PodCIDRs[0]), netip.MustParsePrefix(got.Spec.PodCIDRs[1])
		if !v4.Addr().Is4() || v4.Bits() != 24 || !v6.Addr().Is6() || v6.Bits() != 64 {
			t.Errorf("podCIDRs of %s: %s, %s: want a /24 and a /64", name, v4, v6)
		}
		for _, p := range got.Spec.PodCIDRs {
			if other := taken[p]; other != "" {
				t.Errorf("%s and %s both have %s", other, name, p)
			}
			taken[p] = name
		}
	}
}

func rbac(t *testing.T, c *controlplane.ControlPlane) {
	nobody := c.Client(c.UserToken("nobody"))
	wantCode(t, nobody.Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, nil), http.StatusForbidden)
	wantCode(t, c.Client("wrong").Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, nil), http.StatusUnauthorized)
	wantCode(t, c.Client("").Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, nil), http.StatusForbidden)

	var self struct {
		Status struct {
			UserInfo struct {
				Username string
				Groups   []string
			}
		}
	}
	review := object{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
	if err := nobody.Do(t.Context(), http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, &self); err != nil {
		t.Fatal(err)
	}
	if u := self.Status.UserInfo; u.Username != "nobody" || !slices.Contains(u.Groups, "visitors") || !slices.Contains(u.Groups, "guests") {
		t.Errorf("the API server sees %+v, want nobody of visitors and guests", u)
	}
}

// onlyOwnNode is what deploy/ will ship in some form: nodes may be patched, by a policy on the token's node name only one's own.
const onlyOwnNode = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: agent}
rules:
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}
subjects:
- {kind: ServiceAccount, name: agent, namespace: kube-system}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: agent-own-node}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [nodes]}
  matchConditions:
  - {name: agent, expression: "request.userInfo.username == 'system:serviceaccount:kube-system:agent'"}
  validations:
  - expression: "'authentication.kubernetes.io/node-name' in request.userInfo.extra && request.userInfo.extra['authentication.kubernetes.io/node-name'] == [object.metadata.name]"
    message: not your node
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: agent-own-node}
spec: {policyName: agent-own-node, validationActions: [Deny]}
`

func nodeToken(t *testing.T, c *controlplane.ControlPlane) {
	if out, err := c.Kubectl(t.Context(), strings.NewReader(onlyOwnNode), "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	token, err := c.Token(t.Context(), controlplane.TokenRequest{Namespace: "kube-system", ServiceAccount: "agent", Node: "node-a"})
	if err != nil {
		t.Fatal(err)
	}
	agent := c.Client(token)
	label := func(value string) object { return object{"metadata": object{"labels": object{"by": value}}} }
	eventually(t, func() error {
		return agent.Do(t.Context(), http.MethodPatch, "/api/v1/nodes/node-a", label("agent"), nil)
	})
	// The API server compiles a new policy in the background.
	n := 0
	eventually(t, func() error {
		n++
		err := agent.Do(t.Context(), http.MethodPatch, "/api/v1/nodes/node-b", label(fmt.Sprint(n)), nil)
		if refused := (*controlplane.StatusError)(nil); errors.As(err, &refused) && strings.Contains(refused.Message, "not your node") {
			return nil
		}
		return fmt.Errorf("patch of another's node: %v, want a refusal by the policy", err)
	})
	if err := agent.Do(t.Context(), http.MethodPatch, "/api/v1/nodes/node-a", label("agent-again"), nil); err != nil {
		t.Errorf("patch of the own node under the policy: %v", err)
	}
	wantCode(t, agent.Do(t.Context(), http.MethodGet, "/api/v1/pods", nil, nil), http.StatusForbidden)
}

func kubeconfig(t *testing.T, c *controlplane.ControlPlane) {
	dir := t.TempDir()
	tokenFile, path := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(tokenFile, []byte(c.UserToken("nobody")), 0o600); err != nil {
		t.Fatal(err)
	}
	server := strings.Replace(c.URL(), "127.0.0.1", "[::1]", 1)
	if err := c.WriteKubeconfig(path, controlplane.Kubeconfig{Server: server, TokenFile: tokenFile}); err != nil {
		t.Fatal(err)
	}
	out, err := c.Kubectl(t.Context(), nil, "--kubeconfig", path, "auth", "whoami")
	if err != nil || !strings.Contains(string(out), "visitors") {
		t.Errorf("kubectl auth whoami as nobody: %v\n%s", err, out)
	}
}

func halfOpen(t *testing.T, c *controlplane.ControlPlane) {
	if err := c.Pause(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Admin().Do(ctx, http.MethodGet, "/api/v1/nodes", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused API server answers: %v, want silence", err)
	}
	if err := c.Resume(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	if _, err := getNode(t, c, "node-a"); err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

func restart(t *testing.T, c *controlplane.ControlPlane) {
	before, err := getNode(t, c, "node-a")
	if err != nil {
		t.Fatal(err)
	}
	url := c.URL()
	for _, end := range []func(controlplane.Component) error{c.Kill, c.Stop} {
		for _, component := range []controlplane.Component{controlplane.APIServer, controlplane.Etcd} {
			if err := end(component); err != nil {
				t.Fatal(err)
			}
			if c.PID(component) != 0 {
				t.Errorf("%s still has a process", component)
			}
		}
		if _, err := getNode(t, c, "node-a"); err == nil {
			t.Error("an API server that was ended answers")
		}
		for _, component := range []controlplane.Component{controlplane.Etcd, controlplane.APIServer} {
			started := time.Now()
			if err := c.Start(t.Context(), component); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s ready again after %.1f s", component, time.Since(started).Seconds())
		}
		after, err := getNode(t, c, "node-a")
		if err != nil {
			t.Fatal(err)
		}
		if c.URL() != url || after.Metadata.UID != before.Metadata.UID || !slices.Equal(after.Spec.PodCIDRs, before.Spec.PodCIDRs) {
			t.Errorf("after restart at %s: %+v, before at %s: %+v", c.URL(), after, url, before)
		}
	}
	if err := c.Start(t.Context(), controlplane.Etcd); err == nil {
		t.Error("Start of a running component succeeded")
	}
}

func rotated(t *testing.T, c *controlplane.ControlPlane) {
	before := c.UserToken("nobody")
	after, err := c.SetToken("nobody")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.Client(before).Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, nil), http.StatusUnauthorized)
	wantCode(t, c.Client(after).Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, nil), http.StatusForbidden)
}

func olderEtcd(t *testing.T, c *controlplane.ControlPlane) {
	backup := filepath.Join(t.TempDir(), "etcd")
	started := time.Now()
	if err := c.SaveEtcd(backup); err != nil {
		t.Fatal(err)
	}
	t.Logf("saved in %.2f s", time.Since(started).Seconds())
	createNode(t, c, "node-late")
	if err := c.Admin().Do(t.Context(), http.MethodDelete, "/api/v1/nodes/node-b", nil, nil); err != nil {
		t.Fatal(err)
	}
	started = time.Now()
	if err := c.RestoreEtcd(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	t.Logf("restored in %.1f s", time.Since(started).Seconds())
	_, err := getNode(t, c, "node-late")
	wantCode(t, err, http.StatusNotFound)
	if b, err := getNode(t, c, "node-b"); err != nil || len(b.Spec.PodCIDRs) != 2 {
		t.Errorf("the node of the backup: %+v, %v", b, err)
	}
	for _, component := range []controlplane.Component{controlplane.Etcd, controlplane.APIServer, controlplane.ControllerManager} {
		if c.PID(component) == 0 {
			t.Errorf("%s does not run after the restore", component)
		}
	}
}

func usage(t *testing.T, c *controlplane.ControlPlane) {
	for _, component := range []controlplane.Component{controlplane.Etcd, controlplane.APIServer, controlplane.ControllerManager} {
		u, err := c.Usage(component)
		if err != nil {
			t.Fatal(err)
		}
		if u.RSS < 10<<20 || u.PeakRSS < u.RSS || u.CPU == 0 {
			t.Errorf("usage of %s: %+v is not plausible", component, u)
		}
		t.Logf("%-24s RSS %4d MB, peak %4d MB, CPU %.1f s", component, u.RSS>>20, u.PeakRSS>>20, u.CPU.Seconds())
	}
}

func closeLeavesNothing(t *testing.T, c *controlplane.ControlPlane) {
	dir := c.Dir()
	if users := usersOf(t, dir); len(users) != 3 {
		t.Errorf("processes before Close: %q, want three", users)
	}
	if err := c.Pause(controlplane.APIServer); err != nil { // even a paused one
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if users := usersOf(t, dir); len(users) != 0 {
		t.Errorf("processes after Close: %q", users)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory after Close: %v", err)
	}
}

// usersOf returns the command lines of processes that name a directory.
func usersOf(t *testing.T, dir string) (users []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), "="+dir+"/") {
			users = append(users, strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return users
}
