package nft

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// endpoints returns endpoints 10.244.0.n:80.
func endpoints(n ...int) []service.Backend {
	var all []service.Backend
	for _, i := range n {
		all = append(all, service.Backend{Addr: netip.AddrPortFrom(addr4(10<<24|244<<16+uint32(i)), 80)})
	}
	return all
}

// program is a Service at 10.96.0.n:80 with these endpoints.
func program(n int, to ...int) service.Program {
	p := service.PortProgram{
		Protocol: service.TCP, Family: service.IPv4, Cluster: endpoints(to...),
		Frontends: []service.Frontend{{Kind: service.ClusterIP, Addr: addr4(10<<24 | 96<<16 + uint32(n)), Port: 80}},
	}
	return service.Program{Name: service.Name{Namespace: "ns", Name: fmt.Sprintf("svc%03d", n)}, Ports: []service.PortProgram{p}}
}

func full(programs ...service.Program) service.Delta {
	return service.Delta{Full: true, Set: programs}
}

func some(programs ...service.Program) service.Delta { return service.Delta{Set: programs} }

// answers returns where packets to 10.96.0.n:80 go.
func answers(t *testing.T, k *nfnltest.Kernel, n int) string {
	t.Helper()
	v, err := walk(k, servicetest.Packet{From: netip.MustParseAddr("203.0.113.1"), To: addr4(10<<24 | 96<<16 + uint32(n)), Port: 80, Protocol: service.TCP})
	if err != nil {
		t.Fatal(err)
	}
	return v.String()
}

func TestEachChangeWritesWhatDiffers(t *testing.T) {
	s := newSubject()
	s.least = leastSize
	for _, step := range []struct {
		name   string
		d      service.Delta
		writes int
	}{
		{"first", full(program(1, 1, 2, 3), program(2, 1, 2, 3)), 44},
		{"the same", full(program(1, 1, 2, 3), program(2, 1, 2, 3)), 0},
		{"the same, not all", some(program(1, 1, 2, 3)), 0},
		{"another endpoint instead", some(program(1, 1, 2, 4)), 2},
		{"one endpoint more, and the chain for four", some(program(1, 1, 2, 3, 4)), 9},
		{"the other too", some(program(2, 1, 2, 3, 4)), 3},
		{"the last one goes", some(program(2, 1, 2, 3)), 3},
		{"the first one goes, its place is filled", some(program(1, 2, 3, 4)), 5},
		{"a Service goes", service.Delta{Delete: []service.Name{program(2).Name}}, 5},
		{"it was gone already", service.Delta{Delete: []service.Name{program(2).Name}}, 0},
		{"it comes back", some(program(2, 1, 2, 3)), 5},
	} {
		r := apply(t, s.Dataplane, step.d)
		if r.Writes != step.writes {
			t.Errorf("%s: %d writes, want %d", step.name, r.Writes, step.writes)
		}
	}
	if got, want := answers(t, s.kernel, 1), "10.244.0.2:80 10.244.0.3:80 10.244.0.4:80"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRestart: a new process finds nothing to do, and endpoints keep their place when it then changes something.
func TestRestart(t *testing.T) {
	s := newSubject()
	apply(t, s.Dataplane, full(program(1, 1, 2, 3, 4, 5), program(2, 7), program(3)))
	apply(t, s.Dataplane, some(program(1, 2, 3, 4, 5, 6)))
	s.kernel.ResetCounts()
	for range 2 {
		d := New(s.kernel.Open(), Options{})
		seen, err := d.Observe(t.Context())
		if want := (service.Observed{Frontends: 3, Backends: 6}); err != nil || seen != want {
			t.Errorf("Observe = %+v, %v, want %+v", seen, err, want)
		}
		if r := apply(t, d, full(program(1, 2, 3, 4, 5, 6), program(2, 7), program(3))); r.Writes != 0 {
			t.Errorf("a restart wrote %d objects", r.Writes)
		}
	}
	d := New(s.kernel.Open(), Options{})
	if r := apply(t, d, full(program(1, 2, 3, 4, 5, 6), program(2, 8))); r.Writes != 5 { // an endpoint replaced; a frontend, a ClusterIP and the way to the chain for no endpoints gone
		t.Errorf("a restart with two changes wrote %d objects", r.Writes)
	}
}

// TestNotAllIsKnown: an Apply that is not Full leaves what it was not told of.
func TestNotAllIsKnown(t *testing.T) {
	s := newSubject()
	apply(t, s.Dataplane, full(program(1, 1), program(2, 2)))
	d := New(s.kernel.Open(), Options{})
	apply(t, d, some(program(1, 3)))
	if got := answers(t, s.kernel, 1) + " " + answers(t, s.kernel, 2); got != "10.244.0.3:80 10.244.0.2:80" {
		t.Error(got)
	}
}

// ours is our table for IPv4.
var ours = nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"}

// harms are what somebody may do to it.
var harms = map[string]func(tx *nfnl.Transaction){
	"table gone":    func(tx *nfnl.Transaction) { tx.DeleteTable(ours) },
	"table emptied": func(tx *nfnl.Transaction) { tx.DeleteTable(ours); tx.AddTable(ours) },
	"frontends gone": func(tx *nfnl.Transaction) {
		tx.FlushSet(ours, "frontends-1024")
	},
	"endpoints gone": func(tx *nfnl.Transaction) { tx.FlushSet(ours, "endpoints-1024") },
	"active gone":    func(tx *nfnl.Transaction) { tx.FlushSet(ours, "active-1024") },
	"classes gone":   func(tx *nfnl.Transaction) { tx.FlushSet(ours, "classes") },
	"rules gone":     func(tx *nfnl.Transaction) { tx.FlushChain(ours, "services") },
	"class's rules gone": func(tx *nfnl.Transaction) {
		tx.FlushChain(ours, "cluster1")
	},
	"class's chain gone": func(tx *nfnl.Transaction) {
		tx.FlushSet(ours, "classes")
		tx.DeleteChain(ours, "cluster1")
	},
	"foreign rule": func(tx *nfnl.Transaction) {
		tx.AddRule(ours, nfnl.Rule{Chain: "prerouting", Comment: "foreign"})
	},
	"foreign endpoint": func(tx *nfnl.Transaction) {
		var k, v value
		tx.AddElement(ours, "endpoints-1024", nfnl.Element{Key: k.word(77).word(0).bytes(), Data: v.endpoint(endpoints(9)[0].Addr).bytes()})
	},
	"changed endpoint": func(tx *nfnl.Transaction) {
		var k, v value
		x := nfnl.Element{Key: k.word(1).word(0).bytes(), Data: v.endpoint(endpoints(9)[0].Addr).bytes()}
		tx.DeleteElement(ours, "endpoints-1024", x)
		tx.AddElement(ours, "endpoints-1024", x)
	},
	"foreign frontend": func(tx *nfnl.Transaction) {
		var k, v value
		x := &service.Frontend{Addr: addr4(10<<24 | 96<<16 | 99), Port: 1}
		f := families()[0]
		tx.AddElement(ours, "frontends-1024", nfnl.Element{Key: k.frontend(&f, service.UDP, x).bytes(), Data: v.word(0).word(1).word(1).bytes()})
	},
	"class that leads elsewhere": func(tx *nfnl.Transaction) {
		var k value
		x := nfnl.Element{Key: k.word(1).bytes(), Verdict: nfnl.Verdict{Kind: nfnl.Goto, Chain: "firewall"}}
		tx.DeleteElement(ours, "classes", x)
		tx.AddElement(ours, "classes", x)
	},
	"foreign base chain": func(tx *nfnl.Transaction) {
		tx.AddChain(ours, nfnl.Chain{Name: "extra", Type: "filter", Hook: nfnl.Forward, Drop: true})
	},
	"policy": func(tx *nfnl.Transaction) {
		tx.AddChain(ours, nfnl.Chain{Name: "prerouting", Type: "nat", Hook: nfnl.Prerouting, Priority: -100, Drop: true})
	},
}

// TestForeignChanges: whatever somebody does to the tables is found and undone.
func TestForeignChanges(t *testing.T) {
	want := []service.Program{program(1, 1, 2), program(2, 3)}
	want[0].Ports[0].Affinity = time.Hour
	for name, harm := range harms {
		t.Run(name, func(t *testing.T) {
			s := newSubject()
			s.least = leastSize
			if _, err := s.Observe(t.Context()); err != nil {
				t.Fatal(err)
			}
			apply(t, s.Dataplane, full(want...))
			if seen, err := s.Observe(t.Context()); err != nil || seen.Foreign {
				t.Fatalf("without harm: %+v, %v", seen, err)
			}
			apply(t, s.Dataplane, full(want...))

			var tx nfnl.Transaction
			harm(&tx)
			if err := s.kernel.Open().Commit(t.Context(), &tx); err != nil {
				t.Fatal(err)
			}
			if seen, err := s.Observe(t.Context()); err != nil || !seen.Foreign {
				t.Errorf("not noticed: %+v, %v", seen, err)
			}
			r := apply(t, s.Dataplane, full(want...))
			if r.Writes == 0 {
				t.Error("nothing written")
			}
			if got := answers(t, s.kernel, 1) + " | " + answers(t, s.kernel, 2) + " | " + answers(t, s.kernel, 99); got != "10.244.0.1:80 10.244.0.2:80 affinity 1h0m0s | 10.244.0.3:80 | pass" {
				t.Error(got)
			}
			if seen, err := s.Observe(t.Context()); err != nil || seen.Foreign {
				t.Errorf("afterwards: %+v, %v", seen, err)
			}
			if r := apply(t, s.Dataplane, full(want...)); r.Writes > 0 {
				t.Errorf("and again %d writes", r.Writes)
			}
		})
	}
}

// TestCleanup: nothing is left, and nothing of others goes.
func TestCleanup(t *testing.T) {
	s := newSubject()
	other := New(s.kernel.Open(), Options{Name: "other"})
	apply(t, s.Dataplane, full(program(1, 1)))
	apply(t, other, full(program(2, 2)))
	for range 2 {
		if err := s.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := answers(t, s.kernel, 1) + " " + answers(t, s.kernel, 2); got != "pass 10.244.0.2:80" {
		t.Error(got)
	}
	apply(t, s.Dataplane, full(program(1, 1)))
	if got := answers(t, s.kernel, 1); got != "10.244.0.1:80" {
		t.Error(got)
	}
	apply(t, s.Dataplane, full())
	if _, err := s.Observe(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply(t, s.Dataplane, full()) // an empty table goes, too
	if seen, err := s.kernel.Open().Describe(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"}); err != nil || seen.Exists {
		t.Errorf("the table is left: %+v %v", seen, err)
	}
}

// TestIdleChainsGo: chains of classes that nobody uses go after some time, so that they do not pile up.
func TestIdleChainsGo(t *testing.T) {
	s := newSubject()
	for i := range 200 {
		var to []int
		for j := range i%100 + 1 {
			to = append(to, j+1)
		}
		apply(t, s.Dataplane, some(program(1, to...)))
	}
	seen, err := s.kernel.Open().Describe(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"})
	if err != nil || len(seen.Chains) > 5+idleApplies+5 {
		t.Errorf("%d chains: %v", len(seen.Chains), err)
	}
	d := New(s.kernel.Open(), Options{}) // finds chains that it does not know
	for i := range 10 {
		apply(t, d, full(program(1, i%2+1)))
	}
	seen, err = s.kernel.Open().Describe(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"})
	if err != nil || len(seen.Chains) > 7 {
		t.Errorf("after a restart %d chains: %v", len(seen.Chains), err)
	}
}

// TestAssign: indices are dense, and an endpoint that stays keeps its own where that is possible.
func TestAssign(t *testing.T) {
	for _, step := range []struct {
		old   []int
		index []uint32
		now   []int
		want  []uint32
	}{
		{nil, nil, []int{1, 2, 3}, []uint32{0, 1, 2}},
		{[]int{1, 2, 3}, []uint32{0, 1, 2}, []int{1, 2, 3}, []uint32{0, 1, 2}},
		{[]int{1, 2, 3}, []uint32{0, 1, 2}, []int{1, 3}, []uint32{0, 1}},
		{[]int{1, 2, 3}, []uint32{2, 0, 1}, []int{1, 3}, []uint32{0, 1}},
		{[]int{1, 2, 3}, []uint32{0, 1, 2}, []int{2, 3}, []uint32{1, 0}},
		{[]int{1, 2, 3}, []uint32{0, 1, 2}, []int{0, 1, 3, 4}, []uint32{1, 0, 2, 3}},
		{[]int{1, 2, 3}, []uint32{0, 1, 2}, nil, []uint32{}},
		{[]int{1, 2}, []uint32{1, 0}, []int{3, 4}, []uint32{0, 1}},
	} {
		got := assign(endpoints(step.old...), step.index, endpoints(step.now...))
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%v -> %v: %s", step.old, step.now, diff)
		}
	}
}

// TestChainOfOldPods: a chain that nobody used while the way to tell pods changed is written anew before it is used again.
func TestChainOfOldPods(t *testing.T) {
	s := newSubject()
	s.least = leastSize
	pods := func(cidr string) service.Node {
		return service.Node{LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix(cidr)}}}
	}
	p := program(1, 1)
	p.Ports[0].Frontends[0].Host.Masquerade, p.Ports[0].Frontends[0].Remote.Masquerade = true, true
	for i, step := range []struct {
		node service.Node
		set  []service.Program
	}{{pods("203.0.113.0/24"), []service.Program{p}}, {pods("203.0.113.0/24"), nil}, {pods("10.244.0.0/24"), nil}, {pods("10.244.0.0/24"), []service.Program{p}}} {
		apply(t, s.Dataplane, service.Delta{Node: step.node, Full: true, Set: step.set})
		if want := []string{"10.244.0.1:80", "pass", "pass", "10.244.0.1:80(masquerade)"}[i]; answers(t, s.kernel, 1) != want {
			t.Errorf("step %d: got %s, want %s", i, answers(t, s.kernel, 1), want)
		}
	}
}

// TestRangesForNobody: a program may have source ranges while another Service has the frontend they are for.
func TestRangesForNobody(t *testing.T) {
	s := newSubject()
	p := program(1, 1)
	p.Ports[0].SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	apply(t, s.Dataplane, full(p))
	q := program(1, 1)
	q.Ports[0].SourceRanges, q.Ports[0].Frontends[0].Restricted = p.Ports[0].SourceRanges, true
	for _, one := range []struct {
		p    service.Program
		want string
	}{{q, "DROP"}, {p, "10.244.0.1:80"}, {q, "DROP"}} {
		apply(t, s.Dataplane, some(one.p))
		if got := answers(t, s.kernel, 1); got != one.want {
			t.Errorf("got %s, want %s", got, one.want)
		}
	}
}
