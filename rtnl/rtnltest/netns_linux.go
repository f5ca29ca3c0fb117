package rtnltest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
)

const netnsPrefix = "podnet-test-"

// Netns is a network namespace of its own for one test, named like those of "ip netns", so that other processes can enter it.
type Netns struct {
	name string
}

// NewNetns makes a fresh network namespace whose loopback is up, and removes it when the test ends. Namespaces that killed test
// processes left behind are removed too. Without the privilege the test is skipped, see [RequireKernel].
func NewNetns(t testing.TB) *Netns {
	t.Helper()
	RequireKernel(t, "a network namespace")
	sweepNetns()
	name, err := createNetns()
	if errors.Is(err, unix.EPERM) {
		Lacking(t, fmt.Sprintf("may not make a network namespace: %v", err))
	}
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	n := &Netns{name: name}
	t.Cleanup(func() {
		if err := n.Remove(); err != nil {
			t.Errorf("remove network namespace: %v", err)
		}
	})
	c, err := rtnl.Open(rtnl.Options{Netns: n.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // an open connection would keep the namespace alive after Remove
	if err := errors.Join(c.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Set, Object: rtnl.Link{Name: "lo", Up: rtnl.On}}})...); err != nil {
		t.Fatal(err)
	}
	return n
}

// Name returns the name for "ip -n".
func (n *Netns) Name() string { return n.name }

// Path returns the path that other processes can open.
func (n *Netns) Path() string { return netns.Path(n.name) }

// Remove takes the namespace away before the test ends. It lives on while a socket or process is in it.
func (n *Netns) Remove() error { return netns.Delete(n.name) }

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
func (n *Netns) Do(f func() error) error { return netns.Do(n.Path(), f) }

// createNetns makes podnet-test-PID-N with the first free N.
func createNetns() (string, error) {
	for n := 1; ; n++ {
		name := netnsPrefix + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(n)
		if err := netns.Create(name); !errors.Is(err, os.ErrExist) {
			return name, err
		}
	}
}

// sweepNetns removes the namespaces of test processes that are dead.
func sweepNetns() {
	names, err := netns.List(netnsPrefix)
	if err != nil {
		return
	}
	for _, name := range names {
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, netnsPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && n > 0 && errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			_ = netns.Delete(name) // another process may sweep at the same time
		}
	}
}
