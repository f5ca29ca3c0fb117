package servicetest

import (
	"flag"
	"testing"
)

var seed = flag.Uint64("seed", 0, "run only this seed of TestRandom")

// TestRandom: the oracle and the plan, walked by the fake dataplane, agree on random states.
func TestRandom(t *testing.T) {
	o := RandomOptions{Seed: *seed, States: 100_000}
	if testing.Short() {
		o.States = 2_000
	}
	RunRandom(t, o, func(testing.TB) Subject { return new(Dataplane) })
}
