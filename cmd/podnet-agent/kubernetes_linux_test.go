package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

// kubeCluster is a testCluster whose nodes are Node objects of a real API server; a real controller manager gives them their podCIDRs.
type kubeCluster struct {
	*testCluster
	plane *controlplane.ControlPlane
}

// object is the little that the tests look at.
type object struct {
	Metadata struct {
		UID         string
		Annotations map[string]string
	}
	Spec   struct{ PodCIDRs []string }
	Status struct {
		Conditions []struct{ Type, Status, Reason, Message string }
	}
}

var agentRole = map[string]any{
	"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": "podnet-agent"},
	"rules": []map[string][]string{
		{"apiGroups": {""}, "resources": {"nodes"}, "verbs": {"list", "watch"}},
		{"apiGroups": {""}, "resources": {"nodes/status"}, "verbs": {"patch"}},
		{"apiGroups": {""}, "resources": {"events"}, "verbs": {"create", "patch"}},
	},
}

func newKubeCluster(t *testing.T, nodes int, change func(*controlplane.Config)) *kubeCluster {
	t.Helper()
	rtnltest.RequireKernel(t, "agents in network namespaces")
	controlplanetest.Binaries(t)
	c := &kubeCluster{testCluster: newCluster(t, nodes)}
	server := netip.MustParseAddr("192.168.1.254")
	mustWrite(t, c.fabric.Conn(t), rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "br0", Prefix: netip.PrefixFrom(server, 24)}})
	config := controlplane.Config{
		Netns: c.fabric.Path(), Addresses: []netip.Addr{server}, Users: []controlplane.User{{Name: "agent"}},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/48")},
	}
	if change != nil {
		change(&config)
	}
	c.plane = controlplanetest.Start(t, config)
	c.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", agentRole)
	c.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "podnet-agent"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "podnet-agent"},
		"subjects": []map[string]any{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}},
	})
	if err := c.plane.WriteKubeconfig(c.path("kubeconfig"), controlplane.Kubeconfig{Token: c.plane.UserToken("agent")}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *kubeCluster) do(method, path string, in, out any) {
	c.t.Helper()
	if err := c.plane.Admin().Do(context.Background(), method, path, in, out); err != nil {
		c.t.Fatal(err)
	}
}

func (c *kubeCluster) post(path string, in any) { c.t.Helper(); c.do(http.MethodPost, path, in, nil) }

// join makes the Node object, as a kubelet does.
func (c *kubeCluster) join(n *testNode) {
	c.t.Helper()
	c.joinWith(n, n.addr(false), n.addr(true))
}

func (c *kubeCluster) joinWith(n *testNode, internal ...netip.Addr) {
	c.t.Helper()
	c.post("/api/v1/nodes", map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": n.name}})
	addresses := []map[string]string{{"type": "Hostname", "address": n.name}}
	for _, a := range internal {
		addresses = append(addresses, map[string]string{"type": "InternalIP", "address": a.String()})
	}
	c.do(http.MethodPatch, "/api/v1/nodes/"+n.name+"/status", map[string]any{"status": map[string]any{"addresses": addresses}}, nil)
}

func (c *kubeCluster) node(n *testNode) (o object) {
	c.t.Helper()
	c.do(http.MethodGet, "/api/v1/nodes/"+n.name, nil, &o)
	return o
}

// pod gives the node an address out of its podCIDRs for the probes, when it has them.
func (c *kubeCluster) pod(n *testNode) {
	c.t.Helper()
	var have []string
	if !poll(10*time.Second, func() bool { have = c.node(n).Spec.PodCIDRs; return len(have) == 2 }) {
		c.t.Fatalf("%s has no podCIDRs: %v", n.name, have)
	}
	n.pods = map[bool]netip.Addr{}
	for _, text := range have {
		p := netip.MustParsePrefix(text)
		a := p.Addr()
		for range 20 {
			a = a.Next()
		}
		n.pods[a.Is6()] = a
		mustWrite(c.t, n.conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.PrefixFrom(a, a.BitLen()), NoDAD: true}})
	}
}

// startKube starts the agent with the Kubernetes source.
func (c *kubeCluster) start(n *testNode, flags ...string) {
	c.t.Helper()
	n.cmd = c.command(n, flags...)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	if err := n.ns.Do(n.cmd.Start); err != nil {
		c.t.Fatal(err)
	}
}

func (c *kubeCluster) command(n *testNode, flags ...string) *exec.Cmd {
	cmd := n.command(flags...)
	for i, a := range cmd.Args {
		if a == "--nodes" {
			cmd.Args[i], cmd.Args[i+1] = "--kubeconfig", c.path("kubeconfig")
		}
	}
	return cmd
}

func (c *kubeCluster) condition(n *testNode) string {
	for _, o := range c.node(n).Status.Conditions {
		if o.Type == "NetworkUnavailable" {
			return o.Status + " " + o.Reason
		}
	}
	return ""
}

func (c *kubeCluster) wantCondition(n *testNode, want string) {
	c.t.Helper()
	got := ""
	if !poll(20*time.Second, func() bool { got = c.condition(n); return got == want }) {
		c.t.Fatalf("%s: NetworkUnavailable is %q, want %q", n.name, got, want)
	}
}

func TestKubernetes(t *testing.T) {
	c := newKubeCluster(t, 3, nil)
	for _, n := range c.nodes[:2] {
		c.join(n)
		c.pod(n)
		c.start(n)
	}
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	for _, n := range c.nodes[:2] {
		n.waitReady()
		c.wantCondition(n, "False PodnetIsUp")
	}
	wantReach(t, a, b)

	annotation := func(name string) string { return c.node(a).Metadata.Annotations[flannel.DefaultPrefix+"/"+name] }
	if got := annotation("public-ip") + " " + annotation("public-ipv6") + " " + annotation("backend-type"); got != "192.168.1.1 fd00:192::1 vxlan" {
		t.Errorf("published %q", got)
	}
	data := annotation("backend-data")
	if !strings.HasPrefix(data, `{"VNI":1,"VtepMAC":"`) || annotation("backend-v6-data") == "" {
		t.Errorf("backend-data %q", data)
	}

	t.Run("annotations wiped", func(t *testing.T) {
		p := startProbe(t, a, b, false)
		p.answers(10)
		for _, name := range []string{"backend-data", "public-ip", "kube-subnet-manager"} {
			c.do(http.MethodPatch, "/api/v1/nodes/"+a.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{flannel.DefaultPrefix + "/" + name: nil}}}, nil)
			start := time.Now()
			if !poll(5*time.Second, func() bool { return annotation(name) != "" }) {
				t.Fatalf("%s is not published again", name)
			}
			took := time.Since(start)
			t.Logf("%s again after %v", name, took.Round(time.Millisecond))
			if took > time.Second {
				t.Errorf("%s took %v", name, took)
			}
		}
		if annotation("backend-data") != data {
			t.Errorf("backend-data %q, was %q", annotation("backend-data"), data)
		}
		if _, lost, _ := p.finish(); lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
	})

	t.Run("node added and removed", func(t *testing.T) {
		c.join(third)
		c.pod(third)
		c.start(third)
		third.waitReady()
		wantReach(t, a, third)
		c.do(http.MethodDelete, "/api/v1/nodes/"+third.name, nil, nil)
		if !poll(5*time.Second, func() bool { return a.metric("podnet_agent_peers ") == "podnet_agent_peers 1" }) {
			t.Errorf("%s", a.metric("podnet_agent_peers "))
		}
	})

	t.Run("API server down, agent restarted", func(t *testing.T) {
		poll(5*time.Second, func() bool { return saved(a) })
		if err := c.plane.Kill(controlplane.APIServer); err != nil {
			t.Fatal(err)
		}
		p := startProbe(t, a, b, false)
		p.answers(10)
		a.kill(syscall.SIGKILL)
		c.start(a)
		a.waitReady()
		if _, text := a.get("/readyz"); !strings.Contains(text, "nodes are from the disk") {
			t.Errorf("readyz: %s", text)
		}
		mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: "podnet.1"}}) // it can still heal
		p.answers(50)
		if err := c.plane.Start(context.Background(), controlplane.APIServer); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if !poll(45*time.Second, func() bool { _, text := a.get("/readyz"); return text == "ok\n" }) {
			_, text := a.get("/readyz")
			t.Fatalf("readyz: %s", text)
		}
		t.Logf("in touch again %v after the API server was ready", time.Since(start).Round(10*time.Millisecond))
		sent, lost, outage := p.finish()
		t.Logf("%d packets, %d lost while the VTEP was gone, outage %v", sent, lost, outage)
		wantReach(t, a, b)
	})
}

func saved(n *testNode) bool { return exists(n.path(n.name, "state", "nodes.json")) }

// TestKubernetesAddresses: kubelets that report an address of one family only, or none yet (with a cloud's controller manager), do not keep the network
// back: what the agent finds on the uplink is published.
func TestKubernetesAddresses(t *testing.T) {
	c := newKubeCluster(t, 2, nil)
	a, b := c.nodes[0], c.nodes[1]
	c.joinWith(a, a.addr(false))
	c.joinWith(b)
	for _, n := range c.nodes {
		mustWrite(t, n.conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.1.254"), Link: "eth0"}})
		c.pod(n)
		c.start(n)
	}
	for _, n := range c.nodes {
		n.waitReady()
		c.wantCondition(n, "False PodnetIsUp")
	}
	wantReach(t, a, b)
	if got := c.node(b).Metadata.Annotations[flannel.DefaultPrefix+"/public-ipv6"]; got != b.addr(true).String() {
		t.Errorf("published %q", got)
	}
}

// TestKubernetesNodeReplaced: this node's object is deleted and made again, with another podCIDR.
func TestKubernetesNodeReplaced(t *testing.T) {
	c := newKubeCluster(t, 2, nil)
	a, b := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		c.join(n)
		c.pod(n)
		c.start(n)
		n.waitReady()
	}
	wantReach(t, a, b)
	pid := a.cmd.Process.Pid
	old := c.node(a)
	c.do(http.MethodDelete, "/api/v1/nodes/"+a.name, nil, nil)
	// Another node takes the podCIDR that became free, so that the new object gets another one. The controller manager goes round anyway.
	c.join(a)
	c.pod(a)
	fresh := c.node(a)
	t.Logf("podCIDRs %v, then %v", old.Spec.PodCIDRs, fresh.Spec.PodCIDRs)
	if fresh.Metadata.UID == old.Metadata.UID || fmt.Sprint(fresh.Spec.PodCIDRs) == fmt.Sprint(old.Spec.PodCIDRs) {
		t.Fatal("not another node")
	}
	start := time.Now()
	if !poll(5*time.Second, func() bool { return c.node(a).Metadata.Annotations[flannel.DefaultPrefix+"/backend-data"] != "" }) {
		t.Fatal("annotations are not published on the new object")
	}
	t.Logf("published after %v", time.Since(start).Round(time.Millisecond))
	c.wantCondition(a, "False PodnetIsUp")
	a.waitReady()
	wantReach(t, a, b)
	if a.cmd.Process.Pid != pid || syscall.Kill(pid, 0) != nil {
		t.Error("the agent did not live through it")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
