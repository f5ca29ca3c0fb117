package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

func TestOptions(t *testing.T) {
	good := options{nodes: 3, pods: 2, backend: "vxlan", family: "dual", proxy: "nftables", checks: "all", slow: 1}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*options)
		want   string
	}{
		{func(o *options) { o.nodes = 0 }, "--nodes 0: allowed are 1 to 50"},
		{func(o *options) { o.pods = 51 }, "--pods 51: allowed are 1 to 50 per node"},
		{func(o *options) { o.backend = "udp" }, `--backend "udp": allowed are vxlan and host-gw`},
		{func(o *options) { o.family = "ipx" }, `--family "ipx": allowed are dual, ipv4 and ipv6`},
		{func(o *options) { o.proxy = "auto" }, `--proxy "auto": allowed are nftables, ipvs, iptables, none`},
		{func(o *options) { o.slow = 0 }, `--slow 0: allowed are 1 to 100`},
		{func(o *options) { o.checks = "none" }, `--checks "none": allowed are all and services`},
		{func(o *options) { o.checks, o.proxy = "services", "none" }, `--checks services: needs another --proxy than none`},
	} {
		o := good
		c.change(&o)
		if err := o.validate(); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestTopology(t *testing.T) {
	for _, c := range []struct {
		options
		behind int // nodes behind the router
	}{
		{options{nodes: 3, pods: 2, backend: "vxlan", family: "dual"}, 1},
		{options{nodes: 3, pods: 1, backend: "host-gw", family: "ipv4"}, 0},
		{options{nodes: 1, pods: 1, backend: "vxlan", family: "ipv6"}, 0},
	} {
		topo, err := newTopology(c.options, "id", "/dir")
		if err != nil {
			t.Fatal(err)
		}
		behind := 0
		for _, n := range topo.nodes {
			if behindRouter(topo.nodes[0], n) {
				behind++
			}
			if len(n.podCIDRs) != len(c.families()) || len(n.ports[0].addrs) != len(c.families()) {
				t.Errorf("%+v: %s has podCIDRs %v and addresses %v", c.options, n.name, n.podCIDRs, n.ports[0].addrs)
			}
		}
		if behind != c.behind {
			t.Errorf("%+v: %d nodes behind the router, want %d", c.options, behind, c.behind)
		}
	}
}

func TestFlowResult(t *testing.T) {
	start := time.Unix(0, 0)
	f := &flow{interval: time.Millisecond}
	for i, ok := range []bool{true, false, false, true, false} {
		f.sent, f.back = append(f.sent, start.Add(time.Duration(i)*time.Millisecond)), append(f.back, ok)
	}
	if got := f.result(); got.sent != 5 || got.lost != 3 || got.outage != 2*time.Millisecond {
		t.Errorf("%+v, want 5 sent, 3 lost, outage 2ms", got)
	}
}

func TestLoss(t *testing.T) {
	for _, c := range []struct {
		flowResult
		finding bool
	}{
		{flowResult{sent: 9}, false},
		{flowResult{sent: 9, noise: noise{queues: 5}}, false},
		{flowResult{sent: 9, lost: 1}, true},
		{flowResult{sent: 9, lost: 2, noise: noise{queues: 1}}, true},
		{flowResult{sent: 9, lost: 1, noise: noise{queues: 1}, outage: time.Millisecond}, false},
		{flowResult{sent: 9, lost: 1, noise: noise{queues: 1}, outage: time.Second}, true},
		{flowResult{sent: 9, lost: 3, noise: noise{neighbours: 1}}, false},
	} {
		if err := c.loss(); (err != nil) != c.finding {
			t.Errorf("%+v: %v", c.flowResult, err)
		}
	}
}

// build makes the binaries.
func build(t *testing.T) string {
	t.Helper()
	rtnltest.RequireKernel(t, "the namespaces of a lab")
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-o", bin+"/", "./cmd/podnet-agent", "./cmd/podnet-cni", "./cmd/podnet-proxy", "./examples/lab")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// leftovers returns what stands of the lab with this process ID.
func leftovers(t *testing.T, pid string) (left []string) {
	t.Helper()
	names, err := netns.List(idPrefix + pid + "-")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(runsDir, idPrefix+pid)); err == nil {
		left = append(left, "files")
	}
	return append(left, names...)
}

// TestKilledLabIsSweptAway kills a lab in the middle; the next one removes what it left, and leaves nothing itself.
func TestKilledLabIsSweptAway(t *testing.T) {
	bin := build(t)
	first := exec.Command(filepath.Join(bin, "lab"), "--nodes", "2", "--pods", "1", "--family", "ipv4", "--keep")
	var out lockedBuffer
	first.Stdout, first.Stderr = &out, &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(out.String(), "packets") {
		if time.Now().After(deadline) {
			_ = first.Process.Kill()
			t.Fatalf("the lab did not come up: %s", out.String())
		}
		time.Sleep(10 * time.Millisecond) // a poll with a deadline; the condition is the lab's output
	}
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	pid := pidOf(first)
	if len(leftovers(t, pid)) == 0 {
		t.Fatal("the killed lab left nothing: the test proves nothing")
	}

	second := exec.Command(filepath.Join(bin, "lab"), "--nodes", "1", "--pods", "2", "--json")
	stdout, err := second.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	var s summary
	if err := json.Unmarshal(stdout, &s); err != nil {
		t.Fatalf("--json: %v: %s", err, stdout)
	}
	if s.Failed != 0 || s.Passed == 0 || len(s.Nodes) != 1 || len(s.Conflist) == 0 {
		t.Errorf("summary: %+v", s)
	}
	if left := append(leftovers(t, pid), leftovers(t, pidOf(second))...); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func pidOf(cmd *exec.Cmd) string { return strconv.Itoa(cmd.Process.Pid) }

// lockedBuffer is a buffer that one goroutine writes and another reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
