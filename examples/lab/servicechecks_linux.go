package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// serviceSteps are the checks of Services.
func (l *lab) serviceSteps(ctx context.Context) []step {
	if l.proxy == "none" {
		return nil
	}
	steps := []step{
		{"services", func() { l.reachServices(ctx) }},
		{"services with rules", func() { l.serviceRules(ctx) }},
		{"outside -> load balancer -> NodePort -> ingress pod -> ClusterIP -> pod", func() { l.chain(ctx) }},
		{"services under load", func() { l.serviceLoad(ctx) }},
	}
	if l.cluster != nil {
		steps = append(steps, step{"services of the API server", func() { l.clusterServices(ctx) }})
	}
	return steps
}

// ask is a place and a Service's address to ask from there.
type ask struct {
	from endpoint
	to   netip.AddrPort
}

// asked is what came of many asks.
type asked struct {
	tcp, udp []error
	pods     map[string]int // who answered, over TCP
	seen     []seen
}

type seen struct {
	ask
	reply
}

// askAll asks everywhere in turn, until each was asked over UDP once and all together over TCP at least so often.
func askAll(asks []ask, atLeast int) asked {
	a := asked{pods: map[string]int{}}
	for i := 0; i < max(atLeast, len(asks)); i++ {
		one := asks[i%len(asks)]
		r, err := get(one.from.netns, one.to)
		a.tcp = append(a.tcp, one.wrap(err))
		if err == nil {
			a.pods[r.pod]++
			a.seen = append(a.seen, seen{one, r})
		}
		if i >= len(asks) {
			continue
		}
		r, err = echoOnce(probeTimeout, one.from.netns, one.to)
		a.udp = append(a.udp, one.wrap(err))
		if err == nil {
			a.seen = append(a.seen, seen{one, r})
		}
		if errors.Join(append(a.tcp, a.udp...)...) != nil {
			break // each failure waits for its time-out
		}
	}
	return a
}

func (a ask) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("%s to %s: %w", a.from.name, a.to, err)
	}
	return nil
}

// all returns an error unless each of the Service's pods answered.
func (a asked) all(s *labService) error {
	for _, p := range s.members {
		if a.pods[p.name] == 0 {
			return fmt.Errorf("%s never answered in %d requests: %s", p.name, len(a.tcp), shares(a.pods))
		}
	}
	return nil
}

// as returns an error unless every client was seen under the address that it has. A pod that reaches itself is not: it would answer itself directly.
func (a asked) as(v6 bool) error {
	for _, s := range a.seen {
		if s.pod == s.from.name {
			continue
		}
		if want := s.from.addr(v6); s.reply.seen != want {
			return fmt.Errorf("%s to %s: %s saw %s, want %s", s.from.name, s.to, s.pod, s.reply.seen, want)
		}
	}
	return nil
}

// enough is how many requests reach all of so many pods, but for one run in a million.
func enough(pods int) int { return max(1, pods*(16+pods/4)) }

// shares prints counts as parts: "pod-a1 33 %, pod-b1 67 %".
func shares(counts map[string]int) string {
	total := 0
	for _, n := range counts {
		total += n
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", name, 100*float64(counts[name])/float64(total)))
	}
	return strings.Join(parts, ", ")
}

// reachServices tries every kind of address from everywhere.
func (l *lab) reachServices(ctx context.Context) {
	for _, n := range l.nodes { // the faults before took the rules away
		if err := l.waitProxy(ctx, n); err != nil {
			l.report.add(row{Name: "proxies", Cells: []cell{result("ready", err)}})
			return
		}
	}
	web := l.services.web
	var pods, nodes []endpoint
	for _, n := range l.nodes {
		nodes = append(nodes, n.endpoint())
	}
	for _, p := range l.pods() {
		pods = append(pods, p.endpoint())
	}
	clusterIP := func(n *node, v6 bool) netip.AddrPort { return web.clusterIP(v6) }
	one := l.nodes[:1]
	for _, kind := range []struct {
		name string
		from []endpoint
		to   func(*node, bool) netip.AddrPort
		via  []*node
		own  bool // the pods see the client's own address
	}{
		{"ClusterIP from every pod", pods, clusterIP, one, true},
		{"ClusterIP from every node", nodes, clusterIP, one, false},
		{"NodePort from outside, of every node", []endpoint{l.outside.endpoint()}, web.nodePortOf, l.nodes, false},
		{"NodePort of every node, from every pod", pods, web.nodePortOf, l.nodes, false},
		{"NodePort of every node, from every node", nodes, web.nodePortOf, l.nodes, false},
	} {
		for _, v6 := range l.families() {
			var asks []ask
			for _, from := range kind.from {
				for _, n := range kind.via {
					asks = append(asks, ask{from, kind.to(n, v6)})
				}
			}
			a := askAll(thin(asks), enough(len(web.members)))
			cells := []cell{result("TCP", a.tcp...), result("UDP", a.udp...), result("every backend", a.all(web))}
			if kind.own {
				cells = append(cells, result("own IP seen", a.as(v6)))
			}
			l.report.add(row{Name: kind.name, Family: familyName(v6), Cells: cells, Detail: shares(a.pods)})
		}
	}
	l.balancerIP(ctx)
}

// balancerIP tries a load balancer's IP: from outside, while the router leads it to each node in turn, and from pods, whose packets need not go there.
func (l *lab) balancerIP(ctx context.Context) {
	web := l.services.web
	outside, inside := map[bool]asked{}, map[bool]asked{}
	for _, n := range l.nodes {
		err := l.lead(ctx, web, n)
		for _, v6 := range l.families() {
			a := outside[v6]
			more := askAll([]ask{{l.outside.endpoint(), web.balancerIP(v6)}}, enough(len(web.members))/len(l.nodes)+1)
			outside[v6] = asked{tcp: append(append(a.tcp, err), more.tcp...), udp: append(a.udp, more.udp...), pods: merge(a.pods, more.pods)}
		}
	}
	for _, v6 := range l.families() {
		var asks []ask
		for _, p := range l.pods() {
			asks = append(asks, ask{p.endpoint(), web.balancerIP(v6)})
		}
		inside[v6] = askAll(thin(asks), len(asks))
	}
	for _, v6 := range l.families() {
		a := outside[v6]
		l.report.add(row{Name: "LoadBalancer IP from outside, via every node", Family: familyName(v6),
			Cells: []cell{result("TCP", a.tcp...), result("UDP", a.udp...), result("every backend", a.all(web))}, Detail: shares(a.pods)})
	}
	for _, v6 := range l.families() {
		a := inside[v6]
		l.report.add(row{Name: "LoadBalancer IP from every pod", Family: familyName(v6), Cells: []cell{result("TCP", a.tcp...), result("UDP", a.udp...)}})
	}
}

func merge(a, b map[string]int) map[string]int {
	sum := maps.Clone(a)
	if sum == nil {
		sum = map[string]int{}
	}
	for k, n := range b {
		sum[k] += n
	}
	return sum
}

// serviceRules tries what a Service's fields ask for.
func (l *lab) serviceRules(ctx context.Context) {
	for _, check := range []func(context.Context, bool) row{l.localPolicy, l.healthNodePort, l.sourceRanges, l.affinity, l.nameService, l.hairpin, l.noEndpoints} {
		for _, v6 := range l.families() {
			if ctx.Err() != nil {
				return
			}
			r := check(ctx, v6)
			if r.Family = familyName(v6); len(r.Cells) == 0 {
				l.report.skip(r.Name, r.Detail)
				break
			}
			l.report.add(r)
		}
	}
}

// localPolicy: a client from outside reaches only the endpoints of the node that it asks, which see its address; a node without endpoints drops it.
func (l *lab) localPolicy(ctx context.Context, v6 bool) row {
	s := l.services.local
	var kept, elsewhere, drops, inside []error
	total := map[string]int{}
	for _, n := range l.nodes {
		if !s.on(n) {
			drops = append(drops, dropped(l.times(silence), l.outside.netns, s.nodePortOf(n, v6)))
			// The node's own pods are served by the others: their packets never were on the way of a load balancer.
			r, err := get(n.pods[0].netns, s.balancerIP(v6))
			if err == nil && r.seen != n.pods[0].addr(v6) {
				err = fmt.Errorf("%s to %s: seen as %s", n.pods[0].name, s.balancerIP(v6), r.seen)
			}
			inside = append(inside, err)
			continue
		}
		kept = append(kept, l.lead(ctx, s, n))
		a := askAll([]ask{{l.outside.endpoint(), s.nodePortOf(n, v6)}, {l.outside.endpoint(), s.balancerIP(v6)}}, 20)
		kept = append(kept, errors.Join(a.tcp...), errors.Join(a.udp...), a.as(v6))
		total = merge(total, a.pods)
		for _, one := range a.seen {
			if !slices.ContainsFunc(n.pods, func(p *pod) bool { return p.name == one.pod }) {
				elsewhere = append(elsewhere, fmt.Errorf("%s of another node answered %s", one.pod, one.to))
			}
		}
	}
	cells := []cell{result("client's IP seen", kept...), result("only the node's own pods", elsewhere...)}
	if len(drops) > 0 {
		cells = append(cells, result("dropped where none is", drops...), result("pods there reach all", inside...))
	}
	return row{Name: "externalTrafficPolicy Local, from outside", Cells: cells, Detail: shares(total)}
}

// healthNodePort: load balancers ask every node whether it has endpoints.
func (l *lab) healthNodePort(ctx context.Context, v6 bool) row {
	s := l.services.local
	var with, without []error
	for _, n := range l.nodes {
		url := "http://" + netip.AddrPortFrom(n.addr(v6), s.healthPort).String() + "/"
		status, body, err := httpGet(ctx, l.balancer.netns, url)
		want, list := http.StatusOK, &with
		if !s.on(n) {
			want, list = http.StatusServiceUnavailable, &without
		}
		if err == nil && status != want {
			err = fmt.Errorf("%s: %d %s, want %d", url, status, body, want)
		}
		*list = append(*list, err)
	}
	cells := []cell{result("200 with endpoints", with...)}
	if len(without) > 0 {
		cells = append(cells, result("503 without", without...))
	}
	return row{Name: "health check node port, asked by the balancer", Cells: cells}
}

// sourceRanges: the host outside may, the router may not.
func (l *lab) sourceRanges(ctx context.Context, v6 bool) row {
	s := l.services.guarded
	a := askAll([]ask{{l.outside.endpoint(), s.balancerIP(v6)}}, 3)
	return row{Name: "loadBalancerSourceRanges", Cells: []cell{
		result("allowed", append(a.tcp, a.udp...)...), result("others dropped", dropped(l.times(silence), l.router.netns, s.balancerIP(v6))),
		result("not for NodePorts", errors.Join(askAll([]ask{{l.router.endpoint(), s.nodePortOf(l.nodes[0], v6)}}, 1).tcp...)),
	}}
}

// affinity: a client stays with one pod.
func (l *lab) affinity(ctx context.Context, v6 bool) row {
	s := l.services.sticky
	asks := []ask{{l.outside.endpoint(), s.nodePortOf(l.nodes[0], v6)}, {l.nodes[0].endpoint(), s.clusterIP(v6)}}
	for _, p := range l.pods() {
		asks = append(asks, ask{p.endpoint(), s.clusterIP(v6)})
	}
	var errs []error
	first := map[string]int{}
	asks = thin(asks)
	for _, one := range asks {
		a := askAll([]ask{one}, 10)
		errs = append(errs, errors.Join(a.tcp...))
		if len(a.pods) > 1 {
			errs = append(errs, fmt.Errorf("%s was answered by %s", one.from.name, shares(a.pods)))
		}
		for pod := range a.pods {
			first[pod]++
		}
	}
	return row{Name: "sessionAffinity ClientIP", Cells: []cell{result("each client stays", errs...)},
		Detail: fmt.Sprintf("%d clients x 10 requests, to %d of %d pods", len(asks), len(first), len(s.members))}
}

// nameService: every pod finds a Service by its name, over UDP.
func (l *lab) nameService(ctx context.Context, v6 bool) row {
	before := l.resolved.counts()
	var errs []error
	tries := 0
	for range 4 {
		for _, p := range thin(l.pods()) {
			tries++
			addr, err := l.lookup(ctx, p.netns, l.services.web.name+"."+clusterDomain, v6)
			if want := l.services.web.clusterIP(v6).Addr(); err == nil && addr != want {
				err = fmt.Errorf("%s: %s, want %s", p.name, addr, want)
			}
			if errs = append(errs, err); err != nil {
				break
			}
		}
	}
	by := l.resolved.counts()
	for name, n := range before {
		if by[name] -= n; by[name] == 0 {
			delete(by, name)
		}
	}
	return row{Name: "name service over UDP, from every pod", Cells: []cell{result("UDP", errs...)}, Detail: fmt.Sprintf("%d lookups, answered by %s", tries, shares(by))}
}

// hairpin: a pod asks the Service whose only endpoint it is.
func (l *lab) hairpin(_ context.Context, v6 bool) row {
	s := l.services.self
	a := askAll([]ask{{s.members[0].endpoint(), s.clusterIP(v6)}}, 5)
	return row{Name: "a pod reaches itself through its Service", Cells: []cell{result("TCP", a.tcp...), result("UDP", a.udp...)}}
}

// noEndpoints: whoever asks a Service without endpoints hears at once that nobody is there.
func (l *lab) noEndpoints(_ context.Context, v6 bool) row {
	s := l.services.empty
	start := time.Now()
	errs := together(
		func() error { return refused(l.times(atOnce), l.nodes[0].pods[0].netns, s.clusterIP(v6)) },
		func() error { return refused(l.times(atOnce), l.nodes[0].netns, s.clusterIP(v6)) },
		func() error { return refused(l.times(atOnce), l.outside.netns, s.nodePortOf(l.nodes[0], v6)) },
	)
	cells := []cell{result("from a pod", errs[0]), result("from a node", errs[1]), result("from outside", errs[2])}
	return row{Name: "Service without endpoints, refused at once", Cells: cells, Detail: "the last after " + ms(time.Since(start))}
}
