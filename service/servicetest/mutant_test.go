package servicetest

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/podnet/podnet/service"
)

// mutant is a dataplane with a mistake: it changes each port's program before it writes it, or the node.
type mutant struct {
	Dataplane
	mistake
}

type mistake struct {
	port func(*service.PortProgram)
	node func(*service.Node)
}

func (m *mutant) Apply(ctx context.Context, d service.Delta) (service.Result, error) {
	d.Set = slices.Clone(d.Set)
	if m.mistake.node != nil {
		m.mistake.node(&d.Node)
	}
	for i := range d.Set {
		d.Set[i].Ports = slices.Clone(d.Set[i].Ports)
		for j := range d.Set[i].Ports {
			p := &d.Set[i].Ports[j]
			p.Frontends = slices.Clone(p.Frontends)
			if m.mistake.port != nil {
				m.mistake.port(p)
			}
		}
	}
	return m.Dataplane.Apply(ctx, d)
}

// each changes the frontends.
func each(change func(*service.Frontend)) func(*service.PortProgram) {
	return func(p *service.PortProgram) {
		for i := range p.Frontends {
			change(&p.Frontends[i])
		}
	}
}

// TestRandomFindsMistakes: a difference that random states do not find is one that nobody would find in the real dataplanes either.
func TestRandomFindsMistakes(t *testing.T) {
	for name, m := range map[string]mistake{
		"local pods are everywhere":    {node: func(n *service.Node) { n.LocalPods = service.LocalPods{Interface: "eth0"} }},
		"no local pods":                {node: func(n *service.Node) { n.LocalPods = service.LocalPods{} }},
		"NodePorts on all addresses":   {node: func(n *service.Node) { n.NodePortAddrs = nil }},
		"unallocated addresses pass":   {node: func(n *service.Node) { n.ServiceCIDRs = nil }},
		"host as pod":                  {port: each(func(f *service.Frontend) { f.Host = f.Pod })},
		"host as remote":               {port: each(func(f *service.Frontend) { f.Host = f.Remote })},
		"pod as remote":                {port: each(func(f *service.Frontend) { f.Pod = f.Remote })},
		"remote as pod":                {port: each(func(f *service.Frontend) { f.Remote = f.Pod })},
		"no masquerading of the host":  {port: each(func(f *service.Frontend) { f.Host.Masquerade = false })},
		"no restriction":               {port: each(func(f *service.Frontend) { f.Restricted = false })},
		"everything restricted":        {port: each(func(f *service.Frontend) { f.Restricted = true })},
		"no hairpin":                   {port: func(p *service.PortProgram) { p.Cluster = remote(p.Cluster) }},
		"no hairpin of local ones":     {port: func(p *service.PortProgram) { p.Local = remote(p.Local) }},
		"local is cluster":             {port: func(p *service.PortProgram) { p.Local = p.Cluster }},
		"cluster is local":             {port: func(p *service.PortProgram) { p.Cluster = p.Local }},
		"last endpoint lost":           {port: func(p *service.PortProgram) { p.Cluster = p.Cluster[:max(len(p.Cluster)-1, 0)] }},
		"no affinity":                  {port: func(p *service.PortProgram) { p.Affinity = 0 }},
		"last source range lost":       {port: func(p *service.PortProgram) { p.SourceRanges = p.SourceRanges[:max(len(p.SourceRanges)-1, 0)] }},
		"source ranges are only a /32": {port: func(p *service.PortProgram) { p.SourceRanges = narrow(p.SourceRanges) }},
		"drop for reject": {port: each(func(f *service.Frontend) {
			if f.Remote.Action == service.Reject {
				f.Remote.Action = service.Drop
			}
		})},
		"NodePorts lost": {port: func(p *service.PortProgram) {
			p.Frontends = slices.DeleteFunc(p.Frontends, func(f service.Frontend) bool { return f.Kind == service.NodePort })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 500; seed++ {
				if runSeed(t, seed, RandomOptions{Packets: 20}, &mutant{mistake: m}) != nil {
					return
				}
			}
			t.Error("2,000 random states have not found it")
		})
	}
}

func remote(b []service.Backend) []service.Backend {
	b = slices.Clone(b)
	for i := range b {
		b[i].Local = false
	}
	return b
}

func narrow(r []netip.Prefix) []netip.Prefix {
	r = slices.Clone(r)
	for i := range r {
		r[i] = netip.PrefixFrom(r[i].Addr(), r[i].Addr().BitLen())
	}
	return r
}
