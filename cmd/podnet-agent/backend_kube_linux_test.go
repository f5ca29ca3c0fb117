package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/podnet/podnet/rtnl"
)

// TestBackendKubernetes changes the backend of two nodes one after the other, by the steps of the guide, as when a ConfigMap reaches one node earlier than the other. Each
// publishes its own backend meanwhile, which the other one does not have (yet).
func TestBackendKubernetes(t *testing.T) {
	c := newKubeCluster(t, 2, nil)
	a, b := c.nodes[0], c.nodes[1]
	conf := func(n *testNode) string { return c.path(n.name + "-net-conf.json") }
	change := func(n *testNode, backend string) {
		t.Helper()
		temp := c.path("net-conf.new")
		write(t, temp, `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": `+backend+`}`)
		if err := os.Rename(temp, conf(n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes {
		c.join(n)
		c.pod(n)
		change(n, `{"Type": "vxlan"}`)
		c.start(n, "--net-conf", conf(n), "--backend-linger", "5s", "--resync", "500ms")
	}
	for _, n := range c.nodes {
		n.waitReady()
		c.wantCondition(n, "False PodnetIsUp")
	}
	wantReach(t, a, b)
	for _, step := range []struct {
		backend string
		is      func(n *testNode) bool
	}{
		{`{"Type": "vxlan", "DirectRouting": true}`, func(n *testNode) bool { return directRoutes(t, n) == 2 && n.routes(rtnl.ProtocolVXLAN) == 2 }},
		{`{"Type": "host-gw"}`, func(n *testNode) bool { return n.routes(rtnl.ProtocolHostGW) == 2 }},
		{`{"Type": "vxlan", "DirectRouting": true}`, func(n *testNode) bool { return directRoutes(t, n) == 2 && n.routes(rtnl.ProtocolVXLAN) == 2 }},
		{`{"Type": "vxlan"}`, func(n *testNode) bool { return directRoutes(t, n) == 0 && n.routes(rtnl.ProtocolVXLAN) == 2 }},
	} {
		var probes []*probe
		for _, v6 := range []bool{false, true} {
			p := startProbe(t, a, b, v6)
			p.answers(1)
			probes = append(probes, p)
		}
		for _, n := range c.nodes {
			change(n, step.backend)
			if !poll(patience, func() bool { return step.is(n) }) {
				t.Fatalf("%s does not change to %s", n.name, step.backend)
			}
			n.waitReady()
			for _, p := range probes {
				p.answers(300) // between the two
			}
		}
		for i, p := range probes {
			p.answers(200)
			sent, lost, outage := p.finish()
			what := fmt.Sprintf("%s, IPv%d: %d sent, %d lost, at most %v without an answer", step.backend, 4+2*i, sent, lost, outage)
			if t.Log(what); lost > 0 {
				t.Error(what)
			}
		}
	}
}

// directRoutes counts the routes of podnet over the uplink.
func directRoutes(t *testing.T, n *testNode) (count int) {
	t.Helper()
	routes, err := n.conn.Routes(t.Context(), rtnl.RouteFilter{Link: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol == rtnl.ProtocolVXLAN || r.Protocol == rtnl.ProtocolHostGW {
			count++
		}
	}
	return count
}
