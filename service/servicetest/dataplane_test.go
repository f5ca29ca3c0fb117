package servicetest

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/service"
)

// TestReconcilerConverges: whichever call to the dataplane fails, it is reported, and the syncs after it bring the kernel to where it would have been.
func TestReconcilerConverges(t *testing.T) {
	first, second := NewRandom(7), NewRandom(7)
	for range 3 {
		second.Change()
	}
	want := apply(t, new(Dataplane), second.World).Dump()
	FailEach(t, func(t *testing.T, fault func(Call) error) {
		d := new(Dataplane)
		r := service.New(d, service.Options{})
		feed(r, World{}, first.World)
		syncAll(t, r)
		hit := false
		d.Fault = func(c Call) error {
			err := fault(c)
			hit = hit || err != nil
			return err
		}
		feed(r, first.World, second.World)
		r.Resync()
		if report, err := r.Sync(t.Context()); hit != (err != nil || len(report.Failed) > 0) {
			t.Errorf("fault %t, but error %v and failed %v", hit, err, report.Failed)
		} else if err != nil && !errors.Is(err, ErrInjected) {
			t.Errorf("error %v does not wrap the cause", err)
		}
		syncAll(t, r)
		if diff := cmp.Diff(want, d.Dump()); diff != "" {
			t.Error(diff)
		}
		if r.Pending() != 0 {
			t.Errorf("%d are pending", r.Pending())
		}
	})
}

func apply(t *testing.T, d *Dataplane, w World) *Dataplane {
	t.Helper()
	r := service.New(d, service.Options{})
	feed(r, World{}, w)
	syncAll(t, r)
	return d
}

func syncAll(t *testing.T, r *service.Reconciler) {
	t.Helper()
	if report, err := r.Sync(t.Context()); err != nil || len(report.Failed) > 0 {
		t.Fatalf("sync: %v, failed %v", err, report.Failed)
	}
}

// TestCalls: the fake counts what it is asked, and refuses an Apply that nobody prepared.
func TestCalls(t *testing.T) {
	d := new(Dataplane)
	if _, err := d.Apply(t.Context(), service.Delta{}); err == nil {
		t.Error("Apply before Observe: no error")
	}
	if _, err := d.Observe(t.Context()); err != nil {
		t.Fatal(err)
	}
	web := service.Program{Name: service.Name{Name: "web"}}
	for range 2 {
		if _, err := d.Apply(t.Context(), service.Delta{Set: []service.Program{web}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, c := range d.Calls() {
		calls = append(calls, c.String())
	}
	if got, want := strings.Join(calls, ", "), "observe, apply, set web, apply, cleanup"; got != want || d.Writes() != 2 {
		t.Errorf("calls %s, %d writes; want %s, 2 writes", got, d.Writes(), want)
	}
}

// TestVerdictString: order and repetition mean nothing, and an affinity to the only endpoint neither.
func TestVerdictString(t *testing.T) {
	a, b := Target{Addr: netip.MustParseAddrPort("10.0.0.9:80")}, Target{Addr: netip.MustParseAddrPort("10.0.0.10:80"), Masquerade: true}
	for _, c := range []struct {
		v    Verdict
		want string
	}{
		{Verdict{}, "pass"},
		{Verdict{Outcome: Rejects}, "REJECT"},
		{Verdict{Outcome: Drops}, "DROP"},
		{Verdict{Outcome: Forwards}, "to no endpoint"},
		{Verdict{Outcome: Forwards, Targets: []Target{b, a, b}, Affinity: 60e9}, "10.0.0.9:80 10.0.0.10:80(masquerade) affinity 1m0s"},
		{Verdict{Outcome: Forwards, Targets: []Target{a, a}, Affinity: 60e9}, "10.0.0.9:80"},
	} {
		if got := c.v.String(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
