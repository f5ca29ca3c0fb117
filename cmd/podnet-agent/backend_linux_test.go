package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestBackendChanges rewrites the network configuration under running agents and traffic. A "cloud" (a router to which every node has its default route) knows the
// way to all pods, so that with backend alloc nothing is needed on the nodes.
func TestBackendChanges(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	c := newCluster(t, 2)
	newCloud(t, c)
	for _, n := range c.nodes {
		n.start("--backend-linger", "200ms", "--resync", "500ms")
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	a, b := c.nodes[0], c.nodes[1]
	probes := map[bool]*probe{}
	for _, v6 := range []bool{false, true} {
		if probes[v6] = startProbe(t, a, b, v6); !probes[v6].answers(1) {
			t.Fatalf("no packet arrives (IPv6: %v)", v6)
		}
	}
	pids := []int{a.cmd.Process.Pid, b.cmd.Process.Pid}
	for _, step := range []struct {
		backend       string
		vxlan, hostGW int
	}{{"host-gw", 0, 2}, {"alloc", 0, 0}, {"vxlan", 2, 0}, {"alloc", 0, 0}, {"host-gw", 0, 2}, {"vxlan", 2, 0}} {
		c.changeNetConf(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "` + step.backend + `"}}`)
		start := time.Now()
		for _, n := range c.nodes {
			if !poll(patience, func() bool {
				return n.routes(rtnl.ProtocolVXLAN) == step.vxlan && n.routes(rtnl.ProtocolHostGW) == step.hostGW
			}) {
				t.Fatalf("%s, %s: %d routes of vxlan, %d of host-gw, want %d and %d", n.name, step.backend, n.routes(rtnl.ProtocolVXLAN), n.routes(rtnl.ProtocolHostGW), step.vxlan, step.hostGW)
			}
			n.waitReady()
		}
		t.Logf("%s: all nodes after %v", step.backend, time.Since(start).Round(time.Millisecond))
		for v6, p := range probes {
			if !p.answers(100) {
				t.Errorf("%s: packets no longer arrive (IPv6: %v)", step.backend, v6)
			}
		}
	}
	for v6, p := range probes {
		sent, lost, outage := p.finish()
		t.Logf("IPv6 %v: %d sent, %d lost, at most %v without an answer", v6, sent, lost, outage.Round(time.Millisecond))
		if outage > 3*time.Second {
			t.Errorf("IPv6 %v: %v without an answer", v6, outage)
		}
	}
	// What cannot be used is said, and changes nothing.
	c.changeNetConf(`{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard"}}`)
	if !poll(patience, func() bool { return strings.Contains(a.log.String(), `Type \"wireguard\": want vxlan`) }) {
		t.Errorf("a faulty configuration is not reported:\n%s", a.log.String())
	}
	wantReach(t, a, b)
	for i, n := range c.nodes {
		if n.cmd.Process.Pid != pids[i] || n.routes(rtnl.ProtocolVXLAN) != 2 {
			t.Errorf("%s: process %d, want %d; %d routes", n.name, n.cmd.Process.Pid, pids[i], n.routes(rtnl.ProtocolVXLAN))
		}
	}
}

// TestBackendLingers changes the backend of two nodes one after the other: the one that is late still sends through the tunnel.
func TestBackendLingers(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	late := c.path("net-conf-late.json")
	text, err := os.ReadFile(c.path("net-conf.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, late, string(text))
	a.start("--backend-linger", "3s", "--resync", "500ms")
	b.start("--backend-linger", "3s", "--resync", "500ms", "--net-conf", late)
	a.waitReady()
	b.waitReady()
	var probes []*probe
	for _, v6 := range []bool{false, true} {
		p := startProbe(t, a, b, v6)
		p.answers(1)
		probes = append(probes, p)
	}
	hostGW := strings.Replace(string(text), "vxlan", "host-gw", 1)
	c.changeNetConf(hostGW)
	if !poll(patience, func() bool { return a.routes(rtnl.ProtocolHostGW) == 2 }) {
		t.Fatal("the backend does not change")
	}
	for _, p := range probes {
		p.answers(300)
	}
	write(t, late, hostGW)
	for _, n := range c.nodes {
		if !poll(patience, func() bool {
			links, err := n.conn.Links(t.Context())
			return err == nil && n.routes(rtnl.ProtocolHostGW) == 2 && !slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Kind == rtnl.KindVXLAN })
		}) {
			t.Errorf("%s: the tunnel stays", n.name)
		}
	}
	for i, p := range probes {
		p.answers(100)
		sent, lost, _ := p.finish()
		t.Logf("IPv%d: %d sent, %d lost", 4+2*i, sent, lost)
		if lost > 0 {
			t.Errorf("IPv%d: %d of %d packets lost", 4+2*i, lost, sent)
		}
	}
}

// changeNetConf replaces the file as Kubernetes does: by a rename.
func (c *testCluster) changeNetConf(text string) {
	c.t.Helper()
	write(c.t, c.path("net-conf.new"), text)
	if err := os.Rename(c.path("net-conf.new"), c.path("net-conf.json")); err != nil {
		c.t.Fatal(err)
	}
}

// routes counts the routes of a protocol.
func (n *testNode) routes(p rtnl.Protocol) int {
	n.t.Helper()
	routes, err := n.conn.Routes(n.t.Context(), rtnl.RouteFilter{Protocol: p})
	if err != nil {
		n.t.Fatal(err)
	}
	return len(routes)
}

// newCloud joins a router to the nodes' segment.
func newCloud(t *testing.T, c *testCluster) {
	t.Helper()
	router := rtnltest.NewNetns(t)
	conn := router.Conn(t)
	mustWrite(t, c.fabric.Conn(t),
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "router", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: router.Path()}}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "router", Master: "br0"}})
	v4, v6 := netip.MustParsePrefix("192.168.1.254/24"), netip.MustParsePrefix("fd00:192::ffff/64")
	mustWrite(t, conn,
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: v4}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: v6, NoDAD: true}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}})
	for _, n := range c.nodes {
		for _, r := range []struct {
			dst string
			gw  netip.Addr
		}{{fmt.Sprintf("10.244.%d.0/24", n.index), n.addr(false)}, {fmt.Sprintf("fd00:244:0:%d::/64", n.index), n.addr(true)}} {
			mustWrite(t, conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix(r.dst), Gateway: r.gw, Link: "eth0", Protocol: rtnl.ProtocolStatic}.Canonical()})
		}
		mustWrite(t, n.conn,
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: v4.Addr(), Link: "eth0", Protocol: rtnl.ProtocolStatic}.Canonical()},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: v6.Addr(), Link: "eth0", Protocol: rtnl.ProtocolStatic}.Canonical()})
	}
}
