package servicetest

import (
	"errors"
	"fmt"
	"testing"
)

// ErrInjected is the error of a call that FailEach makes fail.
var ErrInjected = errors.New("servicetest: injected failure")

// FailEach runs body as a subtest again and again, each time with a fault for Dataplane.Fault: in the first run call 1 fails with ErrInjected, in the second call 2, and so on, until
// a run gets by with fewer calls. Body sets the fault where failing shall begin, and proves that what comes next converges.
func FailEach(t *testing.T, body func(t *testing.T, fault func(Call) error)) {
	t.Helper()
	for n := 1; n <= 10_000; n++ {
		seen, ran := 0, false
		var hit *Call
		t.Run(fmt.Sprintf("call %d fails", n), func(t *testing.T) {
			ran = true // not if -run selects another one
			body(t, func(c Call) error {
				if seen++; seen != n {
					return nil
				}
				hit = &c
				return fmt.Errorf("%s: %w", c, ErrInjected)
			})
		})
		if ran && hit == nil {
			return
		}
	}
	t.Fatal("no end after 10,000 calls")
}
