package rtnltest_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

func netnsOfThread(t *testing.T) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNetns(t *testing.T) {
	here := netnsOfThread(t)
	var path string
	t.Run("life", func(t *testing.T) {
		ns := rtnltest.NewNetns(t)
		path = ns.Path()
		seen := make(map[string]bool)
		for range 100 { // no thread of the pool may stay in the namespace
			if err := ns.Do(func() error {
				seen[netnsOfThread(t)] = true
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if now := netnsOfThread(t); now != here {
				t.Fatalf("test runs in %s now, was %s", now, here)
			}
		}
		if len(seen) != 1 || seen[here] {
			t.Errorf("Do ran in %v, want one namespace other than %s", seen, here)
		}
		if out, err := exec.Command("ip", "-n", ns.Name(), "link", "show", "dev", "lo").CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
			t.Log("no ip(8) here: not tried from another process")
		} else if err != nil {
			t.Errorf("ip -n %s: %v: %s", ns.Name(), err, out)
		}
		want := errors.New("as returned")
		if err := ns.Do(func() error { return want }); err != want {
			t.Errorf("Do = %v, want %v", err, want)
		}
	})
	if _, err := os.Stat(path); path != "" && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: %v", path, err)
	}
}

func TestNetnsSweep(t *testing.T) {
	rtnltest.RequireKernel(t, "sweeping namespaces")
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	path := "/run/netns/podnet-test-" + strconv.Itoa(dead.Process.Pid) + "-1"
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rtnltest.NewNetns(t)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftover of a dead process is still there: %v", err)
		os.Remove(path)
	}
}
