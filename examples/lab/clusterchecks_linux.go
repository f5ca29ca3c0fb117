package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/test/controlplane"
)

// followLimit is how long an agent may take to follow a change in the cluster.
const followLimit = time.Second

// clusterSteps are the checks that only a lab with Kubernetes has.
func (l *lab) clusterSteps(ctx context.Context) []step {
	if !l.kubernetes {
		return nil
	}
	return []step{
		{"an agent's rights", func() { l.rights(ctx) }},
		{"what agents publish", func() { l.published(ctx) }},
		{"nodes come and go", func() { l.comeAndGo(ctx) }},
		// Before the API server starts again: it answers 403 to everybody until it has read the roles.
		{"logs", l.refusals},
		// Last: kube-controller-manager takes its time, up to 30 s, until it asks an API server again that was away.
		{"API server stopped", func() { l.withoutServer(ctx) }},
	}
}

// rights tries what an agent's token must not do.
func (l *lab) rights(ctx context.Context) {
	const name = "an agent's token, bound to its node"
	own := l.nodes[0].name
	other := l.nodes[len(l.nodes)-1].name
	token, err := l.cluster.agentToken(ctx, own)
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("made", err)}})
		return
	}
	agent := l.cluster.plane.Client(token)
	status := func(node string) string { return nodePath(node) + "/status?dryRun=All" }
	annotation := object{"metadata": object{"annotations": object{"podnet.dev/lab": "was here"}}}
	cells := []cell{result("own annotation", agent.Do(ctx, http.MethodPatch, status(own), annotation, nil))}
	for _, try := range []struct {
		label, method, path string
		body                any
	}{
		{"own labels 403", http.MethodPatch, status(own), object{"metadata": object{"labels": object{"lab": "x"}}}},
		{"own spec 403", http.MethodPatch, nodePath(own) + "?dryRun=All", object{"spec": object{"unschedulable": true}}},
		{"own Ready 403", http.MethodPatch, status(own), object{"status": object{"conditions": []object{readiness("True", "Lab", "")}}}},
		{"another node's annotation 403", http.MethodPatch, status(other), annotation},
		{"delete 403", http.MethodDelete, nodePath(other) + "?dryRun=All", nil},
		{"pods 403", http.MethodGet, "/api/v1/pods", nil},
		{"secrets 403", http.MethodGet, "/api/v1/namespaces/" + agentNamespace + "/secrets", nil},
	} {
		if try.label == "another node's annotation 403" && own == other {
			continue
		}
		cells = append(cells, result(try.label, wantForbidden(agent.Do(ctx, try.method, try.path, try.body, nil))))
	}
	l.report.add(row{Name: name, Cells: cells})
}

func wantForbidden(err error) error {
	var refused *controlplane.StatusError
	if errors.As(err, &refused) && refused.Code == http.StatusForbidden {
		return nil
	}
	return fmt.Errorf("got %v, want a refusal with 403", err)
}

// published looks at what the agents wrote to their Nodes, and wipes it.
func (l *lab) published(ctx context.Context) {
	var conditions []error
	for _, n := range l.nodes {
		_, err := poll(ctx, 5*time.Second, func() error { return l.available(ctx, n) })
		conditions = append(conditions, err)
	}
	l.report.add(row{Name: "condition NetworkUnavailable", Cells: []cell{result("False on every node", conditions...)},
		Detail: fmt.Sprintf("%d nodes", len(l.nodes))})

	const name = "annotations wiped, published again"
	n := l.nodes[0]
	var f *flow
	if a, b, ok := l.farPods(); ok {
		var err error
		if f, err = startFlow(b.netns, a.addr(l.families()[0]), time.Millisecond, false); err != nil {
			l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
			return
		}
	}
	time.Sleep(100 * time.Millisecond)
	took, wiped, err := l.wipe(ctx, n)
	if err == nil && took > followLimit {
		err = fmt.Errorf("took %s, allowed are %s", ms(took), ms(followLimit))
	}
	cells, detail := []cell{result("published", err)}, fmt.Sprintf("%d annotations, after %s", wiped, ms(took))
	if f != nil {
		time.Sleep(200 * time.Millisecond)
		r := f.finish()
		cells, detail = append(cells, lossless(r)), detail+"; "+r.String()
	}
	l.report.add(row{Name: name, Cells: cells, Detail: detail})
}

// lossless is passed if no packet was lost.
func lossless(r flowResult) cell { return result("0 lost", r.loss()) }

// available returns an error unless the agent has said that the node's network stands.
func (l *lab) available(ctx context.Context, n *node) error {
	o, err := l.cluster.node(ctx, n.name)
	if err != nil {
		return err
	}
	if c := o.condition("NetworkUnavailable"); c.Status != "False" {
		return fmt.Errorf("%s: NetworkUnavailable %q, reason %q, %q; want False", n.name, c.Status, c.Reason, c.Message)
	}
	return nil
}

// wipe removes the annotations of an agent from its Node and returns how long the agent takes to put them back.
func (l *lab) wipe(ctx context.Context, n *node) (took time.Duration, wiped int, err error) {
	before, err := l.annotations(ctx, n)
	if err != nil {
		return 0, 0, err
	}
	if len(before) == 0 {
		return 0, 0, fmt.Errorf("%s has none of the agent's annotations", n.name)
	}
	nothing := object{}
	for key := range before {
		nothing[key] = nil
	}
	if err := l.cluster.admin.Do(ctx, http.MethodPatch, nodePath(n.name), object{"metadata": object{"annotations": nothing}}, nil); err != nil {
		return 0, 0, err
	}
	took, err = poll(ctx, 30*time.Second, func() error {
		now, err := l.annotations(ctx, n)
		if err == nil && !maps.Equal(now, before) {
			err = fmt.Errorf("annotations of %s: %v, want %v", n.name, now, before)
		}
		return err
	})
	return took, len(before), err
}

// annotations returns those that the agent writes.
func (l *lab) annotations(ctx context.Context, n *node) (map[string]string, error) {
	o, err := l.cluster.node(ctx, n.name)
	maps.DeleteFunc(o.Metadata.Annotations, func(key, _ string) bool { return !ours(key) })
	return o.Metadata.Annotations, err
}

// withoutServer stops the API server under traffic and restarts agents meanwhile.
func (l *lab) withoutServer(ctx context.Context) {
	const name = "API server stopped"
	a, b, ok := l.farPods()
	if !ok {
		l.report.skip(name, "needs two nodes")
		return
	}
	f, err := startFlow(a.netns, b.addr(l.families()[0]), time.Millisecond, false)
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
		return
	}
	start := time.Now()
	if err := l.cluster.plane.Kill(controlplane.APIServer); err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("stopped", err)}})
		return
	}
	services := l.servicesWithoutServer(a.node)
	restarted := time.Now()
	a.node.agent.stop(syscall.SIGKILL)
	err = errors.Join(l.startAgent(a.node), l.waitReady(ctx, a.node))
	l.report.add(row{Name: "agent restarted without API server", Cells: []cell{result("ready", err)}, Detail: "after " + ms(time.Since(restarted))})

	time.Sleep(time.Until(start.Add(4 * time.Second)))
	services()
	r := f.finish()
	l.report.add(row{Name: "traffic without API server", Cells: []cell{lossless(r)},
		Detail: fmt.Sprintf("%.1f s, %v", time.Since(start).Seconds(), r)})
	l.bootWithoutServer(ctx, b.node)

	down := time.Since(start)
	start = time.Now()
	err = l.cluster.plane.Start(ctx, controlplane.APIServer)
	up := time.Since(start)
	var took time.Duration
	if err == nil {
		took, _, err = l.wipe(ctx, a.node)
	}
	l.report.add(row{Name: "API server back, agents follow it again", Cells: []cell{result("published", err)},
		Detail: fmt.Sprintf("down %.1f s, start took %.1f s, followed after %s", down.Seconds(), up.Seconds(), ms(took))})
	l.servicesFollow(ctx)
}

// refusals looks for what the agents and proxies wanted to do all the time, and were not allowed to.
func (l *lab) refusals() {
	logs, err := filepath.Glob(l.path("node-*", "agent.log"))
	proxies, errProxies := filepath.Glob(l.path("node-*", "proxy.log"))
	errs := []error{err, errProxies}
	logs = append(logs, proxies...)
	for _, path := range logs {
		data, err := os.ReadFile(path)
		errs = append(errs, err)
		for line := range strings.Lines(string(data)) {
			if lower := strings.ToLower(line); strings.Contains(lower, "forbidden") || strings.Contains(lower, "unauthorized") {
				errs = append(errs, fmt.Errorf("%s: %s", filepath.Base(filepath.Dir(path)), strings.TrimSpace(line)))
			}
		}
	}
	l.report.add(row{Name: "agents and proxies had all rights they needed", Cells: []cell{result("no refusal in any log", errs...)}, Detail: fmt.Sprintf("%d logs", len(logs))})
}

// bootWithoutServer takes a node's routes while its agent is down, as a reboot does, and starts the agent: it has only its last good state.
func (l *lab) bootWithoutServer(ctx context.Context, n *node) {
	n.agent.stop(syscall.SIGKILL)
	var err error
	for _, v6 := range l.families() {
		err = errors.Join(err, flushRoutes(ctx, n.netns, v6))
	}
	err = errors.Join(err, l.startAgent(n))
	var others []*node
	for _, other := range l.nodes {
		if other != n {
			others = append(others, other)
		}
	}
	var took time.Duration
	if err == nil {
		took, err = poll(ctx, 10*time.Second, func() error { return routesTo(ctx, n, others...) })
	}
	if err != nil {
		err = fmt.Errorf("%w; its log: %s", err, tail(n.agent.log))
	}
	l.report.add(row{Name: "routes from disk without API server", Cells: []cell{result("back", err)}, Detail: "after " + ms(took)})
}

// routesTo returns an error unless the node's kernel has the routes to the pods of all others, to where the others are.
func routesTo(ctx context.Context, n *node, others ...*node) error {
	conn, err := rtnl.Open(rtnl.Options{Netns: n.netns})
	if err != nil {
		return err
	}
	defer conn.Close()
	var routes []rtnl.Route
	for _, p := range []rtnl.Protocol{rtnl.ProtocolVXLAN, rtnl.ProtocolHostGW} {
		more, err := conn.Routes(ctx, rtnl.RouteFilter{Protocol: p})
		if err != nil {
			return err
		}
		routes = append(routes, more...)
	}
	for _, other := range others {
		for _, cidr := range other.podCIDRs {
			if !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Dst == cidr }) {
				return fmt.Errorf("%s has no route to %s of %s", n.name, cidr, other.name)
			}
		}
	}
	return nil
}
