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

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/service"
)

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
