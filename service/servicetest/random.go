package servicetest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/podnet/podnet/service"
)

// Random makes worlds by chance: few names and few addresses, so that everything collides. The same seed makes the same worlds and packets, on every machine.
type Random struct {
	*rand.Rand
	World World
}

// NewRandom returns a Random with a world in it.
func NewRandom(seed uint64) *Random {
	r := &Random{Rand: rand.New(rand.NewPCG(seed, 0x706f646e6574))}
	r.World.Config = service.Config{Node: r.node(), Endpoints: map[service.Name][]service.Slice{}}
	r.World.Local = r.addresses()
	for range 1 + r.IntN(5) {
		r.change()
	}
	for _, n := range names {
		if r.chance(85) {
			r.World.Endpoints[n] = r.slices()
		}
	}
	return r
}

// Change changes the world a little. Nothing in the old world is written to: what was taken from it stays as it was.
func (r *Random) Change() {
	r.World.Endpoints = cloneMap(r.World.Endpoints)
	r.World.Services = slices.Clone(r.World.Services)
	for range 1 + r.IntN(3) {
		switch r.IntN(10) {
		case 0:
			r.World.Node = r.node()
		case 1:
			r.World.Local = r.addresses()
		case 2, 3, 4:
			r.change()
		case 5:
			if n := len(r.World.Services); n > 0 {
				r.World.Services = slices.Delete(r.World.Services, 0, 1)
			}
		default:
			n := pick(r, names...)
			if r.World.Endpoints[n] = r.slices(); r.chance(10) {
				delete(r.World.Endpoints, n)
			}
		}
	}
}

func cloneMap(m map[service.Name][]service.Slice) map[service.Name][]service.Slice {
	c := map[service.Name][]service.Slice{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (r *Random) chance(percent int) bool { return r.IntN(100) < percent }

func pick[T any](r *Random, of ...T) T { return of[r.IntN(len(of))] }

// some returns each element with a chance.
func some[T any](r *Random, percent int, of ...T) []T {
	var out []T
	for _, x := range of {
		if r.chance(percent) {
			out = append(out, x)
		}
	}
	return out
}

var names = []service.Name{{Namespace: "a", Name: "one"}, {Namespace: "a", Name: "two"}, {Namespace: "a", Name: "three"}, {Namespace: "b", Name: "one"}, {Namespace: "b", Name: "two"}}

func ip(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}

func cidrs(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, one := range s {
		out = append(out, netip.MustParsePrefix(one))
	}
	return out
}

// The address plan: pods of node n are 10.244.n.x, ours is node 0; node n is 192.168.0.(n+1); ClusterIPs are 10.96.0.x; load balancers are 198.51.100.x. In IPv6 the same behind a prefix of their own.
func pod(f service.Family, node, i int) netip.Addr {
	if f == service.IPv4 {
		return ip("10.244.%d.%d", node, i)
	}
	return ip("fd00:244:0:%x::%x", node, i)
}

func host(f service.Family, node int) netip.Addr {
	if f == service.IPv4 {
		return ip("192.168.0.%d", node+1)
	}
	return ip("fd00:192::%x", node+1)
}

func vip(f service.Family, i int) netip.Addr {
	if f == service.IPv4 {
		return ip("10.96.0.%d", i)
	}
	return ip("fd00:96::%x", i)
}

func balancer(f service.Family, i int) netip.Addr {
	if f == service.IPv4 {
		return ip("198.51.100.%d", i)
	}
	return ip("2001:db8:51::%x", i)
}

func outside(f service.Family, i int) netip.Addr {
	if f == service.IPv4 {
		return ip("203.0.113.%d", i)
	}
	return ip("2600:5200::%x", i)
}

// second is an address of our node that its status does not tell.
func second(f service.Family) netip.Addr {
	if f == service.IPv4 {
		return ip("192.168.7.1")
	}
	return ip("fd00:192:7::1")
}

func (r *Random) node() service.Node {
	n := service.Node{Name: "node-0", Zone: pick(r, "", "zone-a", "zone-a", "zone-b"), MasqueradeAll: r.chance(20)}
	for _, f := range service.Families() {
		n.Addrs = append(n.Addrs, host(f, 0))
	}
	switch r.IntN(10) {
	case 0:
	case 1:
		n.LocalPods.CIDRs = cidrs("10.244.0.0/24")
	case 2:
		n.LocalPods.CIDRs = cidrs("10.244.0.0/16", "fd00:244::/48")
	case 3, 4:
		n.LocalPods.Interface = "cni0"
	case 5:
		n.LocalPods.InterfacePrefix = "cni"
	default:
		n.LocalPods.CIDRs = cidrs("10.244.0.0/24", "fd00:244::/64")
	}
	if r.chance(30) {
		n.NodePortAddrs = some(r, 60, cidrs("192.168.0.0/24", "192.168.7.0/24", "fd00:192::/112", "fd00:192:7::1/128")...)
	}
	n.ExternalIPs = some(r, 80, cidrs("198.51.100.0/24", "2001:db8:51::/64", "192.168.7.1/32", "10.0.0.0/8")...)
	n.ServiceCIDRs = some(r, 50, cidrs("10.96.0.0/24", "fd00:96::/120")...)
	n.PodCIDRs = some(r, 50, cidrs("10.244.0.0/16", "fd00:244::/48")...)
	return n
}

func (r *Random) addresses() []netip.Addr {
	var local []netip.Addr
	for _, f := range service.Families() {
		local = append(local, host(f, 0))
		if r.chance(60) {
			local = append(local, second(f))
		}
		if r.chance(30) {
			local = append(local, pod(f, 0, 254)) // the bridge's
		}
	}
	return local
}

// change makes a Service anew, or one more.
func (r *Random) change() {
	s := r.service(pick(r, names...))
	r.World.Services = slices.DeleteFunc(slices.Clone(r.World.Services), func(o service.Service) bool { return o.Name == s.Name })
	r.World.Services = append(r.World.Services, s)
}

func (r *Random) service(n service.Name) service.Service {
	s := service.Service{Name: n, Created: int64(r.IntN(3))}
	own := 1 + slices.Index(names, n)
	if r.chance(5) {
		own = 1 + r.IntN(5) // somebody else's
	}
	for _, f := range service.Families() {
		if r.chance(80) {
			s.ClusterIPs = append(s.ClusterIPs, vip(f, own))
		}
		if r.chance(40) {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, some(r, 50, balancer(f, 1), balancer(f, 2), balancer(f, 2+own))...)
		}
		if r.chance(30) {
			s.ExternalIPs = append(s.ExternalIPs, some(r, 40, balancer(f, 1), balancer(f, 10+own), second(f), host(f, 0), pod(f, 0, 9), vip(f, 2), vip(f, 99))...)
		}
		if r.chance(20) {
			s.SourceRanges = append(s.SourceRanges, r.ranges(f)...)
		}
	}
	for i := range 1 + r.IntN(3) {
		s.Ports = append(s.Ports, r.port(i))
	}
	s.InternalPolicy = pick(r, service.Cluster, service.Cluster, service.Local)
	s.ExternalPolicy = pick(r, service.Cluster, service.Local)
	if r.chance(30) {
		s.Affinity = pick(r, time.Second, time.Minute, 3*time.Hour)
	}
	return s
}

func (r *Random) ranges(f service.Family) []netip.Prefix {
	if f == service.IPv4 {
		return some(r, 30, cidrs("203.0.113.0/25", "203.0.113.0/24", "192.168.0.0/24", "10.244.0.0/24", "203.0.113.200/32", "0.0.0.0/0", "128.0.0.0/1")...)
	}
	return some(r, 30, cidrs("2600:5200::/121", "fd00:192::/64", "fd00:244::/64", "2600:5200::c8/128", "::/0", "2000::/3")...)
}

func (r *Random) port(i int) service.Port {
	p := service.Port{Name: "p" + strconv.Itoa(i), Protocol: r.protocol(i), Port: pick[uint16](r, 80, 443, 53)}
	if r.chance(50) {
		p.NodePort = pick[uint16](r, 30000, 30001, 30002, 80)
	}
	if r.chance(3) {
		p.Port = 0
	}
	return p
}

// protocol returns one that ports of the same name mostly have, so that Services find their endpoints.
func (r *Random) protocol(i int) service.Protocol {
	if r.chance(15) {
		return pick(r, service.TCP, service.UDP, service.SCTP)
	}
	return [...]service.Protocol{service.TCP, service.UDP, service.SCTP}[i]
}

// slices makes the endpoints of a Service. An address is always on the same node, with the same hints: which of two copies counts for them is nobody's rule.
func (r *Random) slices() []service.Slice {
	var out []service.Slice
	hinted := pick(r, 0, 0, 50, 100, 100)
	hints := map[netip.Addr]service.Endpoint{}
	for i := range 1 + r.IntN(4) {
		var s service.Slice
		for j := range 3 {
			if r.chance(85) {
				s.Ports = append(s.Ports, service.EndpointPort{
					Name: "p" + strconv.Itoa(j), Protocol: r.protocol(j), Port: pick[uint16](r, 80, 8080),
				})
			}
		}
		f := service.Families()[i%2]
		for range r.IntN(6) {
			e := r.endpoint(f, hinted)
			if old, ok := hints[e.Addr]; ok {
				e.ForNodes, e.ForZones = old.ForNodes, old.ForZones
			}
			hints[e.Addr] = e
			s.Endpoints = append(s.Endpoints, e)
		}
		out = append(out, s)
	}
	return out
}

func (r *Random) endpoint(f service.Family, hinted int) service.Endpoint {
	node := r.IntN(3)
	e := service.Endpoint{Addr: pod(f, node, 1+r.IntN(4)), Node: "node-" + strconv.Itoa(node)}
	switch r.IntN(20) {
	case 0:
		e.Addr = host(f, node)
	case 1:
		e.Addr = pick(r, ip("127.0.0.1"), ip("169.254.1.1"), ip("::1"), ip("fe80::1"), ip("ff02::1"), netip.Addr{})
	case 2:
		e.Addr, e.Node = outside(f, 99), "" // not in the cluster
	}
	if r.chance(hinted) {
		e.ForNodes = service.MakeNames(some(r, 50, "node-0", "node-1", "node-2")...)
	}
	if r.chance(hinted) {
		e.ForZones = service.MakeNames(some(r, 50, "zone-a", "zone-b", "zone-c")...)
	}
	switch r.IntN(6) {
	case 0:
		e.NotReady, e.Terminating = true, true
	case 1:
		e.NotReady, e.NotServing, e.Terminating = r.chance(50), r.chance(50), r.chance(50)
	}
	return e
}

// Packet makes a packet that has to do with the world: most go to where a Service is or nearly is.
func (r *Random) Packet() Packet {
	p := r.destination()
	f := service.FamilyOf(p.To)
	switch r.IntN(6) {
	case 0, 1: // a pod of ours, perhaps an endpoint
		p.From, p.In = pod(f, 0, 1+r.IntN(6)), pick(r, "cni0", "cni0", "cni01")
	case 2:
		p.From = r.local(f)
	case 3:
		p.From, p.In = pod(f, 1, 200), "eth0" // no endpoint: whether one that is elsewhere is a hairpin, no rule says
	case 4:
		p.From, p.In = pick(r, balancer(f, 1), balancer(f, 2), outside(f, 200)), "eth0"
	default:
		p.From, p.In = outside(f, 1+r.IntN(3)), "eth0"
	}
	return p
}

// local returns an address from which the node itself sends.
func (r *Random) local(f service.Family) netip.Addr {
	var own []netip.Addr
	for _, a := range r.World.Local {
		if service.FamilyOf(a) == f {
			own = append(own, a)
		}
	}
	return pick(r, own...)
}

// destination aims at a port of a Service seven times in eight.
func (r *Random) destination() Packet {
	if len(r.World.Services) == 0 || r.chance(12) {
		return r.nearby()
	}
	s := pick(r, r.World.Services...)
	port := pick(r, s.Ports...)
	f := pick(r, service.IPv4, service.IPv6)
	p := Packet{Protocol: port.Protocol, Port: port.Port}
	to := slices.Concat(s.ClusterIPs, s.LoadBalancerIPs, s.ExternalIPs)
	if len(to) == 0 || port.NodePort != 0 && r.chance(40) {
		p.To, p.Port = pick(r, host(f, 0), second(f)), max(port.NodePort, 1)
		return p
	}
	p.To = pick(r, to...)
	return p
}

// nearby aims at addresses and ports that are in use somewhere, and some that are not.
func (r *Random) nearby() Packet {
	f := pick(r, service.IPv4, service.IPv6)
	return Packet{
		Protocol: pick(r, service.TCP, service.TCP, service.UDP, service.SCTP),
		Port:     pick[uint16](r, 80, 443, 53, 30000, 30001, 30002, 8080),
		To: pick(r, vip(f, 1+r.IntN(5)), vip(f, 77), vip(f, 99), balancer(f, 1+r.IntN(16)), outside(f, 7), pod(f, 0, 1), pod(f, 0, 9), pod(f, 1, 1),
			host(f, 0), host(f, 1), second(f), pod(f, 0, 254)),
	}
}
