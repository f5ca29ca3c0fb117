package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
)

func TestValidateTakesGoodConfigs(t *testing.T) {
	largest := cluster(2)[1]
	largest.VNI = maxVNI
	for name, c := range map[string]Config{"zero": {}, "both families": cluster(3)[0], "many": manyPeers(300), "largest VNI": largest} {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestValidate: every fault names field, value and what is allowed, and all are reported at once.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   []string
	}{
		{func(c *Config) { c.VNI = 1 << 24 }, []string{"vxlan: VNI 16777216: want 1 to 16777215"}},
		{func(c *Config) { c.Underlay = "" }, []string{`vxlan: Underlay "": want a device name`}},
		{func(c *Config) { c.Underlay = "veth%d" }, []string{`vxlan: Underlay "veth%d": want a device name`}},
		{func(c *Config) { c.TxChecksum = 9 }, []string{"vxlan: TxChecksum 9: want Unset, On or Off"}},
		{func(c *Config) { c.Endpoints = nil; c.Peers = c.Peers[:1] }, []string{"vxlan: Endpoints: none; want one per address family of Peers"}},
		{func(c *Config) { c.Endpoints[1] = c.Endpoints[0]; c.Endpoints[1].Device = "x"; c.Peers = c.Peers[:1] }, []string{"vxlan: Endpoints[1].Local 192.168.0.1: a second endpoint of IPv4; want one per family"}},
		{func(c *Config) { c.Endpoints[1].Device = "podnet.1" }, []string{`vxlan: Endpoints[1].Device "podnet.1": used twice`}},
		{func(c *Config) { c.Endpoints[1].Device = "eth0" }, []string{`vxlan: Endpoints[1].Device "eth0": used twice`}},
		{func(c *Config) { c.Endpoints[0].Device = "a/b" }, []string{`vxlan: Endpoints[0].Device "a/b": want a device name`}},
		{func(c *Config) { c.Endpoints[0].Local = netip.Addr{} }, []string{"vxlan: Endpoints[0].Local is missing"}},
		{func(c *Config) { c.Endpoints[0].Local = addr("127.0.0.1") }, []string{"vxlan: Endpoints[0].Local 127.0.0.1: want a unicast address"}},
		{func(c *Config) { c.Endpoints[0].PodCIDR = prefix("10.244.0.1/24") }, []string{"vxlan: Endpoints[0].PodCIDR 10.244.0.1/24: has host bits; want 10.244.0.0/24"}},
		{func(c *Config) { c.Endpoints[0].PodCIDR = prefix("fd01::/64") }, []string{"vxlan: Endpoints[0].PodCIDR fd01::/64: want the address family of Local 192.168.0.1"}},
		{func(c *Config) { c.Endpoints[0].PodCIDR = prefix("192.168.0.0/16") }, []string{"vxlan: Endpoints[0].PodCIDR 192.168.0.0/16: holds Local 192.168.0.1"}},
		{func(c *Config) { c.Endpoints[0].MAC = rtnl.MAC{} }, []string{`vxlan: Endpoints[0].MAC "": want a unicast address other than zero`}},
		{func(c *Config) { c.Endpoints[0].MAC = rtnl.MAC{1} }, []string{`vxlan: Endpoints[0].MAC "01:00:00:00:00:00": want a unicast address other than zero`}},
		{func(c *Config) { c.Endpoints[0].MTU = 67 }, []string{"vxlan: Endpoints[0].MTU 67: want 0 (from the underlay), or 68 to 65535"}},
		{func(c *Config) { c.Endpoints[1].MTU = 1279 }, []string{"vxlan: Endpoints[1].MTU 1279: want 0 (from the underlay), or 1280 to 65535"}},
		{func(c *Config) { c.Peers[0].MAC = c.Endpoints[0].MAC }, []string{`peer "n2": MAC ` + macOf(1, 4).String() + ": is that of this node"}},
		{func(c *Config) { c.Peers[0].MAC = rtnl.MAC{} }, []string{`peer "n2": MAC "": want a unicast address other than zero`}},
		{func(c *Config) { c.Peers[2].MAC = c.Peers[0].MAC }, []string{`peer "n3": MAC ` + macOf(2, 4).String() + `: is that of peer "n2"`}},
		{func(c *Config) { c.Peers[2].PodCIDR = c.Peers[0].PodCIDR }, []string{`peer "n3": PodCIDR 10.244.2.0/24: overlaps 10.244.2.0/24 of peer "n2"`}},
		{func(c *Config) { c.ClusterCIDRs = []netip.Prefix{prefix("10.244.0.0/15")}; c.Peers = nil }, nil},
		{func(c *Config) { c.ClusterCIDRs = []netip.Prefix{prefix("10.244.0.1/16")}; c.Peers = nil }, []string{"vxlan: ClusterCIDRs[0] 10.244.0.1/16: has host bits; want 10.244.0.0/16"}},
		{
			func(c *Config) { c.ClusterCIDRs = []netip.Prefix{prefix("10.244.0.0/23"), prefix("fd00::/8")} },
			[]string{`peer "n2": PodCIDR 10.244.2.0/24: want a part of the cluster's pod ranges [10.244.0.0/23 fd00::/8]`, `peer "n3": PodCIDR 10.244.3.0/24: want a part`},
		},
		{
			func(c *Config) { c.VNI = 1 << 25; c.Endpoints[0].MTU = 1; c.Peers[0].Addr = addr("0.0.0.0") },
			[]string{"vxlan: VNI 33554432", "vxlan: Endpoints[0].MTU 1", `peer "n2": Addr 0.0.0.0: want a unicast address`},
		},
	} {
		config := cluster(3)[0]
		c.change(&config)
		err := config.Validate()
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v\nwant it to say %q", err, want)
			}
		}
		n := 0
		if err != nil {
			n = strings.Count(err.Error(), "\n") + 1
		}
		if n != len(c.want) {
			t.Errorf("%d faults reported, want %d: %v", n, len(c.want), err)
		}
	}
}

// TestTheFirstByNameWins whatever the order in which the peers are given.
func TestTheFirstByNameWins(t *testing.T) {
	c := cluster(4)[0]
	c.Peers[4].PodCIDR = c.Peers[2].PodCIDR // n4 claims the pods of n3
	want, wantErr := c.acceptPeers()
	slices.Reverse(c.Peers)
	got, gotErr := c.acceptPeers()
	if diff := cmp.Diff(fmt.Sprint(want, wantErr), fmt.Sprint(got, gotErr)); diff != "" {
		t.Errorf("order matters (-forward +backward):\n%s", diff)
	}
	var refused *PeerError
	if len(gotErr) != 1 || !errors.As(gotErr[0], &refused) || refused.Peer != "n4" {
		t.Errorf("refused %v, want n4", gotErr)
	}
}

func TestMACFor(t *testing.T) {
	seen := map[rtnl.MAC]string{}
	for i := range 20000 {
		for _, device := range []string{"podnet.1", "podnet-v6.1"} {
			key := fmt.Sprintf("node-%d %s", i, device)
			m := MACFor(fmt.Sprintf("node-%d", i), device)
			if m.IsMulticast() || m[0]&2 == 0 {
				t.Fatalf("%s: %s is not a locally administered unicast address", key, m)
			}
			if other := seen[m]; other != "" {
				t.Fatalf("%s and %s both have %s", key, other, m)
			}
			seen[m] = key
		}
	}
	// It is on the wire and in other nodes' tables: it may never change.
	if got, want := MACFor("n1", "podnet.1").String(), "3a:08:45:46:6d:8d"; got != want {
		t.Errorf("MACFor(n1, podnet.1) = %s, want %s", got, want)
	}
}

func TestDeviceName(t *testing.T) {
	for _, c := range []struct {
		vni    uint32
		family rtnl.Family
		want   string
	}{
		{0, rtnl.IPv4, "podnet.1"}, {1, rtnl.IPv6, "podnet-v6.1"}, {99999, rtnl.IPv6, "podnet-v6.99999"},
		{100000, rtnl.IPv6, "pod-v6.100000"}, {maxVNI, rtnl.IPv4, "podnet.16777215"}, {maxVNI, rtnl.IPv6, "pod-v6.16777215"},
	} {
		if got := DeviceName(c.vni, c.family); got != c.want || len(got) > 15 {
			t.Errorf("DeviceName(%d, %d) = %q, want %q", c.vni, c.family, got, c.want)
		}
	}
}

func TestMTUFor(t *testing.T) {
	if got := [2]int{MTUFor(1500, rtnl.IPv4), MTUFor(1500, rtnl.IPv6)}; got != [2]int{1450, 1430} {
		t.Errorf("got %v, want 1450 and 1430", got)
	}
}

func TestTxChecksumFor(t *testing.T) {
	for release, want := range map[string]rtnl.Switch{
		"":                      rtnl.Unset,
		"unknown":               rtnl.Unset,
		"3.10.0-1160.el7":       rtnl.Off,
		"4.19.0-27-amd64":       rtnl.Off,
		"4.19.122":              rtnl.Off,
		"4.19.123":              rtnl.On,
		"5.3.18":                rtnl.Off,
		"5.4.40":                rtnl.Off,
		"5.4.41-generic":        rtnl.On,
		"5.5.19":                rtnl.Off,
		"5.6.12":                rtnl.Off,
		"5.6.13":                rtnl.On,
		"5.7-rc1":               rtnl.On,
		"5.15.0-134-generic":    rtnl.On,
		"6.1.0-18-amd64":        rtnl.On,
		"6.18.5":                rtnl.On,
		"7.0.0-rc3-next-202612": rtnl.On,
	} {
		if got := TxChecksumFor(release); got != want {
			t.Errorf("TxChecksumFor(%q) = %v, want %v", release, got, want)
		}
	}
}

func TestInterested(t *testing.T) {
	c := cluster(2)[0]
	for _, e := range []struct {
		event rtnl.Event
		want  bool
	}{
		{rtnl.Event{Overflow: true}, true},
		{rtnl.Event{Object: "link", Link: "podnet.1"}, true},
		{rtnl.Event{Object: "link", Link: "podnet-v6.1", Deleted: true}, true},
		{rtnl.Event{Object: "link", Link: "eth0"}, true},
		{rtnl.Event{Object: "link", Deleted: true}, true},
		{rtnl.Event{Object: "link", Link: "veth1234"}, false},
		{rtnl.Event{Object: "addr", Link: "eth0"}, true},
		{rtnl.Event{Object: "addr", Link: "veth1234"}, false},
		{rtnl.Event{Object: "route", Link: "podnet.1", Protocol: rtnl.ProtocolVXLAN, Deleted: true}, true},
		{rtnl.Event{Object: "route", Protocol: rtnl.ProtocolVXLAN, Deleted: true}, true},
		{rtnl.Event{Object: "route", Link: "eth0", Protocol: rtnl.ProtocolKernel}, true},
		{rtnl.Event{Object: "route", Link: "cni0", Protocol: rtnl.ProtocolKernel}, false},
		{rtnl.Event{Object: "neigh", Link: "podnet.1"}, true},
		{rtnl.Event{Object: "neigh", Link: "eth0"}, false},
		{rtnl.Event{Object: "neigh", Link: "cni0"}, false},
		{rtnl.Event{Object: "addr"}, false},
	} {
		if got := c.Interested(e.event); got != e.want {
			t.Errorf("Interested(%+v) = %v, want %v", e.event, got, e.want)
		}
	}
}
