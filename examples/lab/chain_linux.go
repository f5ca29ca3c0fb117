package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// chain sends requests through everything that stands between a user and a pod.
func (l *lab) chain(ctx context.Context) {
	web := l.services.web
	nodes, pods := map[string]int{}, map[string]int{}
	for _, v6 := range l.families() {
		if ctx.Err() != nil {
			return
		}
		l.front.chosen = tally{}
		var errs []error
		answered := map[string]int{}
		for range max(enough(len(web.members)), 3*len(l.nodes)) {
			r, err := get(l.outside.netns, netip.AddrPortFrom(l.balancer.addr(v6), 80))
			if errs = append(errs, err); err != nil {
				break
			}
			answered[r.pod]++
		}
		a := asked{tcp: errs, pods: answered}
		through := l.front.chosen.counts()
		var every error
		if len(through) < len(l.nodes) {
			every = fmt.Errorf("only %s", shares(through))
		}
		l.report.add(row{Name: "the whole chain", Family: familyName(v6), Cells: []cell{
			result("TCP", errs...), result("through every node", every), result("every backend", a.all(web))}, Detail: fmt.Sprintf("%d requests", len(errs))})
		nodes, pods = merge(nodes, through), merge(pods, answered)
	}
	l.report.chart(l.chainPicture(nodes, pods))
}

// chainPicture shows who got how much of what went through the chain.
func (l *lab) chainPicture(nodes, pods map[string]int) string {
	v6 := l.families()[0]
	var b strings.Builder
	fmt.Fprintf(&b, "\n  outside %s -> balancer %s:80 -> NodePort %d of\n", l.outside.addr(v6), l.balancer.addr(v6), l.services.ingress.nodePort)
	bars(&b, nodes)
	fmt.Fprintf(&b, "  -> %s: reverse proxy, asks names %s for %q -> ClusterIP %s ->\n", l.services.ingress.members[0].name, l.services.names.clusterIP(v6), l.services.web.name, l.services.web.clusterIP(v6))
	bars(&b, pods)
	return b.String()
}

// bars prints a line per name: how many, which part, and a bar.
func bars(b *strings.Builder, counts map[string]int) {
	total := 0
	for _, n := range counts {
		total += n
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		part := float64(counts[name]) / float64(max(total, 1))
		fmt.Fprintf(b, "    %-10s %6d  %3.0f %%  %s\n", name, counts[name], 100*part, strings.Repeat("#", int(math.Round(60*part))))
	}
}
