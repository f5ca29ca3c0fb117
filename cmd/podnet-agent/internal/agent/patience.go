package agent

import (
	"cmp"
	"errors"
	"time"
)

// defaultPatience is how long a pass waits for the disk, once.
const defaultPatience = 2 * time.Second

var errSlow = errors.New("the disk is slow: the files are still being written")

// slowWork lets a pass go on though the work in it hangs, as writing to a dead disk does: what is in the kernel must be healed nonetheless.
// A system call that hangs cannot be cut short, so its goroutine is left alone until it returns; there is never more than one.
type slowWork struct {
	patience time.Duration // 0 = defaultPatience
	running  chan Result   // nil: nothing is under way
}

// do runs work, or finds that what an earlier pass began is still under way. The result is always that of the work of this call.
func (s *slowWork) do(work func() Result) Result {
	if s.running != nil {
		select {
		case <-s.running: // of a state that may be wanted no more
		default:
			return Result{Err: errSlow}
		}
	}
	done := make(chan Result, 1)
	s.running = done
	go func() { done <- work() }()
	t := time.NewTimer(cmp.Or(s.patience, defaultPatience))
	defer t.Stop()
	select {
	case r := <-done:
		s.running = nil
		return r
	case <-t.C:
		return Result{Err: errSlow}
	}
}
