package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/podnet/podnet/internal/netns"
	"golang.org/x/sys/unix"
)

// Every run has a directory below runsDir, and holds a lock on the file "lock" in it for as long as it lives. A directory whose lock
// is free belongs to a run that was killed: the next run removes its processes, namespaces and files.
const (
	runsDir  = "/run/podnet-lab"
	idPrefix = "podnet-lab-"
)

// lockRuns waits until no other lab is starting: it might take a directory that is being made for one that was left.
func lockRuns() (*os.File, error) {
	if err := os.MkdirAll(runsDir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(runsDir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", runsDir, err)
	}
	return f, nil
}

// newRun makes the directory of this run and returns it with the run's name, which begins every namespace's name.
func newRun() (id, dir string, lock *os.File, err error) {
	id = fmt.Sprintf("%s%d", idPrefix, os.Getpid())
	dir = filepath.Join(runsDir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", nil, err
	}
	lock, err = lockRun(dir)
	return id, dir, lock, err
}

// lockRun takes the lock of a run's directory, or fails at once with EWOULDBLOCK while that run lives.
func lockRun(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes what killed runs left, and names them.
func sweep() (swept []string, err error) {
	entries, err := os.ReadDir(runsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(runsDir, e.Name())
		if !strings.HasPrefix(e.Name(), idPrefix) {
			continue
		}
		lock, err := lockRun(dir)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // a lab that is running beside this one
		}
		if err == nil {
			err = removeRun(e.Name(), dir)
			lock.Close()
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		swept = append(swept, e.Name())
	}
	return swept, errors.Join(errs...)
}

// removeRun ends a run's processes and removes its namespaces and files.
func removeRun(id, dir string) error {
	return errors.Join(removeNamespaces(id+"-"), os.RemoveAll(dir))
}

// killIn kills every process that lives in the namespace at path.
func killIn(path string) error {
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		return nil // the namespace is gone
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range procs {
		var st unix.Stat_t
		if !isPID(p.Name()) || unix.Stat(filepath.Join("/proc", p.Name(), "ns/net"), &st) != nil {
			continue
		}
		if st.Ino == want.Ino && st.Dev == want.Dev {
			var pid int
			if _, err := fmt.Sscan(p.Name(), &pid); err == nil && pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL) // already gone is as good
			}
		}
	}
	return nil
}

// removeNamespaces removes the namespaces whose names begin with prefix, and the processes in them.
func removeNamespaces(prefix string) error {
	names, err := netns.List(prefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, killIn(netns.Path(name)), netns.Delete(name))
	}
	return errors.Join(errs...)
}

func isPID(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
