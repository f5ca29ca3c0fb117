package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// endpoint is a place that packets start from or go to.
type endpoint struct {
	name  string
	netns string
	addr  func(ipv6 bool) netip.Addr
}

func (p *pod) endpoint() endpoint     { return endpoint{p.name, p.netns, p.addr} }
func (m *machine) endpoint() endpoint { return endpoint{m.name, m.netns, m.addr} }

// pair is one direction to try.
type pair struct{ from, to endpoint }

// mostPairs bounds a row in large labs; pairs beyond it are left out evenly.
const mostPairs = 60

// podPairs returns the ordered pairs of pods whose nodes satisfy want.
func (t *topology) podPairs(want func(a, b *node) bool) []pair {
	var ps []pair
	for _, a := range t.pods() {
		for _, b := range t.pods() {
			if a != b && want(a.node, b.node) {
				ps = append(ps, pair{a.endpoint(), b.endpoint()})
			}
		}
	}
	return ps
}

func thin[T any](ps []T) []T {
	if len(ps) <= mostPairs {
		return ps
	}
	out := make([]T, mostPairs)
	for i := range out {
		out[i] = ps[i*len(ps)/mostPairs]
	}
	return out
}

// path is a kind of path through the network, and the pairs of hosts that it leads between.
type path struct {
	name  string
	pairs []pair
	// source is the address under which the server has to see the client; nil if that does not matter.
	source func(p pair, ipv6 bool) netip.Addr
	saw    string // says so in the table
}

// reach tries TCP, UDP and ICMP over every pair of a path.
func (l *lab) reach(ctx context.Context, p path) {
	if len(p.pairs) == 0 {
		l.report.skip(p.name, "no such pair of hosts")
		return
	}
	pairs := thin(p.pairs)
	detail := fmt.Sprintf("%d pairs", len(pairs))
	if len(pairs) != len(p.pairs) {
		detail = fmt.Sprintf("%d of %d pairs", len(pairs), len(p.pairs))
	}
	for _, v6 := range l.families() {
		if ctx.Err() != nil {
			return
		}
		var tcp, udp, icmp, seen []error
		for _, pair := range pairs {
			r := tryPair(pair, v6)
			tcp, udp, icmp = append(tcp, r.tcp), append(udp, r.udp), append(icmp, r.icmp)
			if p.source != nil {
				seen = append(seen, r.seenAs(p.source(pair, v6)))
			}
			if errors.Join(r.tcp, r.udp, r.icmp) != nil {
				break // each failure waits for its time-out
			}
		}
		cells := []cell{result("TCP", tcp...), result("UDP", udp...), result("ICMP", icmp...)}
		if p.source != nil {
			cells = append(cells, result(p.saw, seen...))
		}
		l.report.add(row{Name: p.name, Family: familyName(v6), Cells: cells, Detail: detail})
	}
}

// tried is the outcome for one pair.
type tried struct {
	pair           pair
	tcp, udp, icmp error
	byTCP, byUDP   netip.Addr // the client as the server saw it
}

func tryPair(p pair, v6 bool) tried {
	to := p.to.addr(v6)
	r := tried{pair: p}
	r.byTCP, r.tcp = tcpProbe(p.from.netns, to)
	r.byUDP, r.udp = udpProbe(p.from.netns, to)
	r.icmp = icmpProbe(p.from.netns, to)
	for _, err := range []*error{&r.tcp, &r.udp, &r.icmp} {
		if *err != nil {
			*err = fmt.Errorf("%s to %s: %w", p.from.name, p.to.name, *err)
		}
	}
	return r
}

// seenAs returns an error if the server saw another address.
func (r tried) seenAs(want netip.Addr) error {
	if err := errors.Join(r.tcp, r.udp); err != nil {
		return err
	}
	if r.byTCP != want || r.byUDP != want {
		return fmt.Errorf("%s to %s: seen as %s (TCP) and %s (UDP), want %s", r.pair.from.name, r.pair.to.name, r.byTCP, r.byUDP, want)
	}
	return nil
}

// result is a passed check if all errors are nil; else it shows the first of them.
func result(label string, errs ...error) cell {
	failed := 0
	c := cell{Label: label, OK: true}
	for _, err := range errs {
		if err == nil {
			continue
		}
		if failed++; failed == 1 {
			c.OK, c.Error = false, err.Error()
		}
	}
	if failed > 1 {
		c.Error += fmt.Sprintf(" (and %d more)", failed-1)
	}
	return c
}

// connectivity tries every path that a pod's packets can take.
func (l *lab) connectivity(ctx context.Context) {
	own := func(p pair, v6 bool) netip.Addr { return p.from.addr(v6) }
	nodeOf := map[string]*node{}
	var loopback, toOwn, fromOwn, toOther, fromOther, out []pair
	for _, p := range l.pods() {
		nodeOf[p.name] = p.node
		localhost := endpoint{p.name, p.netns, func(v6 bool) netip.Addr { return loopbackAddr(v6) }}
		loopback = append(loopback, pair{localhost, localhost})
		out = append(out, pair{p.endpoint(), l.outside.endpoint()})
		for _, n := range l.nodes {
			if n == p.node {
				toOwn, fromOwn = append(toOwn, pair{p.endpoint(), n.endpoint()}), append(fromOwn, pair{n.endpoint(), p.endpoint()})
			} else {
				toOther, fromOther = append(toOther, pair{p.endpoint(), n.endpoint()}), append(fromOther, pair{n.endpoint(), p.endpoint()})
			}
		}
	}
	sameNode := func(a, b *node) bool { return a == b }
	sameSegment := func(a, b *node) bool { return a != b && !behindRouter(a, b) }
	nodeIP := func(p pair, v6 bool) netip.Addr { return nodeOf[p.from.name].addr(v6) }
	const sawOwn = "own IP seen"
	for _, p := range []path{
		{name: "loopback inside a pod", pairs: loopback},
		{name: "pod to pod, same node", pairs: l.podPairs(sameNode), source: own, saw: sawOwn},
		{name: "pod to pod, other node, same segment", pairs: l.podPairs(sameSegment), source: own, saw: sawOwn},
		{name: "pod to pod, other node, behind the router", pairs: l.podPairs(behindRouter), source: own, saw: sawOwn},
		{name: "pod to its own node", pairs: toOwn, source: own, saw: sawOwn},
		{name: "node to its own pod", pairs: fromOwn},
		{name: "pod to another node", pairs: toOther},
		{name: "node to a pod of another node", pairs: fromOther},
		{name: "pod to outside", pairs: out, source: nodeIP, saw: "node's IP seen"},
	} {
		l.reach(ctx, p)
	}
}

// farPods returns two pods on different nodes, behind the router from each other if there is a router between any.
func (l *lab) farPods() (a, b *pod, ok bool) {
	if len(l.nodes) < 2 {
		return nil, nil, false
	}
	return l.nodes[0].pods[0], l.nodes[len(l.nodes)-1].pods[0], true
}

// packetSize checks that the pod's MTU is the truth: a packet of just that size crosses unfragmented, and one byte more is refused.
func (l *lab) packetSize() {
	const name = "largest packet with DF, one byte more refused"
	targets := map[string]pair{}
	for _, a := range l.pods() {
		for _, b := range l.pods() {
			switch {
			case a.node == b.node:
			case behindRouter(a.node, b.node):
				targets["behind the router"] = pair{a.endpoint(), b.endpoint()}
			default:
				targets["same segment"] = pair{a.endpoint(), b.endpoint()}
			}
		}
	}
	if len(targets) == 0 {
		l.report.skip(name, "needs two nodes")
		return
	}
	mtu := l.nodes[0].pods[0].mtu
	for _, v6 := range l.families() {
		var cells []cell
		for _, where := range []string{"same segment", "behind the router"} {
			p, ok := targets[where]
			if !ok {
				continue
			}
			to := p.to.addr(v6)
			err := dfProbe(p.from.netns, to, mtu)
			over := dfProbe(p.from.netns, to, mtu+1)
			if err == nil && !tooBig(over) {
				err = fmt.Errorf("%d bytes: %v, want message too long", mtu+1, over)
			}
			cells = append(cells, result(where, err))
		}
		l.report.add(row{Name: name, Family: familyName(v6), Cells: cells, Detail: fmt.Sprintf("%d passes, %d refused", mtu, mtu+1)})
	}
}

// speed measures one TCP connection from pod to pod across nodes beside one from node to node over the same path.
func (l *lab) speed() {
	const name = "throughput, pod to pod beside node to node"
	a, b, ok := l.farPods()
	if !ok {
		l.report.skip(name, "needs two nodes")
		return
	}
	const length = 500 * time.Millisecond
	for _, v6 := range l.families() {
		nodes, errNodes := throughput(a.node.netns, b.node.addr(v6), length)
		pods, errPods := throughput(a.netns, b.addr(v6), length)
		detail := fmt.Sprintf("pods %s, nodes %s, ratio %.2f", bits(pods), bits(nodes), pods/max(nodes, 1))
		l.report.add(row{Name: name, Family: familyName(v6), Detail: detail,
			Cells: []cell{result("TCP", errPods, errNodes)}})
	}
}

// checkPods runs the CNI verb CHECK on every pod.
func (l *lab) checkPods(ctx context.Context) {
	var errs []error
	for _, p := range l.pods() {
		errs = append(errs, l.check(ctx, p))
	}
	l.report.add(row{Name: "CNI CHECK of every pod", Cells: []cell{result("CHECK", errs...)}, Detail: fmt.Sprintf("%d pods", len(errs))})
}
