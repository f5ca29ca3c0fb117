package servicetest

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/podnet/podnet/service"
)

// Kernel is a kernel, real or fake, with nothing of the dataplane in it yet. Its node has the addresses of ContractMachine.
type Kernel struct {
	// New returns a dataplane on the kernel. A second call is a restart: the kernel keeps what it has, and the one before is used no longer. Required.
	New func(testing.TB) service.Dataplane

	// Lookup sends a packet through the kernel. nil: only counts and writes are compared.
	Lookup func(Packet) (Verdict, error)

	// Agrees says whether an answer is what was wanted. nil: if both are the same.
	Agrees func(got, want Verdict) bool

	// SetMachine tells the kernel's addresses, before New. nil for a kernel that has its own.
	SetMachine func(Machine)

	// Refuse makes the kernel refuse to take this program, until allow is called. nil: a program with an IPv6 endpoint in an IPv4 port must be refused by the dataplane itself.
	Refuse func(service.Program) (allow func())

	// Flush removes what the dataplane wrote, as somebody else would. nil: it is not tried.
	Flush func(testing.TB)
}

// ContractMachine is the node of the contract: 192.168.0.1 and fd00:192::1 are its addresses, 10.244.0.0/24 and fd00:244::/64 its pods.
func ContractMachine() Machine {
	m := Machine{Node: service.Node{
		Name: "node-0", Zone: "zone-a", LocalPods: service.LocalPods{CIDRs: cidrs("10.244.0.0/24", "fd00:244::/64")},
		ExternalIPs: cidrs("198.51.100.0/24", "2001:db8:51::/64"), ServiceCIDRs: cidrs("10.96.0.0/24", "fd00:96::/120"),
	}}
	for _, f := range service.Families() {
		m.Addrs = append(m.Addrs, host(f, 0))
	}
	m.Local = m.Addrs
	return m
}

// Contract proves what every dataplane must keep, each part on a fresh kernel: nothing is written twice, a restart adopts, what is stale goes, a bad Service harms no other, a
// cleanup leaves nothing.
func Contract(t *testing.T, fresh func(testing.TB) Kernel) {
	for _, part := range []struct {
		name string
		run  func(*contract)
	}{
		{"empty kernel", (*contract).empty},
		{"nothing is written twice", (*contract).idempotent},
		{"one change", (*contract).change},
		{"restart adopts", (*contract).restart},
		{"full removes what is stale", (*contract).stale},
		{"a frontend moves to another Service", (*contract).moves},
		{"the node changes", (*contract).node},
		{"a bad Service harms no other", (*contract).refused},
		{"a foreign flush is repaired", (*contract).flushed},
		{"cleanup", (*contract).cleanup},
		{"a context that has ended", (*contract).cancelled},
	} {
		t.Run(part.name, func(t *testing.T) {
			c := &contract{T: t, kernel: fresh(t), machine: ContractMachine()}
			if c.kernel.SetMachine != nil {
				c.kernel.SetMachine(c.machine)
			}
			c.reopen()
			part.run(c)
			if t.Failed() {
				return
			}
			if err := c.d.Cleanup(t.Context()); err != nil {
				t.Errorf("cleanup: %v", err)
			}
		})
	}
}

// contract is a part of it at work.
type contract struct {
	*testing.T
	kernel  Kernel
	machine Machine
	d       service.Dataplane
}

// contractServices are Services of many kinds: web (cluster policy, NodePort), dns (UDP and TCP, affinity), edge (local policy, load balancer, source ranges, external IP) and
// idle (no endpoint), in both families.
func contractServices() (list []service.Service, endpoints map[service.Name][]service.Slice) {
	endpoints = map[service.Name][]service.Slice{}
	for i, s := range []service.Service{
		{Name: service.Name{Namespace: "ns", Name: "web"}, Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}}},
		{Name: service.Name{Namespace: "ns", Name: "dns"}, Affinity: time.Minute,
			Ports: []service.Port{{Name: "udp", Protocol: service.UDP, Port: 53}, {Name: "tcp", Protocol: service.TCP, Port: 53}}},
		{Name: service.Name{Namespace: "ns", Name: "edge"}, ExternalPolicy: service.Local, Ports: []service.Port{{Name: "https", Protocol: service.TCP, Port: 443, NodePort: 30443}},
			SourceRanges: cidrs("203.0.113.0/25", "2600:5200::/121")},
		{Name: service.Name{Namespace: "ns", Name: "idle"}, Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30081}}},
	} {
		for _, f := range service.Families() {
			s.ClusterIPs = append(s.ClusterIPs, vip(f, i+1))
			if s.Name.Name == "edge" {
				s.LoadBalancerIPs = append(s.LoadBalancerIPs, balancer(f, 1))
				s.ExternalIPs = append(s.ExternalIPs, balancer(f, 2))
			}
			if s.Name.Name == "idle" {
				continue
			}
			slice := service.Slice{Endpoints: []service.Endpoint{{Addr: pod(f, 0, i+1), Node: "node-0"}, {Addr: pod(f, 1, i+1), Node: "node-1"}, {Addr: pod(f, 2, i+1), Node: "node-2"}}}
			for _, p := range s.Ports {
				slice.Ports = append(slice.Ports, service.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port + 8000})
			}
			endpoints[s.Name] = append(endpoints[s.Name], slice)
		}
		list = append(list, s)
	}
	return list, endpoints
}

// world returns the Services of the contract, changed; nil changes nothing.
func (c *contract) world(change func(*World)) World {
	w := World{Local: c.machine.Local}
	w.Node = c.machine.Node
	w.Services, w.Endpoints = contractServices()
	if change != nil {
		change(&w)
	}
	return w
}

func (w World) programs() []service.Program {
	t := service.NewTracker()
	t.SetNode(w.Node)
	for _, s := range w.Services {
		t.SetService(s)
	}
	for n, list := range w.Endpoints {
		for i, s := range list {
			t.SetSlice(n, string(rune('a'+i)), s)
		}
	}
	var all []service.Program
	for _, p := range t.Take() {
		all = append(all, p.Program)
	}
	return all
}

// reopen makes a new dataplane and lets it observe.
func (c *contract) reopen() service.Observed {
	c.Helper()
	c.d = c.kernel.New(c.T)
	return c.observe()
}

func (c *contract) observe() service.Observed {
	c.Helper()
	seen, err := c.d.Observe(c.Context())
	if err != nil {
		c.Fatalf("observe: %v", err)
	}
	return seen
}

func (c *contract) apply(d service.Delta) service.Result {
	c.Helper()
	d.Node = c.machine.Node
	r, err := c.d.Apply(c.Context(), d)
	if err != nil {
		c.Fatalf("apply: %v", err)
	}
	return r
}

// must applies and wants no Service to fail.
func (c *contract) must(d service.Delta) service.Result {
	c.Helper()
	r := c.apply(d)
	for n, err := range r.Failed {
		c.Errorf("%s failed: %v", n, err)
	}
	return r
}

func (c *contract) writes(what string, r service.Result, some bool) {
	c.Helper()
	if some && r.Writes == 0 {
		c.Errorf("%s: nothing was written", what)
	} else if !some && r.Writes > 0 {
		c.Errorf("%s: %d objects were written", what, r.Writes)
	}
}

// ask compares the kernel with the oracle.
func (c *contract) ask(w World) {
	c.Helper()
	if c.kernel.Lookup == nil {
		return
	}
	wrong := 0
	for _, p := range w.probes() {
		if err := compare(w, walkerFunc(c.kernel.Lookup), p, c.kernel.Agrees); err != nil {
			c.Error(err)
			wrong++
		}
		if wrong == 5 {
			c.Fatal("and so on")
		}
	}
}

// walkerFunc is a Lookup function as a Walker.
type walkerFunc func(Packet) (Verdict, error)

func (f walkerFunc) Lookup(p Packet) (Verdict, error) { return f(p) }

// probes are packets from everywhere to every frontend, and to what is beside them.
func (w World) probes() []Packet {
	var all []Packet
	for _, s := range w.Services {
		for _, port := range s.Ports {
			for _, to := range slices.Concat(s.ClusterIPs, s.LoadBalancerIPs, s.ExternalIPs) {
				all = append(all, w.from(Packet{To: to, Port: port.Port, Protocol: port.Protocol})...)
			}
			for _, to := range w.Local {
				if port.NodePort != 0 {
					all = append(all, w.from(Packet{To: to, Port: port.NodePort, Protocol: port.Protocol})...)
				}
			}
		}
	}
	for _, f := range service.Families() {
		for _, to := range []netip.Addr{vip(f, 1), vip(f, 77), outside(f, 9), host(f, 0)} {
			all = append(all, w.from(Packet{To: to, Port: 9, Protocol: service.TCP})...)
		}
	}
	return all
}

// from returns a packet from each kind of source.
func (w World) from(p Packet) []Packet {
	f := service.FamilyOf(p.To)
	var all []Packet
	for _, source := range []struct {
		addr netip.Addr
		in   string
	}{{pod(f, 0, 1), "cni0"}, {pod(f, 0, 2), "cni0"}, {pod(f, 0, 200), "cni0"}, {host(f, 0), ""}, {pod(f, 1, 200), "eth0"}, {outside(f, 1), "eth0"}, {outside(f, 200), "eth0"}} {
		p.From, p.In = source.addr, source.in
		all = append(all, p)
	}
	return all
}

func cancelledContext(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
