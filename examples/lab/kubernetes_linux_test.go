package main

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

func TestKubernetesTopology(t *testing.T) {
	topo, err := newTopology(options{nodes: 3, pods: 2, backend: "vxlan", family: "ipv6", kubernetes: true}, "id", "/dir")
	if err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParseAddr("fd00:192:168:30::a"); topo.control.addr(true) != want || topo.control.addr(false).IsValid() {
		t.Errorf("control plane at %v, want only %s", topo.control.ports[0].addrs, want)
	}
	for _, n := range topo.nodes {
		if len(n.podCIDRs) != 0 {
			t.Errorf("%s has podCIDRs %v before the controller manager gave it any", n.name, n.podCIDRs)
		}
	}
	if n := topo.plan(3, segmentA); n.name != "node-d" || len(n.pods) != 2 || n.pods[1].name != "pod-d2" {
		t.Errorf("the fourth node: %+v", n)
	}
}

func TestRelative(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "a/b"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{"c": "../a/b", "a": "b", "link": "."} {
		if got, err := relative(filepath.Join(dir, from), filepath.Join(dir, "link")); err != nil || got != want {
			t.Errorf("from %s: %q, %v, want %q", from, got, err, want)
		}
	}
}

func TestSinceFirstAnswer(t *testing.T) {
	start := time.Unix(0, 0)
	f := &flow{interval: time.Millisecond}
	for i, ok := range []bool{false, false, true, false, true} {
		f.sent, f.back = append(f.sent, start.Add(time.Duration(i)*time.Millisecond)), append(f.back, ok)
	}
	if first, r := f.sinceFirstAnswer(); first.Sub(start) != 2*time.Millisecond || r.lost != 1 || r.sent != 3 {
		t.Errorf("first after %v, %d of %d lost, want 2ms and 1 of 3", first.Sub(start), r.lost, r.sent)
	}
	f.back = make([]bool, 5)
	if first, _ := f.sinceFirstAnswer(); !first.IsZero() {
		t.Errorf("first %v though nothing came back", first)
	}
}

// TestKilledKubernetesLabIsSweptAway kills a lab while its control plane runs; the next one removes what it left.
func TestKilledKubernetesLabIsSweptAway(t *testing.T) {
	controlplanetest.Binaries(t)
	bin := build(t)
	first := exec.Command(filepath.Join(bin, "lab"), "--kubernetes", "--deploy", "../../deploy", "--nodes", "2", "--pods", "1", "--keep")
	var out lockedBuffer
	first.Stdout, first.Stderr = &out, &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(runsDir, idPrefix+pidOf(first))
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(out.String(), "agents:") {
		if time.Now().After(deadline) {
			_ = first.Process.Kill()
			t.Fatalf("the lab did not come up: %s", out.String())
		}
		time.Sleep(10 * time.Millisecond) // a poll with a deadline; the condition is the lab's output
	}
	if running(t, dir) == 0 {
		t.Error("no control plane runs: the test proves nothing")
	}
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if len(leftovers(t, pidOf(first))) == 0 {
		t.Fatal("the killed lab left nothing: the test proves nothing")
	}
	if swept, err := sweep(); err != nil || len(swept) == 0 {
		t.Fatalf("swept %v, %v", swept, err)
	}
	if left := leftovers(t, pidOf(first)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	deadline = time.Now().Add(10 * time.Second)
	for running(t, dir) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes of the killed lab still run", running(t, dir))
		}
		time.Sleep(10 * time.Millisecond) // a poll with a deadline; killed processes take a moment to go
	}
}

// running counts the processes that name a directory in their command line.
func running(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte(dir+"/")) {
			n++
		}
	}
	return n
}
