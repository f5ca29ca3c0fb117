package veth

import (
	"syscall"
	"time"
)

// pause sleeps for less than a millisecond. time.Sleep would take a whole one: an idle runtime waits in epoll_wait, which counts in
// milliseconds (runtime/netpoll_epoll.go, Go 1.26).
func pause(d time.Duration) {
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&ts, nil) // a signal only makes it shorter
}
