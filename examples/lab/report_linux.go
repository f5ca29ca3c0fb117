package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// row is one line of the table of checks: what was tried, over which family, and the result of each part.
type row struct {
	Name   string `json:"name"`
	Family string `json:"family,omitempty"`
	Cells  []cell `json:"cells"`
	Detail string `json:"detail,omitempty"`
}

// cell is one check.
type cell struct {
	Label string `json:"label"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// report collects rows and prints them as they come.
type report struct {
	out     io.Writer // progress and table
	start   time.Time
	rows    []row
	skipped []string
}

func (r *report) progress(format string, args ...any) {
	fmt.Fprintf(r.out, "%6.2fs  %s\n", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
}

func (r *report) add(x row) {
	r.rows = append(r.rows, x)
	parts := make([]string, len(x.Cells))
	for i, c := range x.Cells {
		parts[i] = "PASS " + c.Label
		if !c.OK {
			parts[i] = "FAIL " + c.Label
		}
	}
	fmt.Fprintf(r.out, "  %-46s %-4s  %s", x.Name, x.Family, strings.Join(parts, "  "))
	if x.Detail != "" {
		fmt.Fprintf(r.out, "  (%s)", x.Detail)
	}
	fmt.Fprintln(r.out)
	for _, c := range x.Cells {
		if c.Error != "" {
			fmt.Fprintf(r.out, "      %s: %s\n", c.Label, c.Error)
		}
	}
}

// skip says which check this topology cannot have, and why.
func (r *report) skip(name, why string) {
	r.skipped = append(r.skipped, name+": "+why)
	fmt.Fprintf(r.out, "  %-46s       not in this lab: %s\n", name, why)
}

// chart prints a picture between the rows.
func (r *report) chart(picture string) { fmt.Fprintln(r.out, picture) }

func (r *report) count() (passed, failed int) {
	for _, x := range r.rows {
		for _, c := range x.Cells {
			if c.OK {
				passed++
			} else {
				failed++
			}
		}
	}
	return passed, failed
}

// summary is what --json prints.
type summary struct {
	Options  map[string]any  `json:"options"`
	Nodes    []nodeJSON      `json:"nodes"`
	Conflist json.RawMessage `json:"conflist,omitempty"`
	Checks   []row           `json:"checks"`
	Answered map[string]int  `json:"answered,omitempty"` // requests to the Service web under load, by pod
	Skipped  []string        `json:"skipped,omitempty"`
	Passed   int             `json:"passed"`
	Failed   int             `json:"failed"`
	Seconds  float64         `json:"seconds"`
	Error    string          `json:"error,omitempty"`
}

type nodeJSON struct {
	Name      string                    `json:"name"`
	Segment   string                    `json:"segment"`
	Addresses []netip.Prefix            `json:"addresses"`
	PodCIDRs  []netip.Prefix            `json:"podCIDRs"`
	Pods      map[string][]netip.Prefix `json:"pods"`
}

func (l *lab) json(w io.Writer, runErr error) error {
	s := summary{
		Options: map[string]any{"nodes": l.options.nodes, "pods": l.options.pods, "backend": l.backend, "family": l.family, "kubernetes": l.kubernetes, "proxy": l.proxy,
			"checks": l.checks},
		Checks: l.report.rows, Answered: l.answered, Skipped: l.report.skipped, Seconds: time.Since(l.report.start).Seconds(),
	}
	s.Passed, s.Failed = l.report.count()
	if runErr != nil {
		s.Error = runErr.Error()
	}
	for _, n := range l.topology.nodes {
		pods := map[string][]netip.Prefix{}
		for _, p := range n.pods {
			pods[p.name] = p.addrs
		}
		s.Nodes = append(s.Nodes, nodeJSON{n.name, n.ports[0].on.name, n.ports[0].addrs, n.podCIDRs, pods})
	}
	s.Conflist = l.conflistSeen
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(s)
}

// picture draws the topology with every address.
func (t *topology) picture() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  outside       %s\n", join(t.outside.ports[0].addrs))
	if t.proxy != "none" {
		fmt.Fprintf(&b, "  balancer      %s\n", join(t.balancer.ports[0].addrs))
	}
	fmt.Fprintf(&b, "     |\n")
	fmt.Fprintf(&b, "  router        %s\n", join(t.router.ports[2].addrs))
	if t.kubernetes {
		fmt.Fprintf(&b, "     |\n     +-- control     %s   kube-apiserver, kube-controller-manager, etcd\n", join(t.control.ports[0].addrs))
	}
	segments := []segment{segmentA, segmentB}
	for i, s := range segments {
		var on []*node
		for _, n := range t.nodes {
			if n.ports[0].on.name == s.name {
				on = append(on, n)
			}
		}
		if len(on) == 0 {
			continue
		}
		fmt.Fprintf(&b, "     |\n     +-- %s   %s (router)\n", s.name, join(t.router.ports[i].addrs))
		for _, n := range on {
			fmt.Fprintf(&b, "     |     |\n     |     +-- %s   %s   podCIDR %s\n", n.name, join(n.ports[0].addrs), join(n.podCIDRs))
			for _, p := range n.pods {
				fmt.Fprintf(&b, "     |     |     +-- %s   %s   mtu %d\n", p.name, join(p.addrs), p.mtu)
			}
		}
	}
	return b.String()
}

func join(ps []netip.Prefix) string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return strings.Join(out, " ")
}

func bits(perSecond float64) string {
	return fmt.Sprintf("%.2f Gbit/s", perSecond/1e9)
}
