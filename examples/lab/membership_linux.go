package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/podnet/podnet/rtnl"
)

// comeAndGo changes who is in the cluster.
func (l *lab) comeAndGo(ctx context.Context) {
	if len(l.nodes) < 2 {
		l.report.skip("node added, replaced, removed", "needs two nodes")
		return
	}
	l.claimed(ctx)
	added := l.plan(l.options.nodes, segmentA)
	if !l.added(ctx, added) {
		return
	}
	replacement := l.plan(l.options.nodes+1, segmentA)
	if l.replaced(ctx, added, replacement) {
		l.removed(ctx, replacement)
	}
	l.blocked(ctx, l.plan(l.options.nodes+2, segmentA))
}

// claimed makes a Node that has the podCIDRs of another one, and deletes it again.
func (l *lab) claimed(ctx context.Context) {
	const name = "second Node with node-a's podCIDRs, deleted"
	a, b, _ := l.farPods()
	f, err := startFlow(b.netns, a.addr(l.families()[0]), time.Millisecond, false)
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
		return
	}
	var addresses []object
	for _, v6 := range l.families() {
		addresses = append(addresses, object{"type": "InternalIP", "address": segmentA.host(v6, 200).Addr()})
	}
	err = l.cluster.admin.Do(ctx, http.MethodPost, "/api/v1/nodes", object{
		"apiVersion": "v1", "kind": "Node", "metadata": object{"name": "clone"},
		"spec": object{"podCIDR": a.node.podCIDRs[0], "podCIDRs": a.node.podCIDRs}, "status": object{"addresses": addresses},
	}, nil)
	time.Sleep(500 * time.Millisecond)
	_, said := poll(ctx, 5*time.Second, func() error { return l.cluster.event(ctx, a.node, "NodeConflict") })
	if err == nil {
		err = l.cluster.remove(ctx, "clone")
	}
	time.Sleep(300 * time.Millisecond)
	r := f.finish()
	l.report.add(row{Name: name, Cells: []cell{result("made, deleted", err), lossless(r), result("Event at node-a", said)}, Detail: r.String()})
}

// added has one more node join.
func (l *lab) added(ctx context.Context, n *node) bool {
	others := slices.Clone(l.nodes)
	if err := errors.Join(n.makeDirs(), l.plug(ctx, &n.machine)); err != nil {
		l.report.add(row{Name: "node added", Cells: []cell{result("machine", err)}})
		return false
	}
	start := time.Now()
	err := l.cluster.join(ctx, n, nil)
	podCIDRs := time.Since(start)
	if err == nil {
		err = l.startAgent(n)
	}
	if err != nil {
		l.report.add(row{Name: "node added", Cells: []cell{result("joined", err)}})
		return false
	}
	var routes time.Duration
	routed, said := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := poll(ctx, 10*time.Second, func() error { return allRoute(ctx, others, n) })
		routes = time.Since(start)
		routed <- err
	}()
	go func() { said <- l.saysAvailable(ctx, n, others) }()
	err = errors.Join(l.waitReady(ctx, n))
	ready := time.Since(start)
	errRouted, errSaid := <-routed, <-said
	if err == nil {
		l.nodes = append(l.nodes, n)
		err = l.attachAll(ctx, n)
	}
	l.report.add(row{Name: "node added",
		Cells: []cell{result("pods attached", err), result("routes on all others", errRouted), result("NetworkUnavailable False, not before its routes", errSaid)},
		Detail: fmt.Sprintf("after %s podCIDRs, %s agent ready, %s routes on all others, %s pods attached",
			ms(podCIDRs), ms(ready), ms(routes), ms(time.Since(start)))})
	if errors.Join(err, errRouted) != nil {
		return false
	}
	l.reachNode(ctx, "added node's pods from and to all other pods", n)
	l.joins(ctx, n)
	return true
}

// attachAll attaches a node's pods, and reports it Ready as its kubelet would.
func (l *lab) attachAll(ctx context.Context, n *node) error {
	if err := l.cluster.ready(ctx, n); err != nil {
		return err
	}
	for _, p := range n.pods {
		if err := l.attach(ctx, p); err != nil {
			return err
		}
	}
	return l.serveNode(n)
}

// saysAvailable waits until the node's condition NetworkUnavailable is False, and looks at once whether the routes stand.
func (l *lab) saysAvailable(ctx context.Context, n *node, others []*node) error {
	if _, err := poll(ctx, 10*time.Second, func() error { return l.available(ctx, n) }); err != nil {
		return err
	}
	return routesTo(ctx, n, others...)
}

// allRoute returns an error unless all others have the routes to a node.
func allRoute(ctx context.Context, others []*node, to *node) error {
	for _, other := range others {
		if err := routesTo(ctx, other, to); err != nil {
			return err
		}
	}
	return nil
}

// reachNode tries every pair with a pod of a node.
func (l *lab) reachNode(ctx context.Context, name string, n *node) {
	own := func(p pair, v6 bool) netip.Addr { return p.from.addr(v6) }
	l.reach(ctx, path{name: name, pairs: l.podPairs(func(a, b *node) bool { return (a == n) != (b == n) }), source: own, saw: "own IP seen"})
}

// replaced has a machine die and another one come with its podCIDRs. The Node of the dead one is deleted afterwards.
func (l *lab) replaced(ctx context.Context, dead, n *node) bool {
	const name = "node replaced, the same podCIDRs"
	dead.kill()
	time.Sleep(time.Until(dead.registered.Add(time.Second))) // Kubernetes keeps the age of a Node in seconds: the dead one is older
	l.nodes = slices.DeleteFunc(l.nodes, func(other *node) bool { return other == dead })
	err := errors.Join(l.unplug(ctx, &dead.machine), n.makeDirs(), l.plug(ctx, &n.machine))
	if err == nil {
		err = l.cluster.join(ctx, n, dead.podCIDRs)
	}
	if err == nil && !slices.Equal(n.podCIDRs, dead.podCIDRs) {
		err = fmt.Errorf("podCIDRs %v, want %v", n.podCIDRs, dead.podCIDRs)
	}
	if err == nil {
		err = l.startAgent(n)
	}
	if err == nil {
		_, err = poll(ctx, 10*time.Second, func() error {
			if list, err := n.conflist(); err != nil || list == nil {
				return fmt.Errorf("no conflist: %v; the agent's log: %s", err, tail(n.agent.log))
			}
			return nil
		})
	}
	if err == nil {
		l.nodes = append(l.nodes, n)
		err = l.attachAll(ctx, n)
	}
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("joined", err)}})
		return false
	}
	f, err := startFlow(l.nodes[0].pods[0].netns, n.pods[0].addr(l.families()[0]), time.Millisecond, false)
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
		return false
	}
	time.Sleep(300 * time.Millisecond)
	start := time.Now()
	err = l.cluster.remove(ctx, dead.name)
	deadline := start.Add(12 * time.Second)
	for !f.healed(50) && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond)
	f.finish()
	first, r := f.sinceFirstAnswer()
	var errReached error
	took := max(first.Sub(start), 0)
	switch {
	case first.IsZero():
		errReached = fmt.Errorf("no packet arrived; the agent's log: %s", tail(n.agent.log))
	case took > followLimit:
		errReached = fmt.Errorf("after %s, allowed are %s", ms(took), ms(followLimit))
	}
	l.report.add(row{Name: name, Cells: []cell{result("reached", errors.Join(err, errReached)), result("0 lost from then on", r.loss())},
		Detail: fmt.Sprintf("%s after the old Node was deleted; from then on %v", ms(took), r)})
	l.reachNode(ctx, "replacement's pods from and to all other pods", n)
	return true
}

// kill ends a node's processes.
func (n *node) kill() {
	for _, p := range []*process{n.agent, n.proxy} {
		if p != nil {
			p.stop(syscall.SIGKILL)
		}
	}
}

// removed deletes a Node and looks whether all others forget it.
func (l *lab) removed(ctx context.Context, n *node) {
	const name = "node removed"
	l.nodes = slices.DeleteFunc(l.nodes, func(other *node) bool { return other == n })
	a, b, _ := l.farPods()
	f, err := startFlow(a.netns, b.addr(l.families()[0]), time.Millisecond, false)
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("traffic", err)}})
		return
	}
	time.Sleep(100 * time.Millisecond)
	var took time.Duration
	if err = l.cluster.remove(ctx, n.name); err == nil {
		took, err = poll(ctx, 12*time.Second, func() error { return allForgot(ctx, l.nodes, n) })
	}
	if err == nil && took > followLimit {
		err = fmt.Errorf("after %s, allowed are %s", ms(took), ms(followLimit))
	}
	time.Sleep(200 * time.Millisecond)
	r := f.finish()
	n.agent.stop(syscall.SIGKILL)
	l.report.add(row{Name: name, Cells: []cell{result("forgotten by all others", err, l.unplug(ctx, &n.machine)), lossless(r)},
		Detail: fmt.Sprintf("routes and FDB entries gone after %s; between the others %v", ms(took), r)})
}

// allForgot returns an error while one of the others has a route or FDB entry that leads to a node.
func allForgot(ctx context.Context, others []*node, gone *node) error {
	for _, other := range others {
		if err := forgot(ctx, other, gone); err != nil {
			return err
		}
	}
	return nil
}

func forgot(ctx context.Context, n, gone *node) error {
	conn, err := rtnl.Open(rtnl.Options{Netns: n.netns})
	if err != nil {
		return err
	}
	defer conn.Close()
	routes, err := conn.Routes(ctx, rtnl.RouteFilter{})
	if err != nil {
		return err
	}
	for _, r := range routes {
		if slices.Contains(gone.podCIDRs, r.Dst) {
			return fmt.Errorf("%s still has: route %v", n.name, r)
		}
	}
	links, err := conn.Links(ctx)
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Kind != rtnl.KindVXLAN {
			continue
		}
		entries, err := conn.FDB(ctx, link.Name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if slices.ContainsFunc(gone.ports[0].addrs, func(p netip.Prefix) bool { return p.Addr() == e.Dst }) {
				return fmt.Errorf("%s still has: %v", n.name, e)
			}
		}
	}
	return nil
}
