package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/kube"
)

var comparable = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestNode(t *testing.T) {
	known := kube.Node{Exists: true, Zone: "z1", Addrs: addrs("192.168.1.1", "192.168.1.2", "fd00::1"), PodCIDRs: prefixes("10.244.1.0/24")}
	cluster := proxyconfig.DetectLocal{Mode: proxyconfig.DetectClusterCIDR, ClusterCIDRs: prefixes("10.244.0.0/16")}
	for _, tt := range []struct {
		name   string
		config proxyconfig.Config
		mode   string
		node   kube.Node
		waited time.Duration
		want   service.Node
		ready  bool
	}{
		{"cluster CIDR, mode iptables", proxyconfig.Config{DetectLocal: cluster, NodePorts: proxyconfig.NodePorts{Default: true}}, "iptables", known, 0,
			service.Node{LocalPods: service.LocalPods{CIDRs: cluster.ClusterCIDRs}, PodCIDRs: cluster.ClusterCIDRs}, true},
		{"mode nftables: primary addresses", proxyconfig.Config{DetectLocal: cluster, NodePorts: proxyconfig.NodePorts{Default: true}}, "nftables", known, 0,
			service.Node{LocalPods: service.LocalPods{CIDRs: cluster.ClusterCIDRs}, PodCIDRs: cluster.ClusterCIDRs, NodePortAddrs: prefixes("192.168.1.1/32", "fd00::1/128")}, true},
		{"primary by --bind-address", proxyconfig.Config{BindAddress: netip.MustParseAddr("192.168.1.9"), NodePorts: proxyconfig.NodePorts{Primary: true}, DetectLocal: proxyconfig.DetectLocal{Mode: proxyconfig.DetectBridge, Bridge: "cni0"}}, "ipvs", known, 0,
			service.Node{Addrs: addrs("192.168.1.9", "192.168.1.1", "192.168.1.2", "fd00::1"), LocalPods: service.LocalPods{Interface: "cni0"}, NodePortAddrs: prefixes("192.168.1.9/32", "fd00::1/128")}, true},
		{"ranges", proxyconfig.Config{NodePorts: proxyconfig.NodePorts{CIDRs: prefixes("10.0.0.0/8")}, DetectLocal: proxyconfig.DetectLocal{Mode: proxyconfig.DetectPrefix, Prefix: "veth"}}, "nftables", known, 0,
			service.Node{LocalPods: service.LocalPods{InterfacePrefix: "veth"}, NodePortAddrs: prefixes("10.0.0.0/8")}, true},
		{"podCIDRs of the node", proxyconfig.Config{DetectLocal: proxyconfig.DetectLocal{Mode: proxyconfig.DetectNodeCIDR}}, "iptables", known, 0,
			service.Node{LocalPods: service.LocalPods{CIDRs: known.PodCIDRs}}, true},
		{"podCIDRs are missing", proxyconfig.Config{DetectLocal: proxyconfig.DetectLocal{Mode: proxyconfig.DetectNodeCIDR}}, "iptables", kube.Node{Exists: true}, time.Hour, service.Node{}, false},
		{"no addresses yet", proxyconfig.Config{NodePorts: proxyconfig.NodePorts{Default: true}}, "nftables", kube.Node{}, 29 * time.Second, service.Node{}, false},
		{"no addresses", proxyconfig.Config{NodePorts: proxyconfig.NodePorts{Default: true}}, "nftables", kube.Node{}, 30 * time.Second, service.Node{}, true},
		{"no addresses, from files", proxyconfig.Config{Services: "/x", NodePorts: proxyconfig.NodePorts{Default: true}}, "nftables", kube.Node{}, 0, service.Node{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.NodeName, tt.want.Name = "node-a", "node-a"
			if tt.want.Addrs == nil {
				tt.want.Addrs = tt.node.Addrs
			}
			tt.want.Zone, tt.want.ServiceCIDRs = tt.node.Zone, prefixes("10.96.0.0/12")
			got, ready := node(tt.config, tt.mode, tt.node, prefixes("10.96.0.0/12"), tt.waited)
			if diff := cmp.Diff(tt.want, got, comparable, cmpopts.EquateEmpty()); diff != "" || ready != tt.ready {
				t.Errorf("ready %v, want %v (-want +got):\n%s", ready, tt.ready, diff)
			}
		})
	}
}

// TestChangedFlows: a frontend that is gone is named with nobody who serves, unless another Service has it now.
func TestChangedFlows(t *testing.T) {
	ap := netip.MustParseAddrPort
	program := func(protocol service.Protocol, serving string, frontends ...service.Frontend) service.Program {
		return service.Program{Ports: []service.PortProgram{{Protocol: protocol, Family: service.IPv4, Frontends: frontends, Serving: []netip.AddrPort{ap(serving)}}}}
	}
	ip := func(s string) service.Frontend { return service.Frontend{Addr: ap(s).Addr(), Port: ap(s).Port()} }
	nodePort := service.Frontend{Kind: service.NodePort, Port: 30053}
	got := changedFlows(service.Report{Changes: []service.Change{
		{Before: program(service.UDP, "10.0.0.1:53", ip("10.96.0.10:53"), ip("10.96.0.11:53"), nodePort), After: program(service.UDP, "10.0.0.2:53", ip("10.96.0.10:53"))},
		{After: program(service.UDP, "10.0.0.3:53", ip("10.96.0.11:53"))},
		{Before: program(service.TCP, "10.0.0.1:53", ip("10.96.0.12:53")), After: program(service.TCP, "10.0.0.1:53", ip("10.96.0.12:53"))},
	}})
	want := conntrack.Config{Frontends: []conntrack.Frontend{
		{Addr: ap("10.96.0.10:53"), Serving: []netip.AddrPort{ap("10.0.0.2:53")}},
		{Addr: ap("10.96.0.11:53"), Serving: []netip.AddrPort{ap("10.0.0.3:53")}},
		{Addr: ap("0.0.0.0:30053")},
	}}
	if diff := cmp.Diff(want, got, comparable); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Somebody has flushed the rules, and a Service went meanwhile.
	got = changedFlows(service.Report{
		Full: true, Writes: 9, Programs: []service.Program{program(service.UDP, "10.0.0.1:53", ip("10.96.0.10:53")), program(service.TCP, "10.0.0.1:80", ip("10.96.0.12:80"), nodePort)},
		Changes: []service.Change{{Before: program(service.UDP, "10.0.0.3:53", ip("10.96.0.11:53"))}},
	})
	want = conntrack.Config{
		Frontends: []conntrack.Frontend{{Addr: ap("10.96.0.10:53"), Serving: []netip.AddrPort{ap("10.0.0.1:53")}}, {Addr: ap("10.96.0.11:53")}},
		Restored:  []conntrack.Restored{{Protocol: conntrack.TCP, Addr: ap("10.96.0.12:80")}},
	}
	if diff := cmp.Diff(want, got, comparable); diff != "" {
		t.Errorf("after a flush (-want +got):\n%s", diff)
	}
}
