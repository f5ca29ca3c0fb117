package rtnl

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

const threadNetns = "/proc/thread-self/ns/net"

// netns is an open network namespace.
type netns struct {
	fd       int
	dev, ino uint64
}

// openNetns opens the namespace at path, or that of the calling thread if path is "".
func openNetns(path string) (netns, error) {
	if path == "" {
		path = threadNetns
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return netns{}, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return netns{}, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return netns{fd: fd, dev: uint64(st.Dev), ino: st.Ino}, nil
}

// do calls f on a thread that is in the namespace. The caller's thread stays where it is.
func (n netns) do(f func() error) error {
	runtime.LockOSThread()
	var st unix.Stat_t
	if err := unix.Stat(threadNetns, &st); err == nil && uint64(st.Dev) == n.dev && st.Ino == n.ino {
		defer runtime.UnlockOSThread()
		return f()
	}
	runtime.UnlockOSThread()

	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := openNetns("")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(home.fd)
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		// If the way back fails the thread stays locked, and the runtime ends it with this goroutine: no other
		// goroutine ever runs on a thread in the wrong namespace.
		if unix.Setns(home.fd, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
