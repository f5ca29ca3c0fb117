package service

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestOrder: what is remembered of many endpoints is what sorting all of them gives, after any changes of slices.
func TestOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 4))
		node := Node{Name: "here"}
		have := map[string]*held{}
		kept := map[orderOf]*order{}
		for step := range 30 {
			name := fmt.Sprint(r.IntN(5))
			if old := have[name]; old != nil {
				old.gone = true
				delete(have, name)
			}
			if r.IntN(3) > 0 {
				have[name] = hold(randomSlice(r))
			}
			var all []*held
			for _, name := range slices.Sorted(maps.Keys(have)) {
				all = append(all, have[name])
			}
			for _, port := range []Port{{Name: "a", Protocol: TCP}, {Name: "b", Protocol: UDP}} {
				for _, family := range Families() {
					var wantFaults, gotFaults faults
					want := showTargets(endpointSlices{slices: all}.targets(&wantFaults, node, port, family))
					got := showTargets(endpointSlices{slices: all, orders: kept}.targets(&gotFaults, node, port, family))
					if want != got || !slices.Equal(wantFaults.list(), gotFaults.list()) {
						t.Fatalf("seed %d, step %d, %s %s: got\n%s%v\nwant\n%s%v", seed, step, port.Name, family, got, gotFaults.list(), want, wantFaults.list())
					}
				}
			}
		}
	}
}

func randomSlice(r *rand.Rand) Slice {
	s := Slice{Ports: []EndpointPort{{Name: "a", Protocol: TCP, Port: 80}}}
	if r.IntN(2) == 0 {
		s.Ports = append(s.Ports, EndpointPort{Name: "b", Protocol: UDP, Port: uint16(53 + r.IntN(2))}, EndpointPort{Name: "a", Protocol: TCP, Port: 81})
	}
	for range r.IntN(8) {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(6))})
		switch r.IntN(6) {
		case 0:
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case 1:
			addr = netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(4))})
		}
		s.Endpoints = append(s.Endpoints, Endpoint{
			Addr: addr, Node: []string{"", "here", "there"}[r.IntN(3)], ForZones: MakeNames([]string{"", "x", "y"}[r.IntN(3)]),
			NotReady: r.IntN(3) == 0, NotServing: r.IntN(3) == 0, Terminating: r.IntN(3) == 0,
		})
	}
	return s
}

// showTargets leaves out which slice an endpoint is from.
func showTargets(list []target) string {
	s := ""
	for _, t := range list {
		s += fmt.Sprintln(t.addr, t.local, t.NotReady, t.NotServing, t.Terminating, t.ForNodes, t.ForZones)
	}
	return s
}

// TestManyEndpoints: a Service whose order is remembered follows its slices, its ports and the node.
func TestManyEndpoints(t *testing.T) {
	tr := NewTracker()
	tr.SetNode(Node{Name: "a"})
	s := simple("s", func(*Service) {})
	tr.SetService(s)
	for i := range 3 {
		slice := Slice{Ports: []EndpointPort{{Protocol: TCP, Port: 8080}, {Name: "other", Protocol: TCP, Port: 9090}}}
		for j := range remembered {
			slice.Endpoints = append(slice.Endpoints, Endpoint{Addr: netip.AddrFrom4([4]byte{10, byte(i), byte(j >> 8), byte(j)}), Node: []string{"a", "b"}[j%2]})
		}
		tr.SetSlice(s.Name, fmt.Sprint(i), slice)
	}
	want := func(n, local int, port uint16) {
		t.Helper()
		p := tr.Take()[0].Program.Ports[0]
		here := 0
		for _, b := range p.Cluster {
			if b.Local {
				here++
			}
			if b.Addr.Port() != port {
				t.Fatalf("endpoint %s, want port %d", b.Addr, port)
			}
		}
		if len(p.Cluster) != n || here != local {
			t.Errorf("%d endpoints, %d local; want %d, %d", len(p.Cluster), here, n, local)
		}
	}
	want(3*remembered, 3*remembered/2, 8080)
	tr.DeleteSlice(s.Name, "1")
	want(2*remembered, remembered, 8080)
	one := Slice{Ports: []EndpointPort{{Protocol: TCP, Port: 8080}}, Endpoints: []Endpoint{{Addr: netip.MustParseAddr("10.9.9.9"), Node: "a"}}}
	tr.SetSlice(s.Name, "1", one)
	want(2*remembered+1, remembered+1, 8080)
	tr.SetNode(Node{Name: "c"})
	want(2*remembered+1, 0, 8080)
	renamed := s
	renamed.Ports = []Port{{Name: "other", Protocol: TCP, Port: 80}}
	tr.SetService(renamed)
	want(2*remembered, 0, 9090)
	tr.DeleteSlice(s.Name, "0")
	tr.SetSlice(s.Name, "2", one)
	tr.SetService(s)
	want(1, 0, 8080) // an address in two slices counts once
}

// TestManyFaults: thousands of wrong endpoints take neither long nor much room.
func TestManyFaults(t *testing.T) {
	tr := NewTracker()
	tr.SetService(simple("s", func(*Service) {}))
	slice := Slice{Ports: []EndpointPort{{Protocol: TCP, Port: 8080}}}
	for i := range 100_000 {
		slice.Endpoints = append(slice.Endpoints, Endpoint{Addr: netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	tr.SetSlice(named("s"), "", slice)
	f := tr.Take()[0].Faults
	if len(f) != mostFaults+1 || f[mostFaults].Value != fmt.Sprint(100_000-mostFaults) {
		t.Errorf("%d faults, the last %v", len(f), f[len(f)-1])
	}
}
