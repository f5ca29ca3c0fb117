package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/vxlan"
)

// kubeFaults is a cluster of two nodes with agents, and of Node objects without anything behind them. All API servers' faults are done to it, in one order.
type kubeFaults struct {
	*kubeCluster
	a, b, third *testNode
}

// TestFaultKubernetes does to the control plane what happens to it, with packets under way that may not notice.
func TestFaultKubernetes(t *testing.T) {
	requireFaults(t)
	c := &kubeFaults{kubeCluster: newKubeCluster(t, 3, nil)}
	c.a, c.b, c.third = c.nodes[0], c.nodes[1], c.nodes[2]
	// As in a pod: a file with the token, which can change.
	write(t, c.path("token"), c.plane.UserToken("agent"))
	if err := c.plane.WriteKubeconfig(c.path("kubeconfig"), controlplane.Kubeconfig{TokenFile: c.path("token")}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"old Node deleted after its replacement", c.replaced},
		{"annotations hostile or huge", c.hostile},
		{"two nodes with one podCIDR", func(t *testing.T) {
			c.conflict(t, cidrs(200), []string{"192.168.1.3", "fd00:192::3"}, "podCIDR 10.244.200.0/24 is that")
		}},
		{"two nodes with one address", func(t *testing.T) {
			c.conflict(t, cidrs(203), []string{"192.168.1.2", "fd00:192::2"}, "address 192.168.1.2 is that")
		}},
		{"throttled (429)", c.throttled},
		{"RBAC lost", c.forbidden},
		{"token rotated", c.rotated},
		{"history gone (410)", c.expired},
		{"API server down at start", c.downAtStart},
		{"API server down for hours", c.downForHours},
		{"API server back", c.back},
		{"half-open", c.halfOpen},
		{"etcd restored to an older state", c.restored},
		{"mass deletion", c.massDeletion},
	} {
		if !t.Run(step.name, step.run) && (step.name == "old Node deleted after its replacement" || c.a.cmd == nil) {
			return
		}
	}
}

// noHold: with so few nodes, each that goes is many; massDeletion is about that.
var noHold = []string{"--mass-delete-hold", "0s"}

// cidrs are podCIDRs that the controller manager does not come to.
func cidrs(n int) []string {
	return []string{fmt.Sprintf("10.244.%d.0/24", n), fmt.Sprintf("fd00:244:0:%d::/64", n)}
}

// object makes a Node object.
func (c *kubeFaults) object(name string, cidrs, addresses []string, annotations map[string]string) {
	c.t.Helper()
	spec := map[string]any{}
	if len(cidrs) > 0 {
		spec = map[string]any{"podCIDR": cidrs[0], "podCIDRs": cidrs}
	}
	c.post("/api/v1/nodes", map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": name, "annotations": annotations}, "spec": spec})
	list := []map[string]string{}
	for _, a := range addresses {
		list = append(list, map[string]string{"type": "InternalIP", "address": a})
	}
	c.do(http.MethodPatch, "/api/v1/nodes/"+name+"/status", map[string]any{"status": map[string]any{"addresses": list}}, nil)
}

// peer makes a Node object without a machine.
func (c *kubeFaults) peer(name string, n int) {
	c.t.Helper()
	c.object(name, cidrs(n), []string{fmt.Sprintf("192.168.1.%d", n), fmt.Sprintf("fd00:192::%d", n)}, nil)
}

func (c *kubeFaults) remove(name string) {
	c.t.Helper()
	c.do(http.MethodDelete, "/api/v1/nodes/"+name, nil, nil)
}

func (c *kubeFaults) annotate(name string, annotations map[string]any) error {
	return c.plane.Admin().Do(context.Background(), http.MethodPatch, "/api/v1/nodes/"+name, map[string]any{"metadata": map[string]any{"annotations": annotations}}, nil)
}

// wipe takes an annotation of node a's away, so that its agent has something to publish.
func (c *kubeFaults) wipe(t *testing.T) {
	t.Helper()
	if err := c.annotate(c.a.name, map[string]any{flannel.DefaultPrefix + "/public-ip": nil}); err != nil {
		t.Fatal(err)
	}
}

func (c *kubeFaults) published() bool {
	return c.node(c.a).Metadata.Annotations[flannel.DefaultPrefix+"/public-ip"] == "192.168.1.1"
}

// value is a metric of an agent's.
func value(n *testNode, name string) float64 {
	words := strings.Fields(n.metric(name + " "))
	if len(words) != 2 {
		return 0
	}
	v, _ := strconv.ParseFloat(words[1], 64)
	return v
}

// refused returns how many requests were answered with an HTTP status, of all verbs.
func refused(n *testNode, code string) (sum float64) {
	for _, verb := range []string{"list", "watch", "patch", "event"} {
		sum += value(n, fmt.Sprintf("podnet_agent_kube_requests_total{code=%q,verb=%q}", code, verb))
	}
	return sum
}

func (c *kubeFaults) wantRoute(t *testing.T, n int, want bool) {
	t.Helper()
	dst := netip.MustParsePrefix(cidrs(n)[0])
	if !poll(45*time.Second, func() bool { return c.routed(t, dst) == want }) {
		t.Errorf("route to %v: %v, want %v", dst, !want, want)
	}
}

func (c *kubeFaults) routed(t *testing.T, dst netip.Prefix) bool {
	t.Helper()
	routes, err := c.a.conn.Routes(context.Background(), rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst == dst {
			return true
		}
	}
	return false
}

// inTouch waits until the agent follows the API server again with nothing to complain of.
func (c *kubeFaults) inTouch(t *testing.T, n *testNode, limit time.Duration) {
	t.Helper()
	text := ""
	if !poll(limit, func() bool {
		_, text = n.get("/readyz")
		return text == "ok\n" && value(n, "podnet_agent_kube_watching") == 1
	}) {
		t.Fatalf("%s is not in touch after %v: %s", n.name, limit, text)
	}
}

// backInTouch measures how long that takes.
func (c *kubeFaults) backInTouch(t *testing.T, limit time.Duration) {
	t.Helper()
	start := time.Now()
	c.inTouch(t, c.a, limit)
	t.Attr("recovered", fmt.Sprintf("%dms", time.Since(start).Milliseconds()))
}

// must does something to the control plane.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *kubeFaults) restart(t *testing.T) {
	t.Helper()
	must(t, c.plane.Kill(controlplane.APIServer))
	must(t, c.plane.Start(t.Context(), controlplane.APIServer))
}

// events returns the reasons and messages of a node's Events.
func (c *kubeFaults) events(name string) string {
	c.t.Helper()
	var list struct {
		Items []struct {
			Reason, Message string
			InvolvedObject  struct{ Name string }
		}
	}
	c.do(http.MethodGet, "/api/v1/namespaces/default/events", nil, &list)
	var out strings.Builder
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			fmt.Fprintln(&out, e.Reason, e.Message)
		}
	}
	return out.String()
}

func (c *kubeFaults) wantEvent(t *testing.T, n *testNode, want string) {
	t.Helper()
	if !poll(20*time.Second, func() bool { return strings.Contains(c.events(n.name), want) }) {
		t.Errorf("Events of %s: %q, want %q", n.name, c.events(n.name), want)
	}
}

// replaced: a machine is in the cluster under another name already, with the same podCIDR. Then the old object is deleted.
func (c *kubeFaults) replaced(t *testing.T) {
	mac := func(f rtnl.Family) string { return vxlan.MACFor(c.b.name, vxlan.DeviceName(1, f)).String() }
	c.join(c.a)
	c.pod(c.a)
	c.start(c.a, noHold...)
	addresses := []string{c.b.addr(false).String(), c.b.addr(true).String()}
	c.object("old-name", cidrs(200), addresses, map[string]string{
		flannel.DefaultPrefix + "/kube-subnet-manager": "true", flannel.DefaultPrefix + "/backend-type": "vxlan",
		flannel.DefaultPrefix + "/backend-data":    fmt.Sprintf(`{"VNI":1,"VtepMAC":%q}`, mac(rtnl.IPv4)),
		flannel.DefaultPrefix + "/backend-v6-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":%q}`, mac(rtnl.IPv6)),
		flannel.DefaultPrefix + "/public-ip":       addresses[0], flannel.DefaultPrefix + "/public-ipv6": addresses[1],
	})
	time.Sleep(1100 * time.Millisecond) // Kubernetes counts age in seconds
	c.object(c.b.name, cidrs(200), addresses, nil)
	c.pod(c.b)
	c.start(c.b, noHold...)
	c.a.waitReady()
	c.wantCondition(c.b, "True NodeConflict")
	wantReach(t, c.a, c.b)
	unnoticed(t, c.a, c.b, func() {
		c.remove("old-name")
		if !poll(10*time.Second, func() bool { _, text := c.a.get("/readyz"); return text == "ok\n" }) {
			t.Error("node-1 has not noticed the deletion")
		}
	})
	c.wantCondition(c.b, "False PodnetIsUp")
	c.b.waitReady()
	wantReach(t, c.a, c.b)
}

// hostile has a Node say what it should not.
func (c *kubeFaults) hostile(t *testing.T) {
	c.object("evil", cidrs(210), []string{"192.168.1.210", "fd00:192::210"}, nil)
	c.wantRoute(t, 210, true)
	before := kernelState(t, c.a)
	const counter = "podnet_agent_node_descriptions_invalid"
	key := func(k string) string { return flannel.DefaultPrefix + "/" + k }
	managed := func(more map[string]any) map[string]any {
		all := map[string]any{key("kube-subnet-manager"): "true", key("backend-type"): "vxlan", key("backend-data"): nil, key("backend-v6-data"): nil, key("public-ip"): nil, key("public-ipv6"): nil}
		for k, v := range more {
			all[key(k)] = v
		}
		return all
	}
	unnoticed(t, c.a, c.b, func() {
		for _, more := range []map[string]any{
			{"backend-data": `{"VNI":1,"VtepMAC":"` + strings.Repeat("A", 250<<10) + `"}`}, // all annotations together: 256 KiB
			{"backend-data": strings.Repeat("[", 100<<10)},
			{"backend-data": `$(reboot)`},
			{"backend-data": `{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`},
			{"backend-data": `{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}`},
			{"backend-data": `{"VNI":-1,"VtepMAC":"02:00:00:00:00:01"}`},
			{"backend-data": `{"VNI":1,"VtepMAC":"; reboot"}`},
			{"backend-type": "extension"},
			{"public-ip": "127.0.0.1"},
			{"public-ip": "224.0.0.1"},
			{"public-ip": "`reboot`"},
			{"public-ipv6": "fe80::1%eth0"},
		} {
			if err := c.annotate("evil", managed(more)); err != nil {
				t.Fatal(err)
			}
			if !poll(5*time.Second, func() bool { return value(c.a, counter) == 1 }) {
				_, text := c.a.get("/readyz")
				t.Errorf("%.80v: %s is %v, want 1; %s", more, counter, value(c.a, counter), text)
			}
			if after := kernelState(t, c.a); after != before {
				t.Errorf("%.80v changed the kernel:\n%s\nwas:\n%s", more, after, before)
			}
			if err := c.annotate("evil", map[string]any{key("kube-subnet-manager"): nil, key("backend-type"): nil, key("backend-data"): nil, key("backend-v6-data"): nil, key("public-ip"): nil, key("public-ipv6"): nil}); err != nil {
				t.Fatal(err)
			}
			poll(5*time.Second, func() bool { return value(c.a, counter) == 0 })
		}
	})
	c.remove("evil")
	c.wantRoute(t, 210, false)
}

// conflict has a third node join with something of node b's.
func (c *kubeFaults) conflict(t *testing.T, cidrs, addresses []string, want string) {
	name := c.third.name
	unnoticed(t, c.a, c.b, func() {
		c.object(name, cidrs, addresses, nil)
		c.third.pods = nil
		c.start(c.third)
		c.wantCondition(c.third, "True NodeConflict")
		c.wantEvent(t, c.third, "NodeConflict node \""+name+"\": "+want)
		c.wantEvent(t, c.b, "NodeConflict node \""+name+"\": "+want)
		if !poll(5*time.Second, func() bool {
			return value(c.a, `podnet_agent_kube_nodes{state="conflict"}`) == 1
		}) {
			t.Errorf("node-1 counts no conflict: %s", c.a.metric("podnet_agent_kube_nodes"))
		}
		if got := c.condition(c.b); got != "False PodnetIsUp" {
			t.Errorf("the older node's condition is %q", got)
		}
		_ = c.third.kill(syscall.SIGKILL)
		c.remove(name)
	})
	must(t, os.RemoveAll(c.third.path(name, "state")))
	c.inTouch(t, c.a, 10*time.Second)
}

// throttled has the API server answer 429 to nearly everything that the agents ask.
func (c *kubeFaults) throttled(t *testing.T) {
	const flow = "/apis/flowcontrol.apiserver.k8s.io/v1/"
	type object = map[string]any
	c.post(flow+"prioritylevelconfigurations", object{
		"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": object{"name": "none"},
		"spec": object{"type": "Limited", "limited": object{"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": object{"type": "Reject"}}},
	})
	c.post(flow+"flowschemas", object{
		"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": object{"name": "none"},
		"spec": object{"matchingPrecedence": 2, "priorityLevelConfiguration": object{"name": "none"}, "rules": []object{{
			"subjects":      []object{{"kind": "User", "user": object{"name": "agent"}}},
			"resourceRules": []object{{"verbs": []string{"*"}, "apiGroups": []string{"*"}, "resources": []string{"*"}, "clusterScope": true, "namespaces": []string{"*"}}},
		}}},
	})
	before := kernelState(t, c.a)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for range 32 { // one request at a time is always served: this is who has it
		others.Go(func() {
			client := c.plane.Client(c.plane.UserToken("agent"))
			for ctx.Err() == nil {
				_ = client.Do(ctx, http.MethodGet, "/api/v1/nodes", nil, nil)
			}
		})
	}
	unnoticed(t, c.a, c.b, func() {
		if !poll(30*time.Second, func() bool {
			if c.published() {
				c.wipe(t)
			}
			return refused(c.a, "429") > 0
		}) {
			t.Error("the agent was never refused")
		}
		if after := kernelState(t, c.a); after != before {
			t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
		}
		cancel()
		others.Wait()
		c.do(http.MethodDelete, flow+"flowschemas/none", nil, nil)
		start := time.Now()
		if !poll(45*time.Second, c.published) {
			t.Error("not published again")
		}
		t.Attr("recovered", fmt.Sprintf("%dms", time.Since(start).Milliseconds()))
	})
}

// forbidden takes the agents' rights away and gives them back.
func (c *kubeFaults) forbidden(t *testing.T) {
	const bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
	before := kernelState(t, c.a)
	// Only the right to patch is lost: then an Event can say so.
	rules := agentRole["rules"].([]map[string][]string)
	grant := func(rules []map[string][]string) {
		c.do(http.MethodPatch, "/apis/rbac.authorization.k8s.io/v1/clusterroles/podnet-agent", map[string]any{"rules": rules}, nil)
	}
	grant(slices.DeleteFunc(slices.Clone(rules), func(r map[string][]string) bool { return r["resources"][0] == "nodes/status" }))
	c.wipe(t)
	c.wantEvent(t, c.a, "PodnetForbidden")
	grant(rules)
	if !poll(45*time.Second, c.published) {
		t.Error("not published again")
	}

	was := refused(c.a, "403")
	unnoticed(t, c.a, c.b, func() {
		c.do(http.MethodDelete, bindings+"/podnet-agent", nil, nil)
		c.wipe(t)
		if !poll(10*time.Second, func() bool { return refused(c.a, "403") > was }) {
			t.Error("no request was refused with 403")
		}
		c.restart(t) // the watches that were allowed end
		if !poll(30*time.Second, func() bool {
			_, text := c.a.get("/readyz")
			return strings.Contains(text, "nodes are kept as they were: Kubernetes API: ") && strings.Contains(text, "forbidden")
		}) {
			_, text := c.a.get("/readyz")
			t.Errorf("readyz does not tell of it: %s", text)
		}
		if after := kernelState(t, c.a); after != before {
			t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
		}
		c.post(bindings, map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "podnet-agent"},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "podnet-agent"},
			"subjects": []map[string]any{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}},
		})
		c.backInTouch(t, 45*time.Second)
	})
	if !poll(45*time.Second, c.published) {
		t.Error("not published again")
	}
	c.inTouch(t, c.b, 45*time.Second)
}

// rotated makes the token of the agents one that is not good any more, and puts the new one into their file.
func (c *kubeFaults) rotated(t *testing.T) {
	before := kernelState(t, c.a)
	token, err := c.plane.SetToken("agent")
	must(t, err)
	unnoticed(t, c.a, c.b, func() {
		was := refused(c.a, "401")
		c.restart(t)
		if !poll(30*time.Second, func() bool { return refused(c.a, "401") > was }) {
			t.Error("no request was refused with 401")
		}
		write(t, c.path("token"), token)
		c.backInTouch(t, 90*time.Second)
		if after := kernelState(t, c.a); after != before {
			t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
		}
	})
	c.inTouch(t, c.b, 90*time.Second)
}

// expired has the agent miss what the API server does not know any more.
func (c *kubeFaults) expired(t *testing.T) {
	const lists = `podnet_agent_kube_lists_total{reason="expired"}`
	c.peer("gone", 211)
	c.peer("stays", 212)
	c.wantRoute(t, 211, true)
	c.wantRoute(t, 212, true)
	was := value(c.a, lists)
	unnoticed(t, c.a, c.b, func() {
		must(t, c.plane.Kill(controlplane.APIServer))
		_ = c.a.cmd.Process.Signal(syscall.SIGSTOP)
		must(t, c.plane.Start(t.Context(), controlplane.APIServer))
		c.remove("gone")
		c.peer("fresh", 213)
		c.restart(t)
		_ = c.a.cmd.Process.Signal(syscall.SIGCONT)
		start := time.Now()
		c.wantRoute(t, 213, true)
		c.wantRoute(t, 211, false)
		c.wantRoute(t, 212, true)
		t.Attr("recovered", fmt.Sprintf("%dms", time.Since(start).Milliseconds()))
		if got := value(c.a, lists); got <= was {
			t.Errorf("%s is %v, was %v", lists, got, was)
		}
		c.inTouch(t, c.a, 45*time.Second)
	})
	c.inTouch(t, c.b, 45*time.Second)
	c.remove("stays")
	c.remove("fresh")
	c.wantRoute(t, 213, false)
}

// downAtStart restarts an agent without an API server. The next two steps go on from there.
func (c *kubeFaults) downAtStart(t *testing.T) {
	must(t, c.plane.Kill(controlplane.APIServer))
	before := kernelState(t, c.a)
	unnoticed(t, c.a, c.b, func() {
		_ = c.a.kill(syscall.SIGKILL)
		c.start(c.a, noHold...)
		c.a.waitReady()
		if _, text := c.a.get("/readyz"); !strings.Contains(text, "nodes are from the disk") {
			t.Errorf("readyz: %s", text)
		}
		if after := kernelState(t, c.a); after != before {
			t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
		}
	})
}

// downForHours looks whether anything happens in the time that hours are compressed to: the agent does nothing but try again, at most every 30 s.
func (c *kubeFaults) downForHours(t *testing.T) {
	before := kernelState(t, c.a)
	unnoticed(t, c.a, c.b, func() {
		const compressed = 40 * time.Second
		used, start := cpuTime(t, c.a), time.Now()
		for time.Since(start) < compressed {
			time.Sleep(time.Second)
			if after := kernelState(t, c.a); after != before {
				t.Fatalf("after %v not as before:\n%s\nwas:\n%s", time.Since(start), after, before)
			}
		}
		share := 100 * float64(cpuTime(t, c.a)-used) / float64(time.Since(start))
		t.Attr("cpu", fmt.Sprintf("%.2f%%", share))
		if share > 1 {
			t.Errorf("%.2f %% of a CPU, want at most 1", share)
		}
	})
	flush(t, c.a, rtnl.ProtocolVXLAN)
	if !poll(5*time.Second, func() bool { return kernelState(t, c.a) == before }) {
		t.Error("does not heal without an API server")
	}
}

func (c *kubeFaults) back(t *testing.T) {
	before := kernelState(t, c.a)
	unnoticed(t, c.a, c.b, func() {
		must(t, c.plane.Start(t.Context(), controlplane.APIServer))
		c.backInTouch(t, 45*time.Second)
		if after := kernelState(t, c.a); after != before {
			t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
		}
	})
	c.inTouch(t, c.b, 45*time.Second)
}

// cpuTime is what an agent has used.
func cpuTime(t *testing.T, n *testNode) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	must(t, err)
	words := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.Atoi(words[11])
	system, err2 := strconv.Atoi(words[12])
	must(t, errors.Join(err1, err2))
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// halfOpen has the API server not answer, with all connections open.
func (c *kubeFaults) halfOpen(t *testing.T) {
	before := kernelState(t, c.a)
	unnoticed(t, c.a, c.b, func() {
		must(t, c.plane.Pause(controlplane.APIServer))
		start := time.Now()
		found := poll(60*time.Second, func() bool { return value(c.a, "podnet_agent_kube_watching") == 0 })
		t.Attr("detected", fmt.Sprintf("%dms", time.Since(start).Milliseconds()))
		if took := time.Since(start); !found || took > 45*time.Second {
			t.Errorf("detected after %v, want at most 45s", took)
		}
		if after := kernelState(t, c.a); after != before {
			t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
		}
		must(t, c.plane.Resume(controlplane.APIServer))
		c.backInTouch(t, 60*time.Second)
	})
	c.inTouch(t, c.b, 60*time.Second)
}

// restored takes the cluster back to a state in which one Node is not deleted yet and another is not there yet.
func (c *kubeFaults) restored(t *testing.T) {
	const lists = `podnet_agent_kube_lists_total{reason="restored"}`
	c.peer("before", 214)
	c.wantRoute(t, 214, true)
	saved := c.path("etcd-saved")
	must(t, c.plane.SaveEtcd(saved))
	c.inTouch(t, c.a, 45*time.Second)
	c.peer("after", 215)
	c.remove("before")
	for i := range 50 { // so that the older state is older by more than what happens in its first seconds
		must(t, c.annotate("after", map[string]any{"example.com/n": strconv.Itoa(i)}))
	}
	c.wantRoute(t, 215, true)
	c.wantRoute(t, 214, false)
	was := value(c.a, lists)
	unnoticed(t, c.a, c.b, func() {
		must(t, c.plane.RestoreEtcd(t.Context(), saved))
		start := time.Now()
		c.wantRoute(t, 214, true)
		c.wantRoute(t, 215, false)
		t.Attr("recovered", fmt.Sprintf("%dms", time.Since(start).Milliseconds()))
		if got := value(c.a, lists); got <= was {
			t.Errorf("%s is %v, was %v", lists, got, was)
		}
		c.inTouch(t, c.a, 45*time.Second)
	})
	c.remove("before")
	c.wantRoute(t, 214, false)
	c.inTouch(t, c.b, 45*time.Second)
}

// massDeletion takes nearly all Nodes away, by restoring a state in which they are not there, and one after the other: they are kept for the hold, then let go.
func (c *kubeFaults) massDeletion(t *testing.T) {
	const hold = 10 * time.Second
	saved := c.path("etcd-few")
	must(t, c.plane.SaveEtcd(saved))
	c.inTouch(t, c.a, 45*time.Second)
	_ = c.a.kill(syscall.SIGTERM)
	c.start(c.a, "--mass-delete-hold", hold.String())
	const many = 6
	for _, how := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"restored", func(t *testing.T) { must(t, c.plane.RestoreEtcd(t.Context(), saved)) }},
		{"one after the other", func(*testing.T) {
			for n := range many {
				c.remove(fmt.Sprintf("many-%d", n))
				time.Sleep(200 * time.Millisecond) // slower than the agent's passes
			}
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			for n := range many {
				c.peer(fmt.Sprintf("many-%d", n), 220+n)
			}
			for n := range many {
				c.wantRoute(t, 220+n, true)
			}
			c.inTouch(t, c.a, 45*time.Second)
			unnoticed(t, c.a, c.b, func() {
				how.do(t)
				c.wantHeld(t, hold, many)
			})
			c.inTouch(t, c.a, 45*time.Second)
		})
	}
}

// wantHeld wants most of the routes to be kept for the hold, and none after it.
func (c *kubeFaults) wantHeld(t *testing.T, hold time.Duration, many int) {
	t.Helper()
	text := ""
	if !poll(45*time.Second, func() bool {
		_, text = c.a.get("/readyz")
		return strings.Contains(text, "peers disappeared at once")
	}) {
		t.Fatalf("nothing is held back: %s", text)
	}
	start, before := time.Now(), kernelState(t, c.a)
	if kept := strings.Count(before, "10.244.22"); kept < many {
		t.Errorf("%d lines of the nodes that are gone, want those of %d nodes:\n%s", kept, many, before)
	}
	for time.Since(start) < hold/2 {
		if after := kernelState(t, c.a); after != before {
			t.Fatalf("after %v not as before:\n%s\nwas:\n%s", time.Since(start), after, before)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for n := range many {
		c.wantRoute(t, 220+n, false)
	}
	held := time.Since(start)
	t.Attr("held", fmt.Sprintf("%dms", held.Milliseconds()))
	if held < hold-3*time.Second {
		t.Errorf("held for %v, want %v", held.Round(time.Millisecond), hold)
	}
}
