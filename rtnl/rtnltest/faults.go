package rtnltest

import (
	"fmt"
	"syscall"
	"testing"
)

// maxFailures stops a FailEach whose body never gets through.
const maxFailures = 100_000

// Failure is the one failure of a run of [FailEach].
type Failure struct {
	call  int // which call after Arm fails, from 1
	errno syscall.Errno
	seen  int
	hit   *Call
	ran   bool
}

// FailEach runs body as a subtest again and again: in the first run call 1 to the fake kernel fails, in the second call 2, and so
// on, until a run gets by with fewer calls. The errnos are taken in turn; by default EIO, ENOBUFS, EBUSY. Body makes its own Kernel,
// brings it to where failing begins, calls [Failure.Arm], and proves that the next Apply converges.
func FailEach(t *testing.T, body func(t *testing.T, f *Failure), errnos ...syscall.Errno) {
	t.Helper()
	if len(errnos) == 0 {
		errnos = []syscall.Errno{syscall.EIO, syscall.ENOBUFS, syscall.EBUSY}
	}
	for n := 1; n <= maxFailures; n++ {
		f := &Failure{call: n, errno: errnos[(n-1)%len(errnos)]}
		t.Run(fmt.Sprintf("call %d fails", n), func(t *testing.T) {
			f.ran = true // not if -run selects another one
			body(t, f)
		})
		if f.ran && f.hit == nil {
			return
		}
	}
	t.Fatalf("no end after %d calls", maxFailures)
}

// Arm lets a call to k fail, counted from here; earlier calls never do.
func (f *Failure) Arm(k *Kernel) {
	k.Fault = func(c Call) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		f.seen++
		if f.seen != f.call {
			return nil
		}
		f.hit = &c
		return f.errno
	}
}

// Hit returns the call that failed; ok is false as long as none has.
func (f *Failure) Hit() (c Call, ok bool) {
	if f.hit == nil {
		return Call{}, false
	}
	return *f.hit, true
}

// Check fails the test if a call failed and err, the answer of the code under test, is nil, or the other way round.
func (f *Failure) Check(t testing.TB, err error) {
	t.Helper()
	switch {
	case f.hit != nil && err == nil:
		t.Errorf("%v failed with %v, but no error came back", *f.hit, f.errno)
	case f.hit == nil && err != nil:
		t.Errorf("no call failed, but: %v", err)
	}
}
