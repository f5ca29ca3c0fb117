package servicetest

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/podnet/podnet/service"
)

// RandomOptions are the settings of RunRandom.
type RandomOptions struct {
	// Seed is the only one to run; 0 runs all.
	Seed uint64

	// States is how many states to try: each seed makes a world and changes it three times. 0 is 1,000.
	States int

	// Packets is how many packets to ask of each state. 0 is 20.
	Packets int

	// Ask says whether a packet can be asked of this dataplane. nil asks all.
	Ask func(World, Packet) bool

	// Agrees says whether an answer is what was wanted. nil: if both are the same. Real packets are samples of what chance chooses.
	Agrees func(got, want Verdict) bool
}

// statesPerSeed is how many states one seed makes: a world and its changes.
const statesPerSeed = 4

// RunRandom brings random worlds into a subject, changes them, and compares the answer to random packets with the oracle's. After every change a second sync must write
// nothing. A failure names its seed; one seed can be run by itself with RandomOptions.Seed. Each seed has a subject of its own.
func RunRandom(t *testing.T, o RandomOptions, subject func(testing.TB) Subject) {
	t.Helper()
	if o.States == 0 {
		o.States = 1000
	}
	if o.Packets == 0 {
		o.Packets = 20
	}
	first, last := uint64(1), uint64((o.States+statesPerSeed-1)/statesPerSeed)
	if o.Seed != 0 {
		first, last = o.Seed, o.Seed
	}
	failed := 0
	for seed := first; seed <= last; seed++ {
		err := runSeed(t, seed, o, subject(t))
		if err == nil {
			continue
		}
		t.Errorf("seed %d: %v", seed, err)
		if failed++; failed == 5 {
			t.Fatal("and so on")
		}
	}
}

// runSeed stops at the first difference.
func runSeed(t testing.TB, seed uint64, o RandomOptions, s Subject) error {
	random := NewRandom(seed)
	r := service.New(s, service.Options{})
	var before World
	for state := range statesPerSeed {
		if state > 0 {
			random.Change()
		}
		w := random.World
		s.SetMachine(w.Machine())
		feed(r, before, w)
		for again := range 2 {
			report, err := r.Sync(t.Context())
			switch {
			case err != nil:
				return fmt.Errorf("state %d: %w", state, err)
			case len(report.Failed) > 0:
				return fmt.Errorf("state %d: failed: %v", state, report.Failed)
			case again > 0 && report.Writes > 0:
				return fmt.Errorf("state %d: the second sync wrote %d objects", state, report.Writes)
			}
		}
		before = w
		for range o.Packets {
			p := random.Packet()
			if o.Ask != nil && !o.Ask(w, p) {
				continue
			}
			if err := compare(w, s, p, o.Agrees); err != nil {
				return fmt.Errorf("state %d: %w\n%s", state, err, w.describe())
			}
		}
	}
	return nil
}

func compare(w World, s Walker, p Packet, agrees func(got, want Verdict) bool) error {
	want, err := w.Lookup(p)
	if err != nil {
		return err
	}
	got, err := s.Lookup(p)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if agrees == nil {
		agrees = func(got, want Verdict) bool { return got.String() == want.String() }
	}
	if !agrees(got, want) {
		return fmt.Errorf("%s\n got %s\nwant %s", p, got, want)
	}
	return nil
}

// feed tells a Reconciler what is not as before.
func feed(r *service.Reconciler, before, w World) {
	r.SetNode(w.Node)
	for _, s := range before.Services {
		if !slices.ContainsFunc(w.Services, func(o service.Service) bool { return o.Name == s.Name }) {
			r.DeleteService(s.Name)
		}
	}
	for _, s := range w.Services {
		r.SetService(s)
	}
	for n, list := range before.Endpoints {
		for i := len(w.Endpoints[n]); i < len(list); i++ {
			r.DeleteSlice(n, strconv.Itoa(i))
		}
	}
	for n, list := range w.Endpoints {
		for i, s := range list {
			r.SetSlice(n, strconv.Itoa(i), s)
		}
	}
}

// describe tells the world of a failure.
func (w World) describe() string {
	text := fmt.Sprintf("node %+v\nlocal %v\n", w.Node, w.Local)
	for _, s := range w.Services {
		text += fmt.Sprintf("service %+v\n", s)
		for _, e := range w.Endpoints[s.Name] {
			text += fmt.Sprintf("  slice %+v\n", e)
		}
	}
	return text
}
