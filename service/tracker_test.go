package service

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func named(s string) Name          { return Name{Namespace: "ns", Name: s} }
func addrs(s ...string) (a []netip.Addr) {
	for _, one := range s {
		a = append(a, addr(one))
	}
	return a
}

// simple returns a Service with one TCP port 80.
func simple(name string, change func(*Service)) Service {
	s := Service{Name: named(name), ClusterIPs: addrs("10.96.0.1"), Ports: []Port{{Protocol: TCP, Port: 80}}}
	if change != nil {
		change(&s)
	}
	return s
}

func endpoints(a ...string) Slice {
	s := Slice{Ports: []EndpointPort{{Protocol: TCP, Port: 8080}}}
	for _, one := range a {
		s.Endpoints = append(s.Endpoints, Endpoint{Addr: addr(one), Node: "node-b"})
	}
	return s
}

// show is what Take returned, a line each: the frontends and faults.
func show(planned []Planned) string {
	var b strings.Builder
	for _, p := range planned {
		fmt.Fprintf(&b, "%s:", p.Program.Name.Name)
		for _, port := range p.Program.Ports {
			for _, f := range port.Frontends {
				fmt.Fprintf(&b, " %s %s", f, f.Pod.Action)
			}
			for _, c := range port.Cluster {
				fmt.Fprintf(&b, " %s", c.Addr)
			}
		}
		for _, f := range p.Faults {
			fmt.Fprintf(&b, " (%s %s)", f.Field, f.Value)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func wantTake(t *testing.T, tr *Tracker, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.ReplaceAll(strings.TrimLeft(want, "\n"), "\t", ""), show(tr.Take())); diff != "" {
		t.Error(diff)
	}
	if again := tr.Take(); len(again) > 0 {
		t.Errorf("second Take: %s", show(again))
	}
}

func TestTrackerOrderOfArrival(t *testing.T) {
	tr := NewTracker()
	tr.SetSlice(named("web"), "a", endpoints("10.244.1.1"))
	wantTake(t, tr, "") // no Service yet
	tr.SetService(simple("web", nil))
	wantTake(t, tr, "web: ClusterIP 10.96.0.1:80 cluster 10.244.1.1:8080\n")
	if tr.SetSlice(named("web"), "a", endpoints("10.244.1.1")) || tr.SetService(simple("web", nil)) {
		t.Error("the same again is a change")
	}
	tr.SetSlice(named("web"), "b", endpoints("10.244.1.0"))
	wantTake(t, tr, "web: ClusterIP 10.96.0.1:80 cluster 10.244.1.0:8080 10.244.1.1:8080\n")
	tr.DeleteSlice(named("web"), "a")
	wantTake(t, tr, "web: ClusterIP 10.96.0.1:80 cluster 10.244.1.0:8080\n")
	tr.DeleteService(named("web"))
	wantTake(t, tr, "web:\n")
	tr.SetService(simple("web", nil)) // its slice is still there
	wantTake(t, tr, "web: ClusterIP 10.96.0.1:80 cluster 10.244.1.0:8080\n")
	tr.DeleteService(named("web"))
	tr.DeleteSlice(named("web"), "b")
	tr.Take()
	if len(tr.entries)+len(tr.claims.owners)+len(tr.claims.of)+len(tr.clusterIPs) > 0 {
		t.Errorf("an empty tracker remembers %+v", tr)
	}
}

func TestTrackerTurnsHeadless(t *testing.T) {
	tr := NewTracker()
	tr.SetService(simple("web", nil))
	wantTake(t, tr, "web: ClusterIP 10.96.0.1:80 reject\n")
	tr.SetService(simple("web", func(s *Service) { s.ClusterIPs = nil }))
	wantTake(t, tr, "web:\n")
}

// TestClaims: one frontend, several Services that want it. The winner does not depend on the order of arrival, and a loser gets it when the winner goes.
func TestClaims(t *testing.T) {
	older := simple("older", func(s *Service) { s.Created = 1; s.Ports[0].NodePort = 30080 })
	younger := simple("younger", func(s *Service) {
		s.Created = 2
		s.ClusterIPs = addrs("10.96.0.2")
		s.Ports[0].NodePort = 30080
	})
	for _, order := range [][]Service{{older, younger}, {younger, older}} {
		tr := NewTracker()
		for _, s := range order {
			tr.SetService(s)
		}
		wantTake(t, tr, `
			older: ClusterIP 10.96.0.1:80 reject NodePort 30080 reject
			younger: ClusterIP 10.96.0.2:80 reject (NodePort NodePort 30080)
		`)
		tr.DeleteService(named("older"))
		wantTake(t, tr, `
			older:
			younger: ClusterIP 10.96.0.2:80 reject NodePort 30080 reject
		`)
		tr.SetService(older) // comes back, and takes it from the younger
		wantTake(t, tr, `
			older: ClusterIP 10.96.0.1:80 reject NodePort 30080 reject
			younger: ClusterIP 10.96.0.2:80 reject (NodePort NodePort 30080)
		`)
	}
}

// TestClusterIPReused: the new Service is seen before the deletion of the old one.
func TestClusterIPReused(t *testing.T) {
	tr := NewTracker()
	tr.SetService(simple("old", func(s *Service) { s.Created = 1 }))
	tr.Take()
	tr.SetService(simple("new", func(s *Service) { s.Created = 2 }))
	wantTake(t, tr, "new: (ClusterIP ClusterIP 10.96.0.1:80)\n")
	tr.DeleteService(named("old"))
	wantTake(t, tr, "new: ClusterIP 10.96.0.1:80 reject\nold:\n")
}

// TestClusterIPBeatsExternalIP: whoever claims an external address cannot take over another's ClusterIP, also one that is made later and is younger.
func TestClusterIPBeatsExternalIP(t *testing.T) {
	tr := NewTracker()
	tr.SetNode(Node{ExternalIPs: []netip.Prefix{prefix("10.0.0.0/8")}})
	tr.SetService(simple("thief", func(s *Service) { s.ExternalIPs = addrs("10.96.0.7") }))
	wantTake(t, tr, "thief: ClusterIP 10.96.0.1:80 reject ExternalIP 10.96.0.7:80 reject\n")
	tr.SetService(simple("victim", func(s *Service) { s.Created, s.ClusterIPs = 9, addrs("10.96.0.7") }))
	wantTake(t, tr, `
		thief: ClusterIP 10.96.0.1:80 reject (spec.externalIPs 10.96.0.7)
		victim: ClusterIP 10.96.0.7:80 reject
	`)
	tr.DeleteService(named("victim"))
	wantTake(t, tr, `
		thief: ClusterIP 10.96.0.1:80 reject ExternalIP 10.96.0.7:80 reject
		victim:
	`)
}

// TestFaults: what is wrong is left out, named, and nothing else is.
func TestFaults(t *testing.T) {
	node := Node{
		Addrs: addrs("192.168.0.1"), ExternalIPs: []netip.Prefix{prefix("0.0.0.0/0")},
		ServiceCIDRs: []netip.Prefix{prefix("10.96.0.0/16")}, PodCIDRs: []netip.Prefix{prefix("10.244.0.0/16")},
	}
	for _, c := range []struct {
		name   string
		node   Node
		change func(*Service)
		slice  Slice
		want   string
	}{
		{"external IP is the node's", node, func(s *Service) { s.ExternalIPs = addrs("192.168.0.1") }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.externalIPs 192.168.0.1)\n"},
		{"external IP is for ClusterIPs", node, func(s *Service) { s.ExternalIPs = addrs("10.96.3.3") }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.externalIPs 10.96.3.3)\n"},
		{"external IP is for pods", node, func(s *Service) { s.ExternalIPs = addrs("10.244.3.3") }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.externalIPs 10.244.3.3)\n"},
		{"external IPs are off", Node{}, func(s *Service) { s.ExternalIPs = addrs("203.0.113.1") }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.externalIPs 203.0.113.1)\n"},
		{"one external IP of two", node, func(s *Service) { s.ExternalIPs = addrs("127.0.0.1", "203.0.113.1") }, Slice{},
			"web: ClusterIP 10.96.0.1:80 reject ExternalIP 203.0.113.1:80 reject (spec.externalIPs 127.0.0.1)\n"},
		{"load balancer address is a ClusterIP", node, func(s *Service) { s.LoadBalancerIPs = addrs("10.96.0.9") }, Slice{},
			"web: ClusterIP 10.96.0.1:80 reject (status.loadBalancer.ingress.ip 10.96.0.9)\n"},
		{"load balancer address is the node's", node, func(s *Service) { s.LoadBalancerIPs = addrs("192.168.0.1") }, Slice{}, // k3s' service load balancer
			"web: ClusterIP 10.96.0.1:80 reject LoadBalancerIP 192.168.0.1:80 reject\n"},
		{"endpoints nobody can reach", node, nil, endpoints("127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "10.244.1.1"),
			"web: ClusterIP 10.96.0.1:80 cluster 10.244.1.1:8080 (endpoints.addresses 127.0.0.1) (endpoints.addresses 169.254.169.254) " +
				"(endpoints.addresses 224.0.0.1) (endpoints.addresses 0.0.0.0) (endpoints.addresses 255.255.255.255)\n"},
		{"protocol", node, func(s *Service) { s.Ports = append(s.Ports, Port{"x", 47, 1, 0}) }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.ports.protocol protocol 47)\n"},
		{"port 0", node, func(s *Service) { s.Ports = append(s.Ports, Port{"x", TCP, 0, 0}) }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.ports.port 0)\n"},
		{"port twice", node, func(s *Service) { s.Ports = append(s.Ports, Port{"x", TCP, 80, 0}) }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject (spec.ports x 80/TCP)\n"},
		{"node port twice", node, func(s *Service) {
			s.Ports = []Port{{"a", TCP, 80, 30080}, {"b", TCP, 81, 30080}, {"c", UDP, 80, 30080}}
		}, Slice{},
			"web: ClusterIP 10.96.0.1:80 reject NodePort 30080 reject ClusterIP 10.96.0.1:81 reject ClusterIP 10.96.0.1:80 reject NodePort 30080 reject (spec.ports.nodePort 30080)\n"},
		{"number twice, other protocol", node, func(s *Service) { s.Ports = append(s.Ports, Port{"x", UDP, 80, 0}) }, Slice{}, "web: ClusterIP 10.96.0.1:80 reject ClusterIP 10.96.0.1:80 reject\n"},
		{"ClusterIP in loopback", node, func(s *Service) { s.ClusterIPs = addrs("127.0.0.1") }, Slice{}, "web: (spec.clusterIPs 127.0.0.1)\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := NewTracker()
			tr.SetNode(c.node)
			tr.SetService(simple("web", c.change))
			tr.SetSlice(named("web"), "", c.slice)
			wantTake(t, tr, c.want)
		})
	}
}

// TestTakeIsProportional: a change of one Service plans that one, among many.
func TestTakeIsProportional(t *testing.T) {
	tr := NewTracker()
	for i := range 1000 {
		tr.SetService(simple(fmt.Sprint("s", i), func(s *Service) { s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})} }))
	}
	if n := len(tr.Take()); n != 1000 {
		t.Fatalf("planned %d", n)
	}
	tr.SetSlice(named("s7"), "", endpoints("10.244.1.1"))
	wantTake(t, tr, "s7: ClusterIP 10.96.0.7:80 cluster 10.244.1.1:8080\n")
	tr.SetNode(Node{Zone: "z"})
	if n := len(tr.Take()); n != 1000 {
		t.Errorf("after a change of the node: planned %d", n)
	}
}
