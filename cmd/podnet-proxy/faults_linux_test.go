package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// The tests in this file are rows of the table that make faults prints, area D; test/faults has the catalogue. What they measure they say by t.Attr.

// TestFaultRestart: while a proxy is killed and started over and over, no connection fails and no UDP flow changes its server.
func TestFaultRestart(t *testing.T) {
	rtnltest.RequireKernel(t, "a node in a network namespace")
	b := newBed(t)
	b.describeWeb(2, 3, 4)
	b.start("--mode", "nftables")
	b.servers(b.client, "udp", "10.96.0.10:80", pod(false, 2), pod(false, 3), pod(false, 4))
	const flows, clients = 30, 4
	sockets, servers := make([]net.Conn, flows), make([]string, flows)
	for i := range sockets {
		if err := b.client.Do(func() (err error) { sockets[i], err = net.Dial("udp", "10.96.0.10:80"); return err }); err != nil {
			t.Fatal(err)
		}
		defer sockets[i].Close()
	}
	same := func() {
		t.Helper()
		for i, c := range sockets {
			server, _, err := question(c)
			switch {
			case err != nil:
				t.Errorf("flow %d: %v", i, err)
			case servers[i] != "" && server != servers[i]:
				t.Errorf("flow %d moved from %s to %s", i, servers[i], server)
			}
			servers[i] = server
		}
	}
	same()
	var all sync.WaitGroup
	var quit atomic.Bool
	var sent, lost atomic.Int64
	lostSYN := b.synRetransmits()
	for range clients {
		all.Go(func() {
			for !quit.Load() {
				sent.Add(1)
				if _, _, err := ask(b.client, "tcp", "10.96.0.10:80"); err != nil {
					lost.Add(1)
				}
			}
		})
	}
	start := time.Now()
	for i := range 20 {
		b.kill([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[i%2])
		if i == 10 {
			same()
		}
		b.start("--mode", "nftables")
		b.await(func() error {
			_, _, body, err := b.get("http://127.0.0.1:10249/metrics")
			if err == nil && !regexp.MustCompile(`(?m)^kubeproxy_sync_proxy_rules_last_timestamp_seconds\{ip_family="IPv4"\} [1-9]`).MatchString(body) {
				err = errors.New("no sync yet")
			}
			if err == nil && !strings.Contains(body, "\npodnet_proxy_kernel_writes_total 0\n") {
				t.Error("a restart wrote, though nothing had changed")
			}
			return err
		})
	}
	rate := float64(sent.Load()) / time.Since(start).Seconds()
	quit.Store(true)
	all.Wait()
	same()
	if n := b.synRetransmits() - lostSYN; lost.Load() > 0 || n > 0 {
		t.Errorf("%d of %d connections failed, %d lost a SYN", lost.Load(), sent.Load(), n)
	}
	t.Attr("failed", fmt.Sprintf("%d of %d", lost.Load(), sent.Load()))
	t.Logf("20 restarts, %.0f connections per second", rate)
}

// TestFaultNoMode: what a kernel lacks is found before anything is written, and named; auto takes another mode and says why.
func TestFaultNoMode(t *testing.T) {
	rtnltest.RequireKernel(t, "a node in a network namespace")
	b := newBed(t)
	b.describeWeb(2)
	if code, out := b.once("--mode", "ipvs", "--cleanup"); code != exitOK {
		t.Errorf("cleanup where nothing can be: status %d: %s", code, out)
	}
	t.Run("ipvs", func(t *testing.T) {
		if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
			t.Skip("this kernel has IPVS")
		}
		code, out := b.once("--mode", "ipvs")
		for _, want := range []string{"mode ipvs: this kernel has no IPVS", "modprobe ip_vs", "CONFIG_IP_VS"} {
			if code != exitFault || !strings.Contains(out, want) {
				t.Errorf("status %d and %q, want %d and %q", code, out, exitFault, want)
			}
		}
	})
	t.Run("no iptables", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		code, out := b.once("--mode", "iptables")
		if want := "install the package iptables"; code != exitFault || !strings.Contains(out, want) {
			t.Errorf("status %d and %q, want %d and %q", code, out, exitFault, want)
		}
	})
	if got := b.run("nft", "list", "ruleset"); strings.Contains(strings.ToLower(got), "podnet") {
		t.Errorf("written though it does not work:\n%s", got)
	}
	b.start()
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2))
	if want := `msg="mode auto" chosen=nftables because=`; !strings.Contains(b.log.String(), want) {
		t.Errorf("the log does not say %s", want)
	}
}

// TestFaultHuge: one change among 10,000 Services, and in a Service with 100,000 endpoints. The other endpoints are nowhere: only the changed Service is asked.
func TestFaultHuge(t *testing.T) {
	requireFaults(t)
	b := newBed(t)
	var text strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&text, "service: many/s%d\naddresses: [10.97.%d.%d]\nports: [{port: 80}]\nendpoints: [10.245.%d.%d, 10.246.%d.%d]\n---\n", i, i>>8, i&255, i>>8, i&255, i>>8, i&255)
	}
	b.describe("many.yaml", text.String())
	text.Reset()
	text.WriteString("service: one/huge\naddresses: [10.98.0.1]\nports: [{port: 80}]\nendpoints:\n")
	for i := range 100000 {
		fmt.Fprintf(&text, "- 10.%d.%d.%d\n", 247+i>>16, i>>8&255, i&255)
	}
	b.describe("huge.yaml", text.String())
	b.describeWeb(2)
	b.start("--mode", "nftables")
	deadline := time.Now().Add(time.Minute)
	for _, _, err := ask(b.client, "tcp", "10.96.0.10:80"); err != nil; _, _, err = ask(b.client, "tcp", "10.96.0.10:80") {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	var failed int
	for i := range 10 {
		want := 3 - i%2
		b.describeWeb(want)
		start := time.Now()
		for server := ""; server != pod(false, want); {
			var err error
			if server, _, err = ask(b.client, "tcp", "10.96.0.10:80"); err != nil {
				failed++
			}
			if time.Since(start) > time.Minute {
				t.Fatalf("after a minute: %s answers, %v", server, err)
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d connections failed", failed)
	}
	var took []time.Duration // by the syncs: until then the source looks for what changed in its files
	for _, m := range regexp.MustCompile(`full=false took=(\S+)`).FindAllStringSubmatch(b.log.String(), -1) {
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, d)
	}
	if len(took) < 10 {
		t.Fatalf("%d syncs: %v", len(took), took)
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("syncs: %v", took)
	t.Attr("change", fmt.Sprintf("%.1fms", float64(median.Microseconds())/1000))
	if median > 100*time.Millisecond {
		t.Errorf("one change takes %v", median)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m == nil {
		t.Error("no VmHWM")
	} else if _, err := fmt.Sscan(string(m[1]), &kib); err != nil || kib>>10 > 512 {
		t.Errorf("%d MiB resident at the peak, want at most 512", kib>>10)
	}
	t.Attr("memory", fmt.Sprintf("%d MiB", kib>>10))
}

func requireFaults(t *testing.T) {
	t.Helper()
	rtnltest.RequireKernel(t, "a node in a network namespace")
	if os.Getenv("PODNET_FAULTS") == "" {
		t.Skip("takes a while: make faults runs it (PODNET_FAULTS=1)")
	}
}
