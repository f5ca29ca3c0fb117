package iptables_test

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/wire"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
	"github.com/podnet/podnet/service/servicetest"
)

// many makes programs of Services with a ClusterIP each, spread over 10.96.0.0/12 as an API server spreads them, a NodePort, and endpoints of which a third is on this node.
func many(services, endpoints int) []service.Program {
	programs := make([]service.Program, services)
	forward := service.Route{Action: service.ToCluster}
	for i := range programs {
		a := uint32(10<<24|96<<16) + uint32((i*2654435761)%(1<<20))
		port := service.PortProgram{Port: "http", Protocol: service.TCP, Family: service.IPv4}
		masq := service.Route{Action: service.ToCluster, Masquerade: true}
		port.Frontends = []service.Frontend{{Kind: service.ClusterIP, Addr: netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), Port: 80, Pod: forward, Host: masq, Remote: masq}}
		if i < 2000 { // there are not more node ports
			port.Frontends = append(port.Frontends, service.Frontend{Kind: service.NodePort, Port: uint16(30000 + i), Pod: masq, Host: masq, Remote: masq})
		}
		for j := range endpoints {
			n := i*endpoints + j
			port.Cluster = append(port.Cluster, service.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)}), 8080), Local: i%3 == 0})
		}
		programs[i] = service.Program{Name: service.Name{Namespace: "ns", Name: fmt.Sprintf("s%05d", i)}, Ports: []service.PortProgram{port}}
	}
	return programs
}

var scaleNode = service.Node{Name: "n", LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}}

// depth is how many rules the first packet of a connection to an address is compared with.
func depth(t testing.TB, k *iptablestest.Kernel, to netip.Addr) int {
	t.Helper()
	n, err := k.Steps(servicetest.Packet{From: netip.MustParseAddr("10.244.1.5"), To: to, Port: 80, Protocol: service.TCP, In: "cni0"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDispatch: finding a Service takes few rules, however many there are, and a change writes few chains. kube-proxy compares one rule per Service and port.
func TestDispatch(t *testing.T) {
	for _, tt := range []struct{ services, rules, chains int }{{100, 60, 6}, {1000, 80, 6}, {10000, 100, 6}} {
		k := &iptablestest.Kernel{}
		k.SetLocal(scaleMachine().Local...)
		d := iptables.New(k, iptables.Options{})
		all := many(tt.services, 1)
		apply(t, d, service.Delta{Node: scaleNode, Full: true, Set: all})
		most := 0
		for i := 0; i < len(all); i += len(all) / 50 {
			most = max(most, depth(t, k, all[i].Ports[0].Frontends[0].Addr))
		}
		if most > tt.rules {
			t.Errorf("%d Services: a packet is compared with %d rules, want at most %d", tt.services, most, tt.rules)
		}
		last := all[len(all)-1]
		gone := apply(t, d, service.Delta{Node: scaleNode, Delete: []service.Name{last.Name}}).Writes
		back := apply(t, d, service.Delta{Node: scaleNode, Set: []service.Program{last}}).Writes
		agree(t, k.Lookup, servicetest.NewPrograms(scaleMachine(), all), all, func(got, want servicetest.Verdict) bool { return got.String() == want.String() })
		if gone > tt.chains || back > tt.chains {
			t.Errorf("%d Services: %d chains are written when one goes, %d when it comes, want at most %d", tt.services, gone, back, tt.chains)
		}
		t.Logf("%d Services: %d rules, %d and %d chains", tt.services, most, gone, back)
	}
}

// agree sends packets to the frontends of some Services, and to what is beside them.
func agree(t testing.TB, lookup func(servicetest.Packet) (servicetest.Verdict, error), want *servicetest.Programs, all []service.Program, same func(got, want servicetest.Verdict) bool) {
	t.Helper()
	pod := netip.MustParseAddr("10.244.1.5")
	for i := 0; i < len(all); i += max(len(all)/20, 1) {
		port := all[i].Ports[0]
		for _, f := range port.Frontends {
			to := f.Addr
			if f.Kind == service.NodePort {
				to = scaleMachine().Local[0]
			}
			for _, p := range []servicetest.Packet{
				{From: pod, In: "cni0", To: to, Port: f.Port, Protocol: port.Protocol}, {From: port.Cluster[0].Addr.Addr(), In: "cni0", To: to, Port: f.Port, Protocol: port.Protocol},
				{From: pod, In: "cni0", To: to, Port: f.Port, Protocol: service.UDP}, {From: pod, In: "cni0", To: to, Port: f.Port + 1, Protocol: port.Protocol},
				{From: pod, In: "cni0", To: to.Next(), Port: f.Port, Protocol: port.Protocol},
			} {
				got, err := lookup(p)
				expected, _ := want.Lookup(p)
				if err != nil || !same(got, expected) {
					t.Errorf("%s: %s, %v, want %s", p, got, err, expected)
				}
			}
		}
	}
}

func scaleMachine() servicetest.Machine {
	return servicetest.Machine{Node: scaleNode, Local: []netip.Addr{netip.MustParseAddr("192.168.0.1")}}
}

// TestKernelMany: real packets find their way through the tree of addresses, ports and endpoints.
func TestKernelMany(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		w := wire.New(t)
		if err := w.SetMachine(scaleMachine()); err != nil {
			t.Fatal(err)
		}
		d := iptables.New(&iptables.Tools{Netns: w.Netns().Path(), Variant: v}, iptables.Options{})
		all := many(1000, 1)
		apply(t, d, service.Delta{Node: scaleNode, Full: true, Set: all})
		agree(t, w.Lookup, servicetest.NewPrograms(scaleMachine(), all), all, wire.Agrees)
	})
}

func apply(t testing.TB, d *iptables.Dataplane, delta service.Delta) service.Result {
	t.Helper()
	if delta.Full {
		if _, err := d.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Apply(t.Context(), delta)
	if err != nil || len(r.Failed) > 0 {
		t.Fatal(err, r.Failed)
	}
	return r
}

// TestKernelScale prints what many Services cost, with PODNET_SCALE="services endpoints", such as "5000 10".
func TestKernelScale(t *testing.T) {
	sizes := strings.Fields(os.Getenv("PODNET_SCALE"))
	if len(sizes) != 2 {
		t.Skip("PODNET_SCALE is not set")
	}
	services, err1 := strconv.Atoi(sizes[0])
	endpoints, err2 := strconv.Atoi(sizes[1])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	variants(t, func(t *testing.T, v iptables.Variant) {
		ns := rtnltest.NewNetns(t)
		d := iptables.New(&iptables.Tools{Netns: ns.Path(), Variant: v}, iptables.Options{})
		all := many(services, endpoints)
		timed := func(what string, delta service.Delta) {
			start := time.Now()
			r := apply(t, d, delta)
			t.Logf("%-28s %8.1f ms, %d writes", what, float64(time.Since(start).Microseconds())/1000, r.Writes)
		}
		timed("first sync", service.Delta{Node: scaleNode, Full: true, Set: all})
		one := all[len(all)/2]
		one.Ports = append([]service.PortProgram{}, one.Ports...)
		one.Ports[0].Cluster = one.Ports[0].Cluster[1:]
		timed("an endpoint goes", service.Delta{Node: scaleNode, Set: []service.Program{one}})
		timed("it comes back", service.Delta{Node: scaleNode, Set: all[len(all)/2 : len(all)/2+1]})
		timed("a Service goes", service.Delta{Node: scaleNode, Delete: []service.Name{all[0].Name}})
		timed("it comes back", service.Delta{Node: scaleNode, Set: all[:1]})
		d = iptables.New(&iptables.Tools{Netns: ns.Path(), Variant: v}, iptables.Options{})
		timed("restart, nothing changed", service.Delta{Node: scaleNode, Full: true, Set: all})
		start := time.Now()
		if err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%-28s %8.1f ms", "cleanup", float64(time.Since(start).Microseconds())/1000)
	})
}
