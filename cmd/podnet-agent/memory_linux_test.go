package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestMemory runs the real binary with 5,000 dual-stack nodes, in one file and in a file each, and has one node change.
func TestMemory(t *testing.T) {
	rtnltest.RequireKernel(t, "5,000 peers in a network namespace")
	if testing.Short() {
		t.Skip("-short: 5,000 peers take seconds")
	}
	const nodes, limit = 5000, 64 << 10 // KiB
	for _, perFile := range []int{nodes, 1} {
		t.Run(fmt.Sprintf("%d per file", perFile), func(t *testing.T) {
			c := newCluster(t, 1)
			c.netConf("vxlan", "10.0.0.0/8")
			n := c.nodes[0]
			mustWrite(t, n.conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("172.16.0.1/12")}})
			describeMany(t, c.path("nodes"), nodes, perFile, -1)
			n.command() // builds the binary
			start := time.Now()
			n.start("--resync", "1s")
			n.waitReady()
			t.Logf("ready after %v", time.Since(start).Round(time.Millisecond))
			if got := n.metric("podnet_agent_peers "); got != fmt.Sprintf("podnet_agent_peers %d", nodes) {
				t.Fatalf("%q", got)
			}
			for i := range 3 { // changes of one node, each re-read and written
				writes := n.metric(`podnet_agent_kernel_writes_total{concern="vxlan"}`)
				describeMany(t, c.path("nodes"), nodes, perFile, i)
				if !poll(10*time.Second, func() bool { return n.metric(`podnet_agent_kernel_writes_total{concern="vxlan"}`) != writes }) {
					t.Fatal("the change was not seen")
				}
			}
			n.waitReady()
			passes := func() string { return n.metric("podnet_agent_reconcile_duration_seconds_count") }
			for range 5 { // passes without a change
				last := passes()
				if !poll(10*time.Second, func() bool { return passes() != last }) {
					t.Fatal("no pass")
				}
			}
			resident, peak := memory(t, n.cmd.Process.Pid)
			t.Logf("VmRSS %.1f MiB, VmHWM %.1f MiB", float64(resident)/1024, float64(peak)/1024)
			if peak > limit {
				t.Errorf("peak %d KiB, want at most %d", peak, limit)
			}
		})
	}
}

// describeMany writes descriptions; that of node changed gets another address.
func describeMany(t *testing.T, dir string, nodes, perFile, changed int) {
	t.Helper()
	var text bytes.Buffer
	for i := range nodes {
		host := 2 + i
		if i == changed {
			host += 20000
		}
		fmt.Fprintf(&text, "---\nname: peer-%d\npodCIDRs: [\"10.%d.%d.0/24\", \"fd00:244:0:%x::/64\"]\naddresses: [\"172.%d.%d.%d\", \"fd00:192:0:1::%x\"]\n",
			i, 1+i>>8, i&255, 0x1000+i, 16+host>>16, host>>8&255, host&255, host)
		if (i+1)%perFile > 0 {
			continue
		}
		path := filepath.Join(dir, fmt.Sprintf("peers-%d.yaml", i/perFile))
		if old, err := os.ReadFile(path); err != nil || !bytes.Equal(old, text.Bytes()) {
			if err := errors.Join(os.WriteFile(path+".tmp", text.Bytes(), 0o600), os.Rename(path+".tmp", path)); err != nil {
				t.Fatal(err)
			}
		}
		text.Reset()
	}
}

func memory(t *testing.T, pid int) (resident, peak int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		words := strings.Fields(line)
		switch words[0] {
		case "VmRSS:":
			resident, err = strconv.Atoi(words[1])
		case "VmHWM:":
			peak, err = strconv.Atoi(words[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return resident, peak
}
