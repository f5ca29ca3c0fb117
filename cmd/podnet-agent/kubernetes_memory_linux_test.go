package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi/kubeapitest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// writeKubeconfig names the test's API server.
func writeKubeconfig(t *testing.T, path string, s *kubeapitest.Server) {
	t.Helper()
	type named map[string]any
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"clusters": []named{{"name": "x", "cluster": map[string]any{"server": s.HTTP.URL, "certificate-authority-data": s.CA(), "tls-server-name": "example.com"}}},
		"users":    []named{{"name": "x", "user": map[string]any{"token": "t"}}},
		"contexts": []named{{"name": "x", "context": map[string]any{"cluster": "x", "user": "x"}}}})
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKubernetesMemory runs the real binary with 5,000 dual-stack nodes of 10 KB, which all send their heartbeats, and some change.
func TestKubernetesMemory(t *testing.T) {
	rtnltest.RequireKernel(t, "5,000 peers in a network namespace")
	if testing.Short() {
		t.Skip("-short: 5,000 peers take seconds")
	}
	const nodes, limit = 5000, 64 << 10 // KiB
	c := newCluster(t, 1)
	c.netConf("vxlan", "10.0.0.0/8")
	n := c.nodes[0]
	mustWrite(t, n.conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("172.16.0.1/12")}})
	var l net.Listener
	if err := n.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s := kubeapitest.NewOn(t, l)
	peer := func(i, host int) {
		o := kubeapitest.Fill(kubeapitest.Node(fmt.Sprintf("peer-%d", i), i,
			[]string{fmt.Sprintf("10.%d.%d.0/24", 1+i>>8, i&255), fmt.Sprintf("fd00:244:0:%x::/64", 0x1000+i)},
			[]string{fmt.Sprintf("172.%d.%d.%d", 16+host>>16, host>>8&255, host&255), fmt.Sprintf("fd00:192:0:1::%x", host)}))
		o.Annotations["flannel.alpha.coreos.com/backend-type"] = "vxlan"
		o.Annotations["flannel.alpha.coreos.com/kube-subnet-manager"] = "true"
		o.Annotations["flannel.alpha.coreos.com/public-ip"] = o.Status.Addresses[0].Address
		o.Annotations["flannel.alpha.coreos.com/public-ipv6"] = o.Status.Addresses[1].Address
		o.Annotations["flannel.alpha.coreos.com/backend-data"] = fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, i>>8, i&255)
		o.Annotations["flannel.alpha.coreos.com/backend-v6-data"] = fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:01:%02x:%02x"}`, i>>8, i&255)
		s.Put(o)
	}
	for i := range nodes {
		peer(i, 2+i)
	}
	s.Put(kubeapitest.Node(n.name, 0, []string{"10.200.0.0/24", "fd00:244:0:1::/64"}, []string{"172.16.0.1", "fd00:192::1"}))
	writeKubeconfig(t, c.path("kubeconfig"), s)
	cmd := (&kubeCluster{testCluster: c}).command(n, "--resync", "1s")
	cmd.Stdout, cmd.Stderr = &n.log, &n.log
	start := time.Now()
	if err := n.ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	n.cmd = cmd
	n.waitReady()
	t.Logf("ready after %v", time.Since(start).Round(time.Millisecond))
	if got := n.metric("podnet_agent_peers "); got != fmt.Sprintf("podnet_agent_peers %d", nodes) {
		t.Fatalf("%q", got)
	}
	for i := range nodes { // heartbeats
		peer(i, 2+i)
	}
	for i := range 3 {
		writes := n.metric(`podnet_agent_kernel_writes_total{concern="vxlan"}`)
		peer(i, 2+i+20000)
		if !poll(10*time.Second, func() bool { return n.metric(`podnet_agent_kernel_writes_total{concern="vxlan"}`) != writes }) {
			t.Fatal("the change was not seen")
		}
	}
	if !poll(20*time.Second, func() bool {
		return strings.HasSuffix(n.metric(`podnet_agent_kube_watch_events_total{type="MODIFIED"}`), fmt.Sprint(" ", nodes+3+1)) // and our own annotations
	}) {
		t.Fatal(n.metric(`podnet_agent_kube_watch_events_total{type="MODIFIED"}`))
	}
	passes := func() string { return n.metric("podnet_agent_reconcile_duration_seconds_count") }
	for range 5 {
		last := passes()
		if !poll(10*time.Second, func() bool { return passes() != last }) {
			t.Fatal("no pass")
		}
	}
	poll(5*time.Second, func() bool { return saved(n) })
	resident, peak := memory(t, n.cmd.Process.Pid)
	t.Logf("VmRSS %.1f MiB, VmHWM %.1f MiB; %s; CPU %s; heap %s", float64(resident)/1024, float64(peak)/1024,
		n.metric("podnet_agent_kube_received_bytes_total"), n.metric("process_cpu_seconds_total"), n.metric("go_memstats_heap_inuse_bytes"))
	if peak > limit {
		t.Errorf("peak %d KiB, want at most %d", peak, limit)
	}
}
