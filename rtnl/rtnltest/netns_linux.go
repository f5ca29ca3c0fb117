package rtnltest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl"
)

const (
	netnsDir    = "/run/netns" // where iproute2 looks for named namespaces
	netnsPrefix = "podnet-test-"
)

// Netns is a network namespace of its own for one test, named like those of "ip netns", so that other processes can enter it.
type Netns struct {
	name string
}

// NewNetns makes a fresh network namespace whose loopback is up, and removes it when the test ends. Namespaces that killed test
// processes left behind are removed too. Without the privilege the test is skipped, see [RequireKernel].
func NewNetns(t testing.TB) *Netns {
	t.Helper()
	RequireKernel(t, "a network namespace")
	if err := prepareNetnsDir(); err != nil {
		t.Fatalf("prepare %s: %v", netnsDir, err)
	}
	sweepNetns()
	path, err := reserveNetnsName()
	if err != nil {
		t.Fatalf("name a network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := removeNetns(path); err != nil {
			t.Errorf("remove network namespace: %v", err)
		}
	})
	if err := onOwnThread(func() error { return bindNewNetns(path) }); err != nil {
		if errors.Is(err, unix.EPERM) {
			Lacking(t, fmt.Sprintf("may not make a network namespace: %v", err))
		}
		t.Fatalf("make network namespace %s: %v", path, err)
	}
	return &Netns{name: filepath.Base(path)}
}

// Name returns the name for "ip -n".
func (n *Netns) Name() string { return n.name }

// Path returns the path that other processes can open.
func (n *Netns) Path() string { return filepath.Join(netnsDir, n.name) }

// Remove takes the namespace away before the test ends. It lives on while a socket or process is in it.
func (n *Netns) Remove() error { return removeNetns(n.Path()) }

// Conn opens a connection to the namespace and closes it when the test ends.
func (n *Netns) Conn(t testing.TB) *rtnl.Conn {
	t.Helper()
	c, err := rtnl.Open(rtnl.Options{Netns: n.Path()})
	if err != nil {
		t.Fatalf("open rtnetlink in %s: %v", n.name, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Do runs f on a thread that is in the namespace. Goroutines that f starts are not. Sockets that f opens stay in the namespace.
// A t.Fatal inside f ends f only: Do then returns an error.
func (n *Netns) Do(f func() error) error {
	return onOwnThread(func() error {
		ns, err := os.Open(n.Path())
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.name, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that it may move to other namespaces. The goroutine never unlocks the thread, so the runtime ends it
// afterwards instead of handing it to other goroutines: there is no restoring that could fail.
func onOwnThread(f func() error) error {
	err := errors.New("the function did not return (t.Fatal or a panic inside)")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end: the runtime would keep it, and with it the namespace, to the end of the process.
			defer runtime.UnlockOSThread()
			err = onOwnThread(f)
			return
		}
		err = f()
	}()
	<-done
	return err
}

// bindNewNetns moves the calling thread into a new namespace and pins that at path.
func bindNewNetns(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// prepareNetnsDir makes the directory a shared mount as ip(8) does: else every process in a mount namespace of its own (ip netns
// exec, a systemd service) would keep a copy of our mounts, and so the namespaces, alive.
func prepareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil { // ip(8) takes the same lock
		return fmt.Errorf("flock: %w", err)
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	return unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// reserveNetnsName creates the mount point podnet-test-PID-N with the first free N.
func reserveNetnsName() (string, error) {
	for n := 1; ; n++ {
		path := filepath.Join(netnsDir, netnsPrefix+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(n))
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return path, f.Close()
	}
}

// sweepNetns removes the namespaces of test processes that are dead.
func sweepNetns() {
	paths, err := filepath.Glob(filepath.Join(netnsDir, netnsPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), netnsPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && n > 0 && errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			_ = removeNetns(path) // another process may sweep at the same time
		}
	}
}

func removeNetns(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
