package servicetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// Dump returns the kernel as text for goldens; see Format.
func (d *Dataplane) Dump() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Format(slices.Collect(maps.Values(d.kernel)))
}

// Format returns programs as text, sorted by name, made to be read and compared. An endpoint of this node has a star:
//
//	default/web
//	  http TCP IPv4
//	    ClusterIP 10.96.0.10:80      pod cluster, host cluster masquerade, remote cluster masquerade
//	    NodePort 30080               pod cluster, host cluster masquerade, remote local
//	    cluster 10.244.0.5:8080* 10.244.1.7:8080
//	    local 10.244.0.5:8080*
func Format(programs []service.Program) string {
	programs = slices.Clone(programs)
	slices.SortFunc(programs, func(a, b service.Program) int { return compareNames(a.Name, b.Name) })
	var b strings.Builder
	for _, p := range programs {
		fmt.Fprint(&b, p.Name)
		if p.HealthCheckNodePort != 0 {
			fmt.Fprintf(&b, " health check on %d: %d", p.HealthCheckNodePort, p.LocalReady)
		}
		fmt.Fprintln(&b)
		for _, port := range p.Ports {
			formatPort(&b, port)
		}
	}
	return b.String()
}

func formatPort(b *strings.Builder, p service.PortProgram) {
	fmt.Fprintf(b, "  %s\n", strings.TrimSpace(fmt.Sprint(p.Port, " ", p.Protocol, " ", p.Family, more(p))))
	for _, f := range p.Frontends {
		routes := fmt.Sprintf("pod %s, host %s, remote %s", route(f.Pod), route(f.Host), route(f.Remote))
		if f.Pod == f.Host && f.Host == f.Remote {
			routes = route(f.Pod)
		}
		if f.Restricted {
			routes += ", restricted"
		}
		fmt.Fprintf(b, "    %-28s %s\n", f, routes)
	}
	for _, set := range []struct {
		name     string
		backends []service.Backend
	}{{"cluster", p.Cluster}, {"local", p.Local}} {
		if len(set.backends) == 0 {
			continue
		}
		fmt.Fprintf(b, "    %s", set.name)
		for _, e := range set.backends {
			fmt.Fprintf(b, " %s", e.Addr)
			if e.Local {
				b.WriteByte('*')
			}
		}
		b.WriteByte('\n')
	}
}

func more(p service.PortProgram) string {
	var s string
	if p.Affinity > 0 {
		s += fmt.Sprint(" affinity ", p.Affinity)
	}
	if p.Scheduler != "" {
		s += " scheduler " + p.Scheduler
	}
	if len(p.SourceRanges) > 0 {
		s += fmt.Sprint(" sources ", p.SourceRanges)
	}
	return s
}

func route(r service.Route) string {
	if r.Masquerade {
		return r.Action.String() + " masquerade"
	}
	return r.Action.String()
}

// backends returns the endpoints of both sets, each once.
func backends(p service.PortProgram) []service.Backend {
	all := slices.Concat(p.Cluster, p.Local)
	slices.SortFunc(all, func(a, b service.Backend) int { return a.Addr.Compare(b.Addr) })
	return slices.CompactFunc(all, func(a, b service.Backend) bool { return a.Addr == b.Addr })
}
