package servicetest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/service"
)

func (c *contract) empty() {
	if seen := c.observe(); seen != (service.Observed{}) {
		c.Errorf("an empty kernel has %+v", seen)
	}
	c.writes("a second full sync of nothing", c.must2(service.Delta{Full: true}), false)
	c.writes("deleting who was never there", c.must(service.Delta{Delete: []service.Name{{Namespace: "ns", Name: "nobody"}}}), false)
}

// must2 applies twice and returns the second result.
func (c *contract) must2(d service.Delta) service.Result {
	c.Helper()
	c.must(d)
	return c.must(d)
}

func (c *contract) idempotent() {
	w := c.world(nil)
	all := w.programs()
	c.writes("the first sync", c.must(service.Delta{Full: true, Set: all}), true)
	c.ask(w)
	c.writes("the same again", c.must(service.Delta{Full: true, Set: all}), false)
	c.writes("the same as a change", c.must(service.Delta{Set: all}), false)
	if seen := c.observe(); seen.Foreign || seen.Frontends == 0 || seen.Backends == 0 {
		c.Errorf("observed %+v", seen)
	}
	c.writes("the same after it was observed", c.must(service.Delta{Full: true, Set: all}), false)
}

// change: everything about a Service changes, one by one, while the others stay.
func (c *contract) change() {
	c.must(service.Delta{Full: true, Set: c.world(nil).programs()})
	var w World
	for _, step := range []struct {
		name   string
		change func(w *World)
	}{
		{"an endpoint goes", func(w *World) { w.slicesOf(0)[0].Endpoints = w.slicesOf(0)[0].Endpoints[:2] }},
		{"an endpoint comes", func(w *World) {
			w.slicesOf(0)[0].Endpoints = append(w.slicesOf(0)[0].Endpoints, service.Endpoint{Addr: pod(service.IPv4, 0, 99), Node: "node-0"})
		}},
		{"all endpoints go", func(w *World) { delete(w.Endpoints, w.Services[0].Name) }},
		{"a NodePort changes", func(w *World) { w.Services[0].Ports[0].NodePort = 30099 }},
		{"the policy becomes Local", func(w *World) { w.Services[0].ExternalPolicy = service.Local }},
		{"the policy becomes Cluster", func(w *World) { w.Services[2].ExternalPolicy = service.Cluster }},
		{"internal policy Local", func(w *World) { w.Services[0].InternalPolicy = service.Local }},
		{"no local endpoint", func(w *World) {
			for i := range w.slicesOf(2) {
				w.slicesOf(2)[i].Endpoints = w.slicesOf(2)[i].Endpoints[1:]
			}
		}},
		{"affinity comes", func(w *World) { w.Services[0].Affinity = time.Hour }},
		{"affinity goes", func(w *World) { w.Services[1].Affinity = 0 }},
		{"a source range goes", func(w *World) { w.Services[2].SourceRanges = w.Services[2].SourceRanges[1:] }},
		{"a source range changes", func(w *World) { w.Services[2].SourceRanges = cidrs("203.0.113.128/25", "2600:5200::/64") }},
		{"an external IP goes", func(w *World) { w.Services[2].ExternalIPs = nil }},
		{"a port comes", func(w *World) {
			w.Services[0].Ports = append(w.Services[0].Ports, service.Port{Name: "s", Protocol: service.SCTP, Port: 9999})
		}},
		{"a ClusterIP changes", func(w *World) { w.Services[0].ClusterIPs[0] = vip(service.IPv4, 50) }},
		{"a family goes", func(w *World) { w.Services[0].ClusterIPs = w.Services[0].ClusterIPs[:1] }},
		{"a Service goes", func(w *World) { w.Services = w.Services[1:] }},
	} {
		old := c.world(nil)
		w = c.world(step.change)
		c.writes(step.name, c.must(difference(old.programs(), w.programs())), true)
		c.ask(w)
		c.writes(step.name+", again", c.must(service.Delta{Full: true, Set: w.programs()}), false)
		c.must(difference(w.programs(), old.programs())) // and back
		c.ask(old)
		c.writes(step.name+", and back", c.must(service.Delta{Full: true, Set: old.programs()}), false)
	}
}

// slicesOf returns the slices of the Service with this number: one per family.
func (w *World) slicesOf(i int) []service.Slice { return w.Endpoints[w.Services[i].Name] }

// difference is the delta from one state to another.
func difference(from, to []service.Program) service.Delta {
	var d service.Delta
	for _, p := range from {
		if !slices.ContainsFunc(to, func(q service.Program) bool { return q.Name == p.Name }) {
			d.Delete = append(d.Delete, p.Name)
		}
	}
	for _, p := range to {
		if !slices.ContainsFunc(from, p.Equal) {
			d.Set = append(d.Set, p)
		}
	}
	return d
}

func (c *contract) restart() {
	w := c.world(nil)
	c.must(service.Delta{Full: true, Set: w.programs()})
	before := c.observe()
	if after := c.reopen(); after != before {
		c.Errorf("after a restart %+v is there, before it was %+v", after, before)
	}
	c.ask(w)
	c.writes("the first sync after a restart", c.must(service.Delta{Full: true, Set: w.programs()}), false)
	c.ask(w)
	next := c.world(func(w *World) { w.slicesOf(0)[0].Endpoints = w.slicesOf(0)[0].Endpoints[:1] })
	c.writes("a change after a restart", c.must(difference(w.programs(), next.programs())), true)
	c.ask(next)
}

func (c *contract) stale() {
	all := c.world(nil)
	c.must(service.Delta{Full: true, Set: all.programs()})
	before := c.observe()
	c.reopen()
	some := c.world(func(w *World) {
		w.Services = w.Services[2:]
		w.slicesOf(0)[0].Endpoints = w.slicesOf(0)[0].Endpoints[:1]
	})
	c.writes("less", c.must(service.Delta{Full: true, Set: some.programs()}), true)
	c.ask(some)
	if after := c.observe(); after.Frontends >= before.Frontends {
		c.Errorf("%d frontends are there, before it were %d", after.Frontends, before.Frontends)
	}
	c.writes("less, again", c.must(service.Delta{Full: true, Set: some.programs()}), false)
	c.writes("nothing", c.must(service.Delta{Full: true}), true)
	none := c.world(func(w *World) { w.Services = nil })
	c.ask(none)
	if after := c.observe(); after.Frontends != 0 {
		c.Errorf("%+v is there after everything was deleted", after)
	}
}

// moves: in one delta a Service loses a frontend and another gets it, whichever comes first by name.
func (c *contract) moves() {
	first := c.world(nil)
	second := c.world(func(w *World) { // web and idle swap NodePorts, dns and idle swap ClusterIPs
		w.Services[0].Ports[0].NodePort, w.Services[3].Ports[0].NodePort = 30081, 30080
		w.Services[1].ClusterIPs, w.Services[3].ClusterIPs = w.Services[3].ClusterIPs, w.Services[1].ClusterIPs
		w.Services[1].Ports[1].Port, w.Services[3].Ports[0].Port = 80, 53 // each takes the other's whole place
	})
	third := c.world(func(w *World) { // idle goes and dns gets all it had
		w.Services = w.Services[:3]
		w.Services[1].ClusterIPs = []netip.Addr{vip(service.IPv4, 4), vip(service.IPv6, 4)}
		w.Services[1].Ports[1].Port, w.Services[1].Ports[1].NodePort = 80, 30081
	})
	c.must(service.Delta{Full: true, Set: first.programs()})
	now := first
	for _, next := range []World{second, first, third, second, third, first} {
		c.must(difference(now.programs(), next.programs()))
		c.ask(next)
		c.writes("again", c.must(service.Delta{Full: true, Set: next.programs()}), false)
		now = next
	}
}

func (c *contract) node() {
	c.must(service.Delta{Full: true, Set: c.world(nil).programs()})
	for _, change := range []func(*service.Node){
		func(n *service.Node) { n.LocalPods.CIDRs = cidrs("10.244.0.128/25", "fd00:244::/64") },
		func(n *service.Node) { n.LocalPods = service.LocalPods{Interface: "cni0"} },
		func(n *service.Node) { n.LocalPods = service.LocalPods{InterfacePrefix: "cni"} },
		func(n *service.Node) { n.LocalPods = service.LocalPods{} },
		func(n *service.Node) { n.MasqueradeAll = true },
		func(n *service.Node) { n.NodePortAddrs = cidrs("192.168.99.0/24", "fd00:192::/64") },
		func(n *service.Node) { n.NodePortAddrs = cidrs("192.168.0.1/32") },
		func(n *service.Node) { n.ServiceCIDRs = nil },
		func(n *service.Node) { n.ServiceCIDRs = cidrs("10.96.0.0/25", "10.97.0.0/16") },
		func(n *service.Node) { n.ExternalIPs = nil },
		func(n *service.Node) {},
	} {
		c.machine = ContractMachine()
		change(&c.machine.Node)
		w := c.world(nil)
		c.must(service.Delta{Full: true, Set: w.programs()})
		c.ask(w)
		c.writes("again", c.must(service.Delta{Full: true, Set: w.programs()}), false)
	}
}

func (c *contract) refused() {
	w := c.world(nil)
	bad := w.programs()
	web := slices.IndexFunc(bad, func(p service.Program) bool { return p.Name == w.Services[0].Name })
	good := bad[web]
	allow := func() {}
	if c.kernel.Refuse != nil {
		allow = c.kernel.Refuse(good)
	} else {
		bad[web].Ports = slices.Clone(good.Ports)
		bad[web].Ports[0].Cluster = []service.Backend{{Addr: netip.MustParseAddrPort("[fd00:bad::1]:80")}}
	}
	for range 2 { // it is not there, and it stays so
		r := c.apply(service.Delta{Full: true, Set: bad})
		if len(r.Failed) != 1 || r.Failed[good.Name] == nil {
			c.Errorf("failed: %v; want %s only", r.Failed, good.Name)
		}
		c.ask(c.world(func(w *World) { w.Services = w.Services[1:] }))
	}
	allow()
	c.writes("when it is good", c.must(service.Delta{Set: []service.Program{good}}), true)
	c.ask(w)
	c.writes("again", c.must(service.Delta{Full: true, Set: w.programs()}), false)
}

func (c *contract) flushed() {
	if c.kernel.Flush == nil {
		c.Skip("this kernel has no way for it")
	}
	w := c.world(nil)
	c.must(service.Delta{Full: true, Set: w.programs()})
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	told := make(chan struct{}, 1)
	ended := make(chan error, 1)
	notify := func() {
		select {
		case told <- struct{}{}:
		default:
		}
	}
	go func() { ended <- c.d.Watch(ctx, notify) }()
	c.kernel.Flush(c.T)
	select {
	case <-told:
	case err := <-ended:
		c.Fatalf("watch ended: %v", err)
	}
	if seen := c.observe(); !seen.Foreign {
		c.Errorf("observed %+v; want a foreign change", seen)
	}
	c.writes("the repair", c.must(service.Delta{Full: true, Set: w.programs()}), true)
	c.ask(w)
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		c.Errorf("watch: %v", err)
	}
	if seen := c.observe(); seen.Foreign {
		c.Error("the repair itself counts as foreign")
	}
}

func (c *contract) cleanup() {
	w := c.world(nil)
	c.must(service.Delta{Full: true, Set: w.programs()})
	for restarted := range 2 {
		if restarted > 0 {
			c.must(service.Delta{Full: true, Set: w.programs()})
			c.d = c.kernel.New(c.T) // one that has not even looked
		}
		for range 2 {
			if err := c.d.Cleanup(c.Context()); err != nil {
				c.Fatal(err)
			}
		}
		if seen := c.reopen(); seen.Frontends != 0 || seen.Backends != 0 {
			c.Errorf("%+v is left", seen)
		}
		if c.kernel.Lookup != nil {
			for _, p := range w.probes() {
				if got, err := c.kernel.Lookup(p); err != nil || got.Outcome != Pass {
					c.Fatalf("%s: %s, %v; want it to pass", p, got, err)
				}
			}
		}
	}
	c.writes("from the beginning", c.must(service.Delta{Full: true, Set: w.programs()}), true)
	c.ask(w)
}

func (c *contract) cancelled() {
	w := c.world(nil)
	if _, err := c.d.Apply(cancelledContext(c.T), service.Delta{Full: true, Node: w.Node, Set: w.programs()}); err == nil {
		c.Error("Apply with a context that has ended: no error")
	}
	c.observe()
	c.must(service.Delta{Full: true, Set: w.programs()})
	c.ask(w)
}
