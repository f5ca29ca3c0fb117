package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlowWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slowWork
		writes := func(n int) func() Result { return func() Result { return Result{Writes: n} } }
		if r := s.do(writes(1)); r.Writes != 1 {
			t.Errorf("fast work: %+v", r)
		}
		hung := make(chan struct{})
		start := time.Now()
		r := s.do(func() Result {
			<-hung
			return Result{Writes: 2}
		})
		if !errors.Is(r.Err, errSlow) || time.Since(start) != defaultPatience {
			t.Errorf("hanging work: %+v after %v", r, time.Since(start))
		}
		start = time.Now()
		if r := s.do(writes(3)); !errors.Is(r.Err, errSlow) || time.Since(start) != 0 {
			t.Errorf("behind hanging work: %+v after %v", r, time.Since(start))
		}
		close(hung)
		synctest.Wait()
		if r := s.do(writes(4)); r.Writes != 4 || r.Err != nil {
			t.Errorf("after it: %+v", r)
		}
	})
}
