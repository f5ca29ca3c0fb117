package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/podnet/podnet/internal/netlock"
)

// lockNode keeps a second agent away from this node: its state directory and its network namespace.
func lockNode(dir string) (unlock func() error, err error) {
	unlockDir, err := lock(dir)
	if err != nil {
		return nil, err
	}
	unlockNetwork, err := netlock.Take("podnet-agent")
	if err != nil {
		return nil, errors.Join(err, unlockDir())
	}
	return func() error { return errors.Join(unlockNetwork(), unlockDir()) }, nil
}

// lock keeps a second agent away from the same state directory. The kernel gives the lock back when the process dies, however it does.
func lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--state-dir %q: %w", dir, err)
	}
	path := filepath.Join(dir, "agent.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--state-dir %q: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("--state-dir %q: another podnet-agent (process %s) works here: stop it first, or give each node a state directory of its own",
				dir, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if now, err := os.Stat(path); err != nil || !sameFile(f, now) { // --cleanup removed it meanwhile
		f.Close()
		return lock(dir)
	}
	// For people who look; the lock is what counts.
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	return err
}

func sameFile(f *os.File, now os.FileInfo) bool {
	info, err := f.Stat()
	return err == nil && os.SameFile(info, now)
}
