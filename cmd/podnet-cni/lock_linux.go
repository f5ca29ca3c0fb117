package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the wait for another process that works on the same attachment.
const (
	lockTimeout = 30 * time.Second
	lockPoll    = time.Millisecond
	lockPollMax = 50 * time.Millisecond
)

// lockAttachments keeps two processes from working on one attachment at once: a DEL that overtakes an ADD would free an address that the ADD then
// uses. It locks one byte per attachment of one file (open file description locks, Linux 3.15), so that others do not wait, and
// the kernel frees it when the process dies.
func lockAttachments(ctx context.Context, dir, key string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	path := filepath.Join(dir, lockName)
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
		if err := lockFile(ctx, f, key); err != nil {
			f.Close()
			return nil, err
		}
		if same, err := isFileAt(f, path); same {
			return f, nil
		} else if err != nil {
			f.Close()
			return nil, fmt.Errorf("look at lock: %w", err)
		}
		f.Close() // somebody deleted the file meanwhile: others lock another one
	}
}

func lockFile(ctx context.Context, f *os.File, key string) error {
	start, length := lockRange(key)
	for wait := lockPoll; ; wait = min(2*wait, lockPollMax) {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length})
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return errLocked(f.Name())
		case <-time.After(wait):
		}
	}
}

// isFileAt reports whether f is the file that path names now.
func isFileAt(f *os.File, path string) (bool, error) {
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(opened, named), nil
}

// isNetns returns nil if path is a network namespace.
func isNetns(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return errors.New("is not a network namespace")
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return errors.New("is a namespace of another kind: want a network namespace")
	}
	return nil
}

// isOwnNetns reports whether path is the namespace of this process.
func isOwnNetns(path string) bool {
	theirs, err := os.Stat(path)
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/thread-self/ns/net")
	return err == nil && os.SameFile(theirs, own)
}

// isBridgeFull recognises the answer of a bridge that has 1,023 ports: the kernel numbers them with 10 bits.
func isBridgeFull(err error) bool { return errors.Is(err, unix.EXFULL) }
