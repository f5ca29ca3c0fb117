package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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

// TestForeignChanges: whatever somebody does to the tables is found and undone.
func TestForeignChanges(t *testing.T) {
	table := nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"}
	want := []service.Program{program(1, 1, 2), program(2, 3)}
	want[0].Ports[0].Affinity = time.Hour
	for name, harm := range map[string]func(k *nfnltest.Kernel, tx *nfnl.Transaction){
		"table gone":    func(_ *nfnltest.Kernel, tx *nfnl.Transaction) { tx.DeleteTable(table) },
		"table emptied": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) { tx.DeleteTable(table); tx.AddTable(table) },
		"frontends gone": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			tx.FlushSet(table, "frontends-1024")
		},
		"endpoints gone": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) { tx.FlushSet(table, "endpoints-1024") },
		"active gone":    func(_ *nfnltest.Kernel, tx *nfnl.Transaction) { tx.FlushSet(table, "active-1024") },
		"classes gone":   func(_ *nfnltest.Kernel, tx *nfnl.Transaction) { tx.FlushSet(table, "classes") },
		"rules gone":     func(_ *nfnltest.Kernel, tx *nfnl.Transaction) { tx.FlushChain(table, "services") },
		"class's rules gone": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			tx.FlushChain(table, "cluster1")
		},
		"class's chain gone": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			tx.FlushSet(table, "classes")
			tx.DeleteChain(table, "cluster1")
		},
		"foreign rule": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			tx.AddRule(table, nfnl.Rule{Chain: "prerouting", Comment: "foreign"})
		},
		"foreign endpoint": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			var k, v value
			tx.AddElement(table, "endpoints-1024", nfnl.Element{Key: k.word(77).word(0).bytes(), Data: v.endpoint(endpoints(9)[0].Addr).bytes()})
		},
		"changed endpoint": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			var k, v value
			x := nfnl.Element{Key: k.word(1).word(0).bytes(), Data: v.endpoint(endpoints(9)[0].Addr).bytes()}
			tx.DeleteElement(table, "endpoints-1024", x)
			tx.AddElement(table, "endpoints-1024", x)
		},
		"foreign frontend": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			var k, v value
			x := &service.Frontend{Addr: addr4(10<<24 | 96<<16 | 99), Port: 1}
			f := families()[0]
			tx.AddElement(table, "frontends-1024", nfnl.Element{Key: k.frontend(&f, service.UDP, x).bytes(), Data: v.word(0).word(1).word(1).bytes()})
		},
		"class that leads elsewhere": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			var k value
			x := nfnl.Element{Key: k.word(1).bytes(), Verdict: nfnl.Verdict{Kind: nfnl.Goto, Chain: "firewall"}}
			tx.DeleteElement(table, "classes", x)
			tx.AddElement(table, "classes", x)
		},
		"foreign base chain": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			tx.AddChain(table, nfnl.Chain{Name: "extra", Type: "filter", Hook: nfnl.Forward, Drop: true})
		},
		"policy": func(_ *nfnltest.Kernel, tx *nfnl.Transaction) {
			tx.AddChain(table, nfnl.Chain{Name: "prerouting", Type: "nat", Hook: nfnl.Prerouting, Priority: -100, Drop: true})
		},
	} {
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
			harm(s.kernel, &tx)
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

// TestRefusedService: what the kernel refuses is left as it was, everything else is written.
func TestRefusedService(t *testing.T) {
	for _, observed := range []bool{false, true} {
		s := newSubject()
		apply(t, s.Dataplane, full(program(1, 1), program(2, 1), program(3, 1)))
		bad := endpoints(66)[0].Addr
		s.kernel.Refuse = func(set string, x nfnl.Element) syscall.Errno {
			f := families()[0]
			if strings.HasPrefix(set, "endpoints") && f.readEndpoint(x.Data) == bad {
				return unix.ENOMEM
			}
			return 0
		}
		d := full(program(1, 2), program(2, 2, 66), program(3, 3))
		if observed {
			if _, err := s.Observe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r, err := s.Apply(t.Context(), d)
		if err != nil || len(r.Failed) != 1 || !errors.Is(r.Failed[program(2).Name], unix.ENOMEM) {
			t.Fatalf("%v %+v", err, r)
		}
		if got := answers(t, s.kernel, 1) + " " + answers(t, s.kernel, 2) + " " + answers(t, s.kernel, 3); got != "10.244.0.2:80 10.244.0.1:80 10.244.0.3:80" {
			t.Errorf("observed %v: %s", observed, got)
		}
		s.kernel.Refuse = nil
		if r := apply(t, s.Dataplane, some(program(2, 2, 66))); r.Writes == 0 {
			t.Error("the second try wrote nothing")
		}
		if got := answers(t, s.kernel, 2); got != "10.244.0.2:80 10.244.0.66:80" {
			t.Error(got)
		}
	}
}

// TestTwoServicesWantOnePlace: one has it, the other fails, and nobody else is concerned.
func TestTwoServicesWantOnePlace(t *testing.T) {
	for _, observed := range []bool{false, true} {
		s := newSubject()
		first, second := program(1, 1), program(2, 2)
		second.Ports[0].Frontends = slices.Clone(first.Ports[0].Frontends)
		apply(t, s.Dataplane, full(first))
		if observed {
			if _, err := s.Observe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r, err := s.Apply(t.Context(), full(first, second, program(3, 3)))
		if err != nil || len(r.Failed) != 1 || r.Failed[second.Name] == nil {
			t.Errorf("%v %+v", err, r)
		}
		if got := answers(t, s.kernel, 1) + " " + answers(t, s.kernel, 3); got != "10.244.0.1:80 10.244.0.3:80" {
			t.Error(got)
		}
		r, err = s.Apply(t.Context(), full(second, program(3, 3)))
		if err != nil || r.Failed != nil || answers(t, s.kernel, 1) != "10.244.0.2:80" {
			t.Errorf("%v %+v %s", err, r, answers(t, s.kernel, 1))
		}
	}
}

// TestTooLarge: what does not fit into one transaction is written in several.
func TestTooLarge(t *testing.T) {
	s := newSubject()
	var all []service.Program
	for i := range 60 {
		all = append(all, program(i+1, i+1, i+2, i+3))
	}
	s.kernel.Most = 12_000 // the layout alone takes 9,000
	for _, d := range []service.Delta{full(all...), full(all...), full(all[:7]...)} {
		apply(t, s.Dataplane, d)
		for i := range d.Set {
			if got, want := answers(t, s.kernel, i+1), fmt.Sprintf("10.244.0.%d:80 10.244.0.%d:80 10.244.0.%d:80", i+1, i+2, i+3); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	if got := answers(t, s.kernel, 8); got != "pass" {
		t.Error(got)
	}
	s.kernel.Most = 500
	d := New(s.kernel.Open(), Options{Name: "other"})
	if _, err := d.Apply(t.Context(), full(all...)); !errors.Is(err, nfnl.ErrTooLarge) {
		t.Errorf("no place for anything: %v", err)
	}
}

// TestFailEach: whatever call fails, with an answer or without one, the Reconciler gets there.
func TestFailEach(t *testing.T) {
	states := []service.Config{config(1, 2, 3), config(1, 4), config(), config(5, 6)}
	for _, lost := range []bool{false, true} {
		for fail := 0; ; fail++ {
			s := newSubject()
			conn := &lossy{Conn: s.kernel.Open(), lost: lost}
			s.Dataplane = New(conn, Options{})
			r := service.New(s, service.Options{})
			failed := false
			conn.fail = func(n int) bool {
				failed = failed || n == fail
				return n == fail
			}
			for _, c := range states {
				for try := 0; ; try++ {
					_, err := r.Apply(t.Context(), c)
					if err == nil {
						break
					}
					if try > 1 {
						t.Fatalf("call %d: %v", fail, err)
					}
				}
				if rep, err := r.Sync(t.Context()); err != nil || rep.Writes > 0 {
					t.Errorf("call %d: the second sync: %+v %v", fail, rep, err)
				}
			}
			other := newSubject()
			if _, err := service.New(other, service.Options{}).Apply(t.Context(), states[len(states)-1]); err != nil {
				t.Fatal(err)
			}
			for n := range 8 {
				if got, want := answers(t, s.kernel, n), answers(t, other.kernel, n); got != want {
					t.Errorf("call %d, Service %d: got %s, want %s", fail, n, got, want)
				}
			}
			if !failed {
				break
			}
		}
	}
}

// lossy fails a call, or does it and loses the answer.
type lossy struct {
	*nfnltest.Conn
	fail  func(n int) bool
	lost  bool
	calls int
}

func (l *lossy) Commit(ctx context.Context, tx *nfnl.Transaction) error {
	l.calls++
	if l.fail(l.calls - 1) {
		if l.lost {
			_ = l.Conn.Commit(ctx, tx)
		}
		return unix.ENOBUFS
	}
	return l.Conn.Commit(ctx, tx)
}

func (l *lossy) Describe(ctx context.Context, t nfnl.Table) (nfnl.Description, error) {
	l.calls++
	if l.fail(l.calls - 1) {
		return nfnl.Description{}, unix.EINTR
	}
	return l.Conn.Describe(ctx, t)
}

func (l *lossy) Elements(ctx context.Context, t nfnl.Table, set string, reset func(), f func(nfnl.Element)) error {
	l.calls++
	if l.fail(l.calls - 1) {
		return unix.EINTR
	}
	return l.Conn.Elements(ctx, t, set, reset, f)
}

// config has Services at 10.96.0.n.
func config(n ...int) service.Config {
	c := service.Config{Endpoints: map[service.Name][]service.Slice{}}
	for _, i := range n {
		p := program(i, i, i+1)
		c.Services = append(c.Services, service.Service{Name: p.Name, ClusterIPs: []netip.Addr{p.Ports[0].Frontends[0].Addr}, Ports: []service.Port{{Protocol: service.TCP, Port: 80}}})
		slice := service.Slice{Ports: []service.EndpointPort{{Protocol: service.TCP, Port: 80}}}
		for _, b := range p.Ports[0].Cluster {
			slice.Endpoints = append(slice.Endpoints, service.Endpoint{Addr: b.Addr.Addr()})
		}
		c.Endpoints[p.Name] = []service.Slice{slice}
	}
	return c
}

// TestKernelLacks: one error that says what is missing and what to do.
func TestKernelLacks(t *testing.T) {
	for lack, want := range map[string][]string{
		"nf_tables": {"module nf_tables", "CONFIG_NF_TABLES"},
		"fib":       {"nft_fib_ipv4", "CONFIG_NFT_FIB_IPV4"},
		"numgen":    {"nft_numgen", "CONFIG_NFT_NUMGEN"},
		"masq":      {"nft_masq", "CONFIG_NFT_MASQ"},
		"nat":       {"nft_chain_nat", "CONFIG_NFT_NAT"},
		"reject":    {"nft_reject_ipv4", "CONFIG_NFT_REJECT_IPV4"},
		"ct":        {"nft_ct", "CONFIG_NFT_CT"},
	} {
		s := newSubject()
		s.kernel.Lacks = []string{lack}
		p := program(1, 1)
		p.Ports[0].Frontends = append(p.Ports[0].Frontends, service.Frontend{Kind: service.NodePort, Port: 30000}) // needs fib
		_, err := s.Apply(t.Context(), full(p))
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", lack, err)
			continue
		}
		for _, w := range append(want, "another mode") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", lack, err, w)
			}
		}
	}
}

// TestHostile: what cannot be written is one Service's failure, and never reaches the kernel.
func TestHostile(t *testing.T) {
	six := netip.MustParseAddr("fd00::1")
	for name, break_ := range map[string]func(p *service.PortProgram){
		"family":                    func(p *service.PortProgram) { p.Family = 5 },
		"protocol":                  func(p *service.PortProgram) { p.Protocol = 1 },
		"no address":                func(p *service.PortProgram) { p.Frontends[0].Addr = netip.Addr{} },
		"address of the other":      func(p *service.PortProgram) { p.Frontends[0].Addr = six },
		"no port":                   func(p *service.PortProgram) { p.Frontends[0].Port = 0 },
		"endpoint of the other":     func(p *service.PortProgram) { p.Cluster[0].Addr = netip.AddrPortFrom(six, 1) },
		"IPv4 in IPv6":              func(p *service.PortProgram) { p.Cluster[0].Addr = netip.MustParseAddrPort("[::ffff:10.0.0.1]:80") },
		"endpoint without port":     func(p *service.PortProgram) { p.Cluster[0].Addr = netip.AddrPortFrom(p.Cluster[0].Addr.Addr(), 0) },
		"endpoint twice":            func(p *service.PortProgram) { p.Cluster[1] = p.Cluster[0] },
		"not sorted":                func(p *service.PortProgram) { slices.Reverse(p.Cluster) },
		"range of the other family": func(p *service.PortProgram) { p.SourceRanges = []netip.Prefix{netip.PrefixFrom(six, 64)} },
		"no range":                  func(p *service.PortProgram) { p.SourceRanges = []netip.Prefix{{}} },
		"affinity":                  func(p *service.PortProgram) { p.Affinity = -1 },
		"affinity of half a second": func(p *service.PortProgram) { p.Affinity = 500 * time.Millisecond },
	} {
		s := newSubject()
		bad := program(2, 3, 4)
		break_(&bad.Ports[0])
		r, err := s.Apply(t.Context(), full(program(1, 1), bad))
		if err != nil || len(r.Failed) != 1 || r.Failed[bad.Name] == nil {
			t.Errorf("%s: %v %+v", name, err, r)
		}
		if got := answers(t, s.kernel, 1); got != "10.244.0.1:80" {
			t.Errorf("%s: %s", name, got)
		}
	}
	twice := program(3, 1)
	twice.Ports = append(twice.Ports, twice.Ports[0])
	if r, err := newSubject().Apply(t.Context(), full(twice)); err != nil || len(r.Failed) != 1 {
		t.Errorf("a port twice: %v %+v", err, r)
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

// TestBusyChain: a chain that cannot go yet (before Linux 6.2) stops nobody.
func TestBusyChain(t *testing.T) {
	s := newSubject()
	apply(t, s.Dataplane, full(program(1, 1)))
	var tx nfnl.Transaction
	table := nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"}
	tx.AddChain(table, nfnl.Chain{Name: "old"})
	tx.AddChain(table, nfnl.Chain{Name: "holds"})
	tx.AddRule(table, nfnl.Rule{Chain: "prerouting", Comment: "foreign"})
	if err := s.kernel.Open().Commit(t.Context(), &tx); err != nil {
		t.Fatal(err)
	}
	conn := &busy{s.kernel.Open()}
	d := New(conn, Options{})
	r := apply(t, d, full(program(1, 2)))
	if r.Writes == 0 || answers(t, s.kernel, 1) != "10.244.0.2:80" {
		t.Errorf("%+v %s", r, answers(t, s.kernel, 1))
	}
}

// busy refuses to delete chains.
type busy struct{ *nfnltest.Conn }

func (b *busy) Commit(ctx context.Context, tx *nfnl.Transaction) error {
	messages, err := tx.Messages()
	if err != nil {
		return err
	}
	var refused nfnl.Refused
	for i, m := range messages {
		if m.Kind == unix.NFT_MSG_DELCHAIN {
			refused = append(refused, tx.Refusal(i, -1, unix.EBUSY))
		}
	}
	if refused != nil {
		return refused
	}
	return b.Conn.Commit(ctx, tx)
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
