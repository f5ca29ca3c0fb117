package controlplane

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner starts processes from one thread that lives until close, since a child's parent-death signal (prctl PR_SET_PDEATHSIG) is
// sent when the thread that started it ends. The thread stands in the processes' network namespace and is used for nothing else.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

// newSpawner takes the path of a network namespace, or "".
func newSpawner(netns string) (*spawner, error) {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	entered := make(chan error)
	go s.run(netns, entered)
	if err := <-entered; err != nil {
		return nil, err
	}
	return s, nil
}

func (s *spawner) run(netns string, entered chan<- error) {
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
	if unix.Gettid() == unix.Getpid() {
		// The main thread cannot end: the runtime would keep it, and with it the namespace, to the end of the process.
		defer runtime.UnlockOSThread()
		next := make(chan struct{})
		go func() { defer close(next); s.run(netns, entered) }()
		<-next
		return
	}
	if err := enter(netns); err != nil {
		entered <- err
		return
	}
	entered <- nil
	for job := range s.jobs {
		job()
	}
	close(s.done)
}

func enter(netns string) error {
	if netns == "" {
		return nil
	}
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netns, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns, err)
	}
	return nil
}

// do runs f on the thread.
func (s *spawner) do(f func() error) error {
	result := make(chan error)
	s.jobs <- func() { result <- f() }
	return <-result
}

// start starts cmd in a process group of its own, out of reach of a terminal's Ctrl-C. It dies with this process.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return s.do(cmd.Start)
}

// close ends the thread; every process that it started must have ended.
func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}
