package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/internal/subnetenv"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/vxlan"
)

// TestCluster runs the real binary on three nodes and does to them what happens in real life.
func TestCluster(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	c := newCluster(t, 3)
	a, b := c.nodes[0], c.nodes[1]
	before := dump(t, a)
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"packets", func(t *testing.T) {
			wantReach(t, a, b)
			wantReach(t, b, c.nodes[2])
		}},
		{"files", func(t *testing.T) { wantFiles(t, a) }},
		{"second agent", func(t *testing.T) { wantSecondRefused(t, a) }},
		{"heals", func(t *testing.T) { wantHeals(t, a, b) }},
		{"uplink", func(t *testing.T) { wantUplinkFollowed(t, a, b) }},
		{"descriptions", func(t *testing.T) { wantDescriptionsFollowed(t, a, b, c.nodes[2]) }},
		{"restarts", func(t *testing.T) { wantRestartsUnnoticed(t, a, b) }},
		{"backend", func(t *testing.T) { wantBackendSwitched(t, c) }},
		{"cleanup", func(t *testing.T) { wantCleanup(t, a, before) }},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

// patience is for changes that are to be seen; how fast is measured in wantHeals.
const patience = 10 * time.Second

func dump(t *testing.T, n *testNode) string {
	t.Helper()
	text, err := rtnltest.Dump(context.Background(), n.conn)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func wantFiles(t *testing.T, n *testNode) {
	env, err := subnetenv.Read(n.path(n.name, "subnet.env"))
	if err != nil {
		t.Fatal(err)
	}
	want := "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
	if diff := cmp.Diff(want, env.String()); diff != "" {
		t.Errorf("subnet file (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(n.path(n.name, "net.d", "10-podnet.conflist")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if v, err := n.conn.Sysctl(context.Background(), name); v != "1" {
			t.Errorf("%s = %q, %v", name, v, err)
		}
	}
}

func wantSecondRefused(t *testing.T, n *testNode) {
	cmd := n.command("--listen", "")
	var out []byte
	err := n.ns.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	var exit *exec.ExitError
	if want := fmt.Sprintf("another podnet-agent (process %d) works here", n.cmd.Process.Pid); !errors.As(err, &exit) || exit.ExitCode() != exitFault || !strings.Contains(string(out), want) {
		t.Errorf("got %v and %q, want status %d and %q", err, out, exitFault, want)
	}
}

func masqConfig(t *testing.T, n *testNode) masq.Config {
	t.Helper()
	env, err := subnetenv.Read(n.path(n.name, "subnet.env"))
	if err != nil {
		t.Fatal(err)
	}
	c := masq.Config{ClusterCIDRs: env.Networks, Forward: true}
	for _, s := range env.Subnets {
		c.PodCIDRs = append(c.PodCIDRs, s.Masked())
	}
	return c
}

// wantUplinkFollowed changes the MTU of the uplink, and takes it away and gives it back.
func wantUplinkFollowed(t *testing.T, a, b *testNode) {
	ctx := context.Background()
	vtep := vxlan.DeviceName(1, rtnl.IPv4)
	setMTU := func(mtu int) {
		mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", MTU: mtu}})
		if !poll(patience, func() bool {
			l, err := a.conn.Link(ctx, vtep)
			env, err2 := subnetenv.Read(a.path(a.name, "subnet.env"))
			return err == nil && l.MTU == mtu-50 && err2 == nil && env.MTU == mtu-70
		}) {
			t.Errorf("the VTEP does not follow the uplink's MTU %d", mtu)
		}
	}
	setMTU(1400)
	setMTU(1500)

	mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: "eth0"}})
	if !poll(patience, func() bool {
		code, body := a.get("/readyz")
		return code == 503 && strings.Contains(body, "uplink: ")
	}) {
		_, body := a.get("/readyz")
		t.Errorf("without an uplink: %s", body)
	}
	a.plug()
	start := time.Now()
	a.waitReady()
	t.Logf("ready %v after the uplink came back", time.Since(start).Round(time.Millisecond))
	wantReach(t, a, b)
}

// wantDescriptionsFollowed changes node descriptions.
func wantDescriptionsFollowed(t *testing.T, a, b, c *testNode) {
	ctx := context.Background()
	routeTo := func(n *testNode) bool {
		routes, err := a.conn.Routes(ctx, rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Dst.Contains(n.pod(false)) {
				return true
			}
		}
		return false
	}
	if err := os.Remove(c.path("nodes", c.name+".yaml")); err != nil {
		t.Fatal(err)
	}
	if !poll(patience, func() bool { return !routeTo(c) }) {
		t.Error("the route to a removed node is still there")
	}
	c.describe()
	if !poll(patience, func() bool { return routeTo(c) }) {
		t.Error("no route to an added node")
	}

	c.describeAs(strings.Replace(c.descriptor(), "10.244.3.0/24", "10.244.3.7/24", 1))
	const invalid = "podnet_agent_node_descriptions_invalid"
	if !poll(patience, func() bool { return a.metric(invalid) == invalid+" 1" }) {
		t.Errorf("%q after a broken description", a.metric(invalid))
	}
	if code, body := a.get("/readyz"); code != 200 || !strings.Contains(body, `podCIDRs[0] "10.244.3.7/24": has host bits: want 10.244.3.0/24`) {
		t.Errorf("/readyz = %d %s", code, body)
	}
	wantReach(t, a, b)
	if !routeTo(c) {
		t.Error("the last good description was forgotten")
	}

	// Another node that claims what node-2 has: the smaller name wins, on every node.
	c.describeAs(strings.Replace(c.descriptor(), "10.244.3.0/24", "10.244.2.0/24", 1))
	if !poll(patience, func() bool {
		_, body := a.get("/readyz")
		return strings.Contains(body, `peer "node-3": PodCIDR 10.244.2.0/24: overlaps 10.244.2.0/24 of`)
	}) {
		_, body := a.get("/readyz")
		t.Errorf("/readyz: %s", body)
	}
	wantReach(t, a, b)
	c.describe()
	if !poll(patience, func() bool { return a.metric(invalid) == invalid+" 0" && routeTo(c) }) {
		t.Errorf("%q after all is well again", a.metric(invalid))
	}
}

// wantRestartsUnnoticed kills and starts agents on both ends; no packet may be lost.
func wantRestartsUnnoticed(t *testing.T, a, b *testNode) {
	for _, v6 := range []bool{false, true} {
		p := startProbe(t, a, b, v6)
		for i := range 12 {
			n, sig := []*testNode{a, b}[i%2], []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[i/2%2]
			if err := n.kill(sig); sig == syscall.SIGTERM && err != nil {
				t.Errorf("%s after SIGTERM: %v", n.name, err)
			}
			n.start()
			n.waitReady()
		}
		sent, lost, _ := p.finish()
		t.Logf("IPv6 %v: %d sent, %d lost", v6, sent, lost)
		if lost > 0 || sent < 50 {
			t.Errorf("IPv6 %v: %d of %d packets lost", v6, lost, sent)
		}
	}
}

// wantBackendSwitched restarts all agents with host-gw, and with vxlan again.
func wantBackendSwitched(t *testing.T, c *testCluster) {
	for _, backend := range []struct {
		name      string
		used, old rtnl.Protocol
		vteps     int
	}{{"host-gw", rtnl.ProtocolHostGW, rtnl.ProtocolVXLAN, 0}, {"vxlan", rtnl.ProtocolVXLAN, rtnl.ProtocolHostGW, 2}} {
		c.netConf(backend.name, "10.244.0.0/16")
		for _, n := range c.nodes {
			_ = n.kill(syscall.SIGTERM)
			n.start()
		}
		for _, n := range c.nodes {
			n.waitReady()
			used, err := n.conn.Routes(context.Background(), rtnl.RouteFilter{Protocol: backend.used})
			old, err2 := n.conn.Routes(context.Background(), rtnl.RouteFilter{Protocol: backend.old})
			if err := errors.Join(err, err2); err != nil || len(used) != 4 || len(old) != 0 {
				t.Errorf("%s, %s: %d routes of ours, %d left of the other, %v", n.name, backend.name, len(used), len(old), err)
			}
			links, err := n.conn.Links(context.Background())
			vteps := 0
			for _, l := range links {
				if l.Kind == rtnl.KindVXLAN {
					vteps++
				}
			}
			if err != nil || vteps != backend.vteps {
				t.Errorf("%s, %s: %d VTEPs, %v", n.name, backend.name, vteps, err)
			}
		}
		wantReach(t, c.nodes[0], c.nodes[1])
	}
}

// wantCleanup stops an agent and cleans up behind it: the namespace has to be as before.
func wantCleanup(t *testing.T, n *testNode, before string) {
	_ = n.kill(syscall.SIGTERM)
	cmd := n.command("--cleanup", "--log-level", "debug")
	if err := n.ns.Do(func() error {
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// eth0 was made anew meanwhile: only its port on the fabric and the kernel's own choices differ.
	if diff := cmp.Diff(stable(before), stable(dump(t, n))); diff != "" {
		t.Errorf("kernel (-before +after):\n%s", diff)
	}
	chains, err := (&masq.Netfilter{Netns: n.ns.Path()}).Observe(context.Background(), []masq.Chain{
		{Backend: masq.NFTables, Family: masq.IPv4, Table: masq.DefaultName, Name: "postrouting"},
		{Backend: masq.NFTables, Family: masq.IPv6, Table: masq.DefaultName, Name: "postrouting"}})
	if err != nil || len(chains) > 0 {
		t.Errorf("chains left: %v, %v", chains, err)
	}
	if p, err := hostgw.New(n.conn, hostgw.Options{}).Plan(context.Background(), hostgw.Config{}); err != nil || !p.Empty() {
		t.Errorf("host-gw left: %v, %v", p, err)
	}
	for _, path := range []string{n.path(n.name, "subnet.env"), n.path(n.name, "net.d", "10-podnet.conflist"), n.path(n.name, "state", "files.json"), n.path(n.name, "state", "agent.lock")} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// stable drops what the kernel chooses anew for a new device: MACs, link-local addresses, learned neighbours.
func stable(dump string) string {
	var out strings.Builder
	for line := range strings.Lines(dump) {
		learned := strings.HasPrefix(line, "neigh ") && !strings.Contains(line, "permanent")
		if learned || strings.Contains(line, "fe80:") {
			continue
		}
		words := strings.Fields(line)
		for i := 1; i < len(words); i++ {
			if words[i-1] == "address" || words[i-1] == "lladdr" {
				words[i] = "MAC"
			}
		}
		fmt.Fprintln(&out, strings.Join(words, " "))
	}
	return out.String()
}
