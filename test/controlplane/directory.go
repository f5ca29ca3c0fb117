package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A control plane holds a lock on the file "lock" in its directory for as long as it lives. A directory of ours below the temporary directory
// whose lock is free belongs to a test that was killed.
const (
	lockName  = "lock"
	dirPrefix = "podnet-controlplane-"
)

type directory struct {
	path string
	lock *os.File
	keep bool
}

// makeDirectory locks the directory at path, or makes a new one if path is "".
func makeDirectory(path string) (*directory, error) {
	d := &directory{path: path, keep: path != ""}
	var err error
	if path == "" {
		if d.path, err = os.MkdirTemp("", dirPrefix); err != nil {
			return nil, err
		}
		// A lock file has its name only once it is locked, so that a sweep never sees it free.
		early := filepath.Join(d.path, ".lock")
		if d.lock, err = lock(early); err != nil {
			return nil, err
		}
		return d, os.Rename(early, filepath.Join(d.path, lockName))
	}
	if d.path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, err
	}
	d.lock, err = lock(filepath.Join(d.path, lockName))
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, fmt.Errorf("%s: another control plane uses this directory", d.path)
	case err != nil:
		return nil, err
	}
	return d, nil
}

func (d *directory) close() error {
	var err error
	if !d.keep {
		err = os.RemoveAll(d.path)
	}
	if closed := d.lock.Close(); !errors.Is(closed, os.ErrClosed) { // Close twice is no error
		err = errors.Join(err, closed)
	}
	return err
}

// lock takes the lock of a directory, or fails at once with EWOULDBLOCK while its control plane lives.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes the directories of killed tests. Their processes died with them; should one be left, it is killed.
func sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		path := filepath.Join(dir, lockName)
		if _, err := os.Stat(path); err != nil {
			continue // just being made, or just being removed
		}
		lock, err := lock(path)
		if err != nil {
			continue // in use, or somebody else's
		}
		for deadline := time.Now().Add(5 * time.Second); killUsersOf(dir) > 0 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // the kernel takes its time to end a process
		}
		errs = append(errs, os.RemoveAll(dir))
		lock.Close()
	}
	return errors.Join(errs...)
}

// killUsersOf kills the processes that name a directory in their command line, as every component does, and tells how many there are.
func killUsersOf(dir string) (found int) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(data, []byte("="+dir+"/")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid != os.Getpid() {
			_ = unix.Kill(pid, syscall.SIGKILL) // already gone is as good
			found++
		}
	}
	return found
}

// SaveEtcd copies etcd's data to a new directory. Etcd is paused meanwhile, so the copy is what a crash at that moment would have left.
func (c *ControlPlane) SaveEtcd(to string) error {
	if c.PID(Etcd) != 0 {
		if err := c.Pause(Etcd); err != nil {
			return err
		}
		defer c.Resume(Etcd)
	}
	return copyDir(c.path("etcd"), to)
}

// RestoreEtcd takes the cluster back to what SaveEtcd copied, as an operator restores a backup: everything is stopped, the data put in place, and everything
// that ran is started again. Resource versions go backwards.
func (c *ControlPlane) RestoreEtcd(ctx context.Context, from string) error {
	var ran []Component
	for _, component := range c.components() {
		if c.PID(component) != 0 {
			ran = append(ran, component)
		}
	}
	for i := range ran {
		if err := c.Kill(ran[len(ran)-1-i]); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.path("etcd")); err != nil {
		return err
	}
	if err := copyDir(from, c.path("etcd")); err != nil {
		return err
	}
	for _, component := range ran {
		if err := c.Start(ctx, component); err != nil {
			return err
		}
	}
	return nil
}

// copyDir copies a tree of directories and files. Runs of zeros become holes: etcd allocates its log in pieces of 64 MB.
func copyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		return copyFile(path, target)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	const page = 64 << 10
	zeros, buf := make([]byte, page), make([]byte, page)
	for at := int64(0); ; {
		n, err := in.ReadAt(buf, at)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return out.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}
