package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script is a dataplane that writes down what it is asked, and fails when told to. servicetest has a real fake; it would hide the order of calls.
type script struct {
	mu         sync.Mutex
	log        []string
	have       map[Name]Program
	fail       error          // of the next Apply, as a whole
	observeErr error          // of the next Observe
	refuse     map[Name]error // of single Services
	foreign    func()         // set by Watch
	watchErr   error
}

func (s *script) Capabilities() Capabilities { return Capabilities{Name: "script"} }

func (s *script) Observe(context.Context) (Observed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, "observe")
	err := s.observeErr
	s.observeErr = nil
	return Observed{}, err
}

func (s *script) Apply(_ context.Context, d Delta) (Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	b.WriteString("apply")
	if d.Full {
		b.WriteString(" full")
		s.have = map[Name]Program{}
	}
	for _, p := range d.Set {
		fmt.Fprintf(&b, " +%s", p.Name.Name)
	}
	for _, n := range d.Delete {
		fmt.Fprintf(&b, " -%s", n.Name)
	}
	s.log = append(s.log, b.String())
	if err := s.fail; err != nil {
		s.fail = nil
		return Result{}, err
	}
	r := Result{Failed: map[Name]error{}}
	for _, p := range d.Set {
		if err := s.refuse[p.Name]; err != nil {
			r.Failed[p.Name] = err
			continue
		}
		s.have[p.Name] = p
		r.Writes++
	}
	for _, n := range d.Delete {
		delete(s.have, n)
		r.Writes++
	}
	return r, nil
}

func (s *script) Cleanup(context.Context) error { return nil }

func (s *script) Watch(ctx context.Context, notify func()) error {
	s.mu.Lock()
	err := s.watchErr
	s.watchErr, s.foreign = nil, notify
	s.mu.Unlock()
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (s *script) want(t *testing.T, calls ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(calls, s.log); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	s.log = nil
}

func synced(t *testing.T, r *Reconciler) Report {
	t.Helper()
	report, err := r.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func other(name string) Service {
	return simple(name, func(s *Service) { s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, name[0]})} })
}

func TestSyncIsIncremental(t *testing.T) {
	s := &script{}
	r := New(s, Options{})
	r.SetService(other("a"))
	r.SetService(other("b"))
	synced(t, r)
	s.want(t, "observe", "apply full +a +b")
	synced(t, r)
	s.want(t) // nothing differs: nobody is asked
	r.SetSlice(named("a"), "", endpoints("10.244.1.1"))
	report := synced(t, r)
	s.want(t, "apply +a")
	if len(report.Changes) != 1 || len(report.Changes[0].Before.Ports[0].Cluster) != 0 || len(report.Changes[0].After.Ports[0].Cluster) != 1 {
		t.Errorf("changes %+v", report.Changes)
	}
	r.SetSlice(named("a"), "", endpoints("10.244.1.1", "127.0.0.1")) // a fault that changes no program
	if report := synced(t, r); len(report.Faults[named("a")]) != 1 {
		t.Errorf("faults %v", report.Faults)
	}
	s.want(t)
	r.DeleteService(named("a"))
	synced(t, r)
	s.want(t, "apply -a")
	r.SetNode(Node{Name: "n", LocalPods: LocalPods{Interface: "cni0"}})
	synced(t, r)
	s.want(t, "apply full +b") // although b's program is the same: the dataplane has to know the node
}

func TestSyncFailsAsAWhole(t *testing.T) {
	s := &script{fail: errors.New("no kernel"), observeErr: errors.New("no module")}
	r := New(s, Options{})
	r.SetService(other("a"))
	for _, want := range []string{"service: read script: no module", "service: script: no kernel"} {
		if _, err := r.Sync(t.Context()); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if r.Status().Pending.IsZero() {
			t.Error("nothing is pending after a failure")
		}
	}
	synced(t, r)
	s.want(t, "observe", "observe", "apply full +a", "observe", "apply full +a")
	s.fail = errors.New("busy")
	r.SetService(other("b"))
	r.DeleteService(named("a"))
	if _, err := r.Sync(t.Context()); err == nil {
		t.Error("no error")
	}
	synced(t, r)
	s.want(t, "apply +b -a", "observe", "apply full +b -a")
	if st := r.Status(); !st.Pending.IsZero() || st.Synced.IsZero() {
		t.Errorf("status %+v", st)
	}
}

func TestOneServiceFails(t *testing.T) {
	s := &script{refuse: map[Name]error{named("b"): errors.New("refused")}}
	r := New(s, Options{})
	for _, n := range []string{"a", "b", "c"} {
		r.SetService(other(n))
	}
	report := synced(t, r)
	if len(report.Failed) != 1 || report.Failed[named("b")] == nil || len(report.Changes) != 2 || report.Services != 2 {
		t.Errorf("%+v", report)
	}
	if r.Status().Pending.IsZero() {
		t.Error("b is not pending")
	}
	synced(t, r)
	delete(s.refuse, named("b"))
	synced(t, r)
	synced(t, r)
	s.want(t, "observe", "apply full +a +b +c", "apply +b", "apply +b")
	if len(s.have) != 3 {
		t.Errorf("have %d", len(s.have))
	}
}

// TestOneFailedServiceGoesBack: the desired state returns to what was there before the failure, but the dataplane may hold half of the failed one.
func TestOneFailedServiceGoesBack(t *testing.T) {
	s := &script{}
	r := New(s, Options{})
	r.SetService(other("a"))
	synced(t, r)
	s.refuse = map[Name]error{named("a"): errors.New("refused")}
	r.SetSlice(named("a"), "", endpoints("10.244.1.1"))
	synced(t, r)
	s.refuse = nil
	r.DeleteSlice(named("a"), "")
	synced(t, r)
	s.want(t, "observe", "apply full +a", "apply +a", "apply +a")
}

func TestPlanAndApply(t *testing.T) {
	s := &script{}
	r := New(s, Options{})
	want := Config{Services: []Service{other("a"), other("b")}, Endpoints: map[Name][]Slice{named("a"): {endpoints("10.244.1.1"), endpoints("10.244.1.2")}}}
	p, err := r.Plan(t.Context(), want)
	if err != nil || p.Empty() || len(p.Set) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if p, err := r.Plan(t.Context(), want); err != nil || !p.Empty() {
		t.Errorf("second plan %+v, %v", p, err)
	}
	want = Config{Services: []Service{other("a")}, Endpoints: map[Name][]Slice{named("a"): {endpoints("10.244.1.1")}}}
	if p, err := r.Plan(t.Context(), want); err != nil || len(p.Set) != 1 || !slices.Equal(p.Delete, []Name{named("b")}) {
		t.Errorf("plan of less %+v, %v", p, err)
	}
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if n := len(s.have[named("a")].Ports[0].Cluster); n != 1 || len(s.have) != 1 {
		t.Errorf("%d endpoints, %d Services", n, len(s.have))
	}
	s.refuse = map[Name]error{named("c"): errors.New("refused")}
	if _, err := r.Apply(t.Context(), Config{Services: []Service{other("c")}}); err == nil || err.Error() != "service ns/c: refused" {
		t.Errorf("error %v", err)
	}
	s.refuse = nil
	if _, err := r.Apply(t.Context(), Config{}); err != nil || len(s.have) != 0 {
		t.Errorf("%d Services left, %v", len(s.have), err)
	}
}

// TestRun: changes are coalesced, failures retried with back-off, foreign changes and lost watches repaired.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watchErr: errors.New("no socket")}
		r := New(s, Options{})
		r.SetService(other("a"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		s.want(t, "observe", "apply full +a")
		time.Sleep(time.Second) // the watch failed, is up again, and nobody knows what happened meanwhile
		s.want(t, "observe", "apply full +a")

		for i := range 100 { // an endpoint that flaps every millisecond
			r.SetSlice(named("a"), "", endpoints(fmt.Sprintf("10.244.1.%d", 1+i%2)))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		s.mu.Lock()
		if len(s.log) < 2 || len(s.log) > 3 {
			t.Errorf("100 changes in 100 ms: %d syncs", len(s.log))
		}
		if got := s.have[named("a")].Ports[0].Cluster[0].Addr.String(); got != "10.244.1.2:8080" {
			t.Errorf("last state did not win: %s", got)
		}
		s.log = nil
		foreign := s.foreign
		s.mu.Unlock()

		foreign()
		synctest.Wait()
		s.want(t, "observe", "apply full +a")
		time.Sleep(time.Second)

		s.mu.Lock()
		s.refuse = map[Name]error{named("b"): errors.New("refused")}
		s.mu.Unlock()
		r.SetService(other("b"))
		time.Sleep(time.Minute)
		s.mu.Lock()
		if len(s.log) < 6 || len(s.log) > 10 {
			t.Errorf("a Service that is refused: tried %d times in a minute", len(s.log))
		}
		s.refuse, s.log = nil, nil
		s.mu.Unlock()
		time.Sleep(lastRetry)
		s.want(t, "apply +b")
		time.Sleep(2 * time.Hour)
		s.want(t, "observe", "apply full +a +b", "observe", "apply full +a +b")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFaultsAreLoggedOnce: a Service that changes often does not repeat what is wrong with it.
func TestFaultsAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := New(&script{}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		r.SetService(other("a"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		for _, last := range []string{"127.0.0.1", "127.0.0.1", "10.244.1.9", "127.0.0.1"} { // twice wrong, mended, wrong again
			for i := range 2 {
				r.SetSlice(named("a"), "", endpoints(fmt.Sprintf("10.244.1.%d", 1+i), last))
				time.Sleep(time.Second)
			}
		}
		cancel()
		<-done
		if n := strings.Count(log.String(), "left out"); n != 2 {
			t.Errorf("logged %d times, want 2:\n%s", n, log.String())
		}
	})
}

func BenchmarkOneEndpointChange(b *testing.B) {
	for _, size := range []struct{ services, endpoints int }{{1000, 10}, {10000, 10}, {1, 100000}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.endpoints), func(b *testing.B) {
			r := New(&script{}, Options{})
			full := func(i, n int) Slice {
				e := Slice{Ports: []EndpointPort{{Protocol: TCP, Port: 8080}}}
				for j := range n {
					e.Endpoints = append(e.Endpoints, Endpoint{Addr: netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(j >> 8), byte(j)}), Node: "node-b"})
				}
				return e
			}
			for i := range size.services {
				s := simple(fmt.Sprint("s", i), func(s *Service) { s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})} })
				r.SetService(s)
				for n := 0; n < size.endpoints; n += 1000 {
					e := full(i, min(1000, size.endpoints-n))
					for j := range e.Endpoints {
						e.Endpoints[j].Addr = netip.AddrFrom4([4]byte{10, byte(100 + (n+j)>>16), byte((n + j) >> 8), byte(n + j)})
					}
					r.SetSlice(s.Name, fmt.Sprint(n), e)
				}
			}
			if _, err := r.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				r.SetSlice(named("s0"), "extra", endpoints(fmt.Sprintf("10.244.1.%d", 1+i%2)))
				if _, err := r.Sync(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
