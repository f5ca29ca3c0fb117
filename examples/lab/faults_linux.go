package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/podnet/podnet/rtnl"
)

// healLimit is how long an outage may last after an event that the agent can see.
const healLimit = time.Second

// restarts kills and restarts the agents of both ends of a flow of 1,000 packets per second; none may be lost.
func (l *lab) restarts(ctx context.Context) {
	const name = "agent restarted under 1,000 packets/s"
	a, b, ok := l.farPods()
	if !ok {
		l.report.skip(name, "needs two nodes")
		return
	}
	v6 := l.families()[0]
	for _, how := range []struct {
		label  string
		signal syscall.Signal
	}{{"SIGKILL", syscall.SIGKILL}, {"SIGTERM", syscall.SIGTERM}} {
		f, err := startFlow(a.netns, b.addr(v6), time.Millisecond, false)
		if err == nil {
			time.Sleep(200 * time.Millisecond)
			for _, n := range []*node{a.node, b.node} {
				n.agent.stop(how.signal)
				err = errors.Join(err, l.startAgent(n), l.waitReady(ctx, n))
			}
			time.Sleep(200 * time.Millisecond)
			r := f.finish()
			l.report.add(row{Name: name, Family: familyName(v6), Cells: []cell{result(how.label, err, r.loss())}, Detail: r.String()})
			continue
		}
		l.report.add(row{Name: name, Family: familyName(v6), Cells: []cell{result(how.label, err)}})
	}
}

// heals breaks a node in every way that happens in the field and measures the outage that a flow through it sees.
func (l *lab) heals(ctx context.Context) {
	a, b, ok := l.farPods()
	if !ok {
		l.report.skip("VTEP deleted, routes flushed", "needs two nodes")
	} else {
		if l.backend == "vxlan" {
			l.heal(ctx, "VTEP deleted", podFlow(a, b), func(v6 bool) error { return deleteVTEP(ctx, a.node.netns, v6) })
		} else {
			l.report.skip("VTEP deleted, healed", "host-gw has no VTEP")
		}
		l.heal(ctx, "routes flushed", podFlow(a, b), func(v6 bool) error { return flushRoutes(ctx, a.node.netns, v6) })
	}
	p := l.nodes[0].pods[0]
	out := flowPath{from: p.netns, to: func(v6 bool) netip.AddrPort { return netip.AddrPortFrom(l.outside.addr(v6), whoamiPort) }, fresh: true, limit: healLimit}
	l.heal(ctx, "nft flushed", out, func(bool) error { return runIn(p.node.netns, "nft", "flush", "ruleset") })
}

// flowPath is where a flow goes.
type flowPath struct {
	from  string
	to    func(ipv6 bool) netip.AddrPort
	fresh bool          // every datagram is a new connection
	limit time.Duration // of the outage
}

func podFlow(a, b *pod) flowPath {
	return flowPath{from: a.netns, to: func(v6 bool) netip.AddrPort { return netip.AddrPortFrom(b.addr(v6), whoamiPort) }, limit: healLimit}
}

// heal runs one fault under traffic.
func (l *lab) heal(ctx context.Context, name string, path flowPath, fault func(ipv6 bool) error) {
	for _, v6 := range l.families() {
		if ctx.Err() != nil {
			return
		}
		interval := time.Millisecond
		if path.fresh {
			interval = 5 * time.Millisecond
		}
		f, err := startFlowTo(path.from, path.to(v6), l.times(interval), path.fresh)
		if err != nil {
			l.report.add(row{Name: name + ", healed", Family: familyName(v6), Cells: []cell{result("healed", err)}})
			continue
		}
		time.Sleep(150 * time.Millisecond)
		err = fault(v6)
		deadline := time.Now().Add(l.times(12 * time.Second)) // the agent's resync, should the event be lost
		time.Sleep(100 * time.Millisecond)
		for !f.healed(50) && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		r := f.finish()
		switch {
		case err != nil:
		case r.outage > l.times(path.limit):
			err = fmt.Errorf("outage %s, allowed are %s", ms(r.outage), ms(l.times(path.limit)))
		}
		l.report.add(row{Name: name + ", healed", Family: familyName(v6), Cells: []cell{result("healed", err)},
			Detail: "outage " + ms(r.outage)})
	}
}

func ms(d time.Duration) string {
	return strconv.FormatInt((d+time.Millisecond/2).Milliseconds(), 10) + " ms"
}

// deleteVTEP deletes the node's VXLAN device of a family.
func deleteVTEP(ctx context.Context, path string, v6 bool) error {
	conn, err := rtnl.Open(rtnl.Options{Netns: path})
	if err != nil {
		return err
	}
	defer conn.Close()
	links, err := conn.Links(ctx)
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Kind == rtnl.KindVXLAN && link.VXLAN.Local.Is6() == v6 {
			return errors.Join(conn.Write(ctx, rtnl.Plan{{Verb: rtnl.Delete, Object: rtnl.Link{Name: link.Name}}})...)
		}
	}
	return errors.New("no VTEP found")
}

// flushRoutes removes the node's routes to other nodes' pods, as `ip route flush proto` does.
func flushRoutes(ctx context.Context, path string, v6 bool) error {
	conn, err := rtnl.Open(rtnl.Options{Netns: path})
	if err != nil {
		return err
	}
	defer conn.Close()
	family := rtnl.IPv4
	if v6 {
		family = rtnl.IPv6
	}
	var plan rtnl.Plan
	for _, p := range []rtnl.Protocol{rtnl.ProtocolVXLAN, rtnl.ProtocolHostGW} {
		routes, err := conn.Routes(ctx, rtnl.RouteFilter{Protocol: p, Family: family})
		if err != nil {
			return err
		}
		for _, r := range routes {
			plan = append(plan, rtnl.Change{Verb: rtnl.Delete, Object: r})
		}
	}
	if plan.Empty() {
		return errors.New("no route to flush")
	}
	return errors.Join(conn.Write(ctx, plan)...)
}

// detachAll runs DEL on every pod and looks for what it left behind on the nodes.
func (l *lab) detachAll(ctx context.Context) {
	var errs []error
	for _, p := range l.pods() {
		errs = append(errs, l.detach(ctx, p), l.detach(ctx, p)) // a second DEL is no error (CNI specification)
	}
	var left []error
	for _, n := range l.nodes {
		conn, err := rtnl.Open(rtnl.Options{Netns: n.netns})
		if err != nil {
			left = append(left, err)
			continue
		}
		links, err := conn.Links(ctx)
		conn.Close()
		left = append(left, err)
		for _, link := range links {
			if link.Kind == rtnl.KindVeth && link.Master != "" {
				left = append(left, fmt.Errorf("%s still has %s", n.name, link.Name))
			}
		}
	}
	l.report.add(row{Name: "CNI DEL of every pod, twice", Cells: []cell{result("DEL", errs...), result("no veth left", left...)},
		Detail: fmt.Sprintf("%d pods", len(l.pods()))})
}
