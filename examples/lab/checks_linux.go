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

func thin(ps []pair) []pair {
	if len(ps) <= mostPairs {
		return ps
	}
	out := make([]pair, mostPairs)
	for i := range out {
		out[i] = ps[i*len(ps)/mostPairs]
	}
	return out
}

// reach tries TCP, UDP and ICMP over every pair. source, if not nil, is the address under which the server has to see the client.
func (l *lab) reach(name, saw string, pairs []pair, source func(p pair, ipv6 bool) netip.Addr) {
	if len(pairs) == 0 {
		l.report.skip(name, "no such pair of hosts")
		return
	}
	all := len(pairs)
	pairs = thin(pairs)
	for _, v6 := range l.families() {
		var tcp, udp, icmp, seen []error
		for _, p := range pairs {
			to := p.to.addr(v6)
			label := func(err error) error {
				if err == nil {
					return nil
				}
				return fmt.Errorf("%s to %s: %w", p.from.name, p.to.name, err)
			}
			gotTCP, err := tcpProbe(p.from.netns, to)
			tcp = append(tcp, label(err))
			gotUDP, errUDP := udpProbe(p.from.netns, to)
			udp = append(udp, label(errUDP))
			icmp = append(icmp, label(icmpProbe(p.from.netns, to)))
			if source == nil {
				continue
			}
			if want := source(p, v6); err == nil && errUDP == nil && (gotTCP != want || gotUDP != want) {
				seen = append(seen, label(fmt.Errorf("seen as %s (TCP) and %s (UDP), want %s", gotTCP, gotUDP, want)))
			} else {
				seen = append(seen, label(errors.Join(err, errUDP)))
			}
		}
		cells := []cell{result("TCP", tcp...), result("UDP", udp...), result("ICMP", icmp...)}
		if source != nil {
			cells = append(cells, result(saw, seen...))
		}
		detail := fmt.Sprintf("%d pairs", len(pairs))
		if len(pairs) == 1 {
			detail = ""
		} else if all != len(pairs) {
			detail = fmt.Sprintf("%d of %d pairs", len(pairs), all)
		}
		l.report.add(row{Name: name, Family: familyName(v6), Cells: cells, Detail: detail})
	}
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
func (l *lab) connectivity() {
	own := func(p pair, v6 bool) netip.Addr { return p.from.addr(v6) }
	var loopback, toOwn, fromOwn, toOther, fromOther, out []pair
	for _, p := range l.pods() {
		localhost := endpoint{p.name, p.netns, func(v6 bool) netip.Addr {
			if v6 {
				return netip.IPv6Loopback()
			}
			return netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}}
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
	nodeOf := map[string]*node{}
	for _, p := range l.pods() {
		nodeOf[p.name] = p.node
	}
	l.reach("loopback inside a pod", "", loopback, nil)
	l.reach("pod to pod, same node", "own IP seen", l.podPairs(func(a, b *node) bool { return a == b }), own)
	l.reach("pod to pod, other node, same segment", "own IP seen",
		l.podPairs(func(a, b *node) bool { return a != b && !behindRouter(a, b) }), own)
	l.reach("pod to pod, other node, behind the router", "own IP seen", l.podPairs(behindRouter), own)
	l.reach("pod to its own node", "own IP seen", toOwn, own)
	l.reach("node to its own pod", "", fromOwn, nil)
	l.reach("pod to another node", "", toOther, nil)
	l.reach("node to a pod of another node", "", fromOther, nil)
	l.reach("pod to outside", "node's IP seen", out, func(p pair, v6 bool) netip.Addr { return nodeOf[p.from.name].addr(v6) })
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
	v6 := l.families()[0]
	for _, v6 := range []bool{v6} {
		nodes, errNodes := throughput(a.node.netns, b.node.addr(v6), length)
		pods, errPods := throughput(a.netns, b.addr(v6), length)
		detail := fmt.Sprintf("pods %s, nodes %s, ratio %.2f", bits(pods), bits(nodes), pods/max(nodes, 1))
		l.report.add(row{Name: name, Family: familyName(v6), Detail: detail,
			Cells: []cell{result("TCP", errPods, errNodes)}})
	}
}

// contract runs the CNI verb CHECK on every pod.
func (l *lab) checkPods(ctx context.Context) {
	var errs []error
	for _, p := range l.pods() {
		errs = append(errs, l.check(ctx, p))
	}
	l.report.add(row{Name: "CNI CHECK of every pod", Cells: []cell{result("CHECK", errs...)}, Detail: fmt.Sprintf("%d pods", len(errs))})
}
