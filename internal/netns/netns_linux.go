package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Create makes a namespace and mounts it at Path(name), so that other processes can enter it. It needs CAP_SYS_ADMIN.
func Create(name string) (err error) {
	if err := prepareDir(); err != nil {
		return fmt.Errorf("prepare %s: %w", dir, err)
	}
	f, err := os.OpenFile(Path(name), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	defer func() {
		if err != nil {
			os.Remove(Path(name))
		}
	}()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", Path(name), "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount network namespace at %s: %w", Path(name), err)
		}
		return nil
	})
}

// prepareDir makes the directory a shared mount as ip-netns(8) does: else every process in a mount namespace of its own
// (ip netns exec, a systemd service) would keep a copy of our mounts, and so the namespaces, alive.
func prepareDir() error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { // ip(8) takes the same lock
		return fmt.Errorf("flock: %w", err)
	}
	err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// Delete unmounts and removes the namespace called name. The kernel ends it when its last process and socket are gone. A missing one is no error.
func Delete(name string) error {
	if err := unix.Unmount(Path(name), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", Path(name), err)
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// List returns the names of the namespaces that begin with prefix.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Do calls fn on a thread of its own inside the namespace at path. Sockets that fn opens, and processes that it
// starts, belong to that namespace. Goroutines that fn starts do not. The thread is never used for anything else
// afterwards, so no failure can leak the namespace into the rest of the program.
func Do(path string, fn func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open network namespace %s: %w", path, err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// onThread runs fn on a locked thread that ends with it. A panic or runtime.Goexit of fn continues in the caller.
func onThread(fn func() error) error {
	var err error
	var panicked any
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		runtime.LockOSThread() // not unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end: the runtime would keep it, and with it the namespace, to the end of the process.
			defer runtime.UnlockOSThread()
			err = onThread(fn)
			returned = true
			return
		}
		err = fn()
		returned = true
	}()
	<-done
	switch {
	case panicked != nil:
		panic(panicked)
	case !returned: // runtime.Goexit, as testing.T.FailNow calls it
		runtime.Goexit()
	}
	return err
}
