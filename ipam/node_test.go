package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func prefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func mustNodes(t testing.TB, cfg NodeConfig) *NodeAllocator {
	t.Helper()
	a, err := NewNodeAllocator(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func expectBlocks(t *testing.T, a *NodeAllocator, node string, want ...string) {
	t.Helper()
	got, err := a.Allocate(node)
	if err != nil || !slices.Equal(got, prefixes(want...)) {
		t.Errorf("allocate %s: %v, %v, want %v", node, got, err, want)
	}
	if again, err := a.Allocate(node); err != nil || !slices.Equal(got, again) {
		t.Errorf("allocate %s again: %v, %v, want %v", node, again, err, got)
	}
	if look := a.Lookup(node); !slices.Equal(got, look) {
		t.Errorf("look up %s: %v, want %v", node, look, got)
	}
}

func TestNodeAllocate(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  NodeConfig
		want [][]string // of nodes in turn; nil is exhausted
	}{
		{"default masks", NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/23", "fd00::/48")},
			[][]string{{"10.0.0.0/24", "fd00::/64"}, {"10.0.1.0/24", "fd00:0:0:1::/64"}, nil}},
		{"one block", NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/24")}, [][]string{{"10.0.0.0/24"}, nil}},
		{"IPv6 first", NodeConfig{ClusterCIDRs: prefixes("fd00::/63", "10.0.0.0/16"), MaskSizeIPv4: 20},
			[][]string{{"fd00::/64", "10.0.0.0/20"}, {"fd00:0:0:1::/64", "10.0.16.0/20"}, nil}},
		{"several ranges", NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/24", "10.9.0.0/23")},
			[][]string{{"10.0.0.0/24"}, {"10.9.0.0/24"}, {"10.9.1.0/24"}, nil}},
		{"occupied", NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/21"), Occupied: prefixes("10.0.0.0/23", "10.0.1.0/24", "10.0.3.128/25", "10.0.6.0/23", "192.0.2.0/24", "fd00::/8")},
			[][]string{{"10.0.2.0/24"}, {"10.0.4.0/24"}, {"10.0.5.0/24"}, nil}},
		{"all occupied", NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/16"), Occupied: prefixes("10.0.0.0/8")}, [][]string{nil}},
		{"huge", NodeConfig{ClusterCIDRs: prefixes("fd00::/50"), MaskSizeIPv6: 112, Occupied: prefixes("fd00::/51")},
			[][]string{{"fd00:0:0:2000::/112"}, {"fd00:0:0:2000::1:0/112"}}},
		{"blocks of /80", NodeConfig{ClusterCIDRs: prefixes("fd00::/56"), MaskSizeIPv6: 80}, [][]string{{"fd00::/80"}, {"fd00:0:0:0:1::/80"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := mustNodes(t, test.cfg)
			for i, want := range test.want {
				node := fmt.Sprint("node-", i)
				if want != nil {
					expectBlocks(t, a, node, want...)
					continue
				}
				var e *ExhaustedError
				if got, err := a.Allocate(node); !errors.As(err, &e) || !errors.Is(err, ErrExhausted) {
					t.Errorf("allocate %s: %v, %v, want exhausted", node, got, err)
				} else if e.Used != uint64(i) || e.Capacity != uint64(i) {
					t.Errorf("%+v after %d", e, i)
				}
			}
		})
	}
}

// TestNodeAllOrNothing: while one family is exhausted, the other one must not leak a block per try.
func TestNodeAllOrNothing(t *testing.T) {
	a := mustNodes(t, NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/16", "fd00::/64")})
	expectBlocks(t, a, "a", "10.0.0.0/24", "fd00::/64")
	for range 1000 {
		if _, err := a.Allocate("b"); !errors.Is(err, ErrExhausted) {
			t.Fatal(err)
		}
	}
	if got := a.Stats()[0]; got.Used != 1 || got.Capacity != 256 {
		t.Errorf("%+v", got)
	}
	if a.Lookup("b") != nil {
		t.Error("a node without an IPv6 block has an IPv4 one")
	}
	if err := a.AddRange(netip.MustParsePrefix("fd01::/64")); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Allocate("b"); err != nil || got[1].String() != "fd01::/64" {
		t.Errorf("after a range was added: %v, %v", got, err)
	}
	for _, bad := range []string{"fd01::/64", "fd00::/48", "fd02::/65", "10.0.1.1/24", "224.0.0.0/8"} {
		if err := a.AddRange(netip.MustParsePrefix(bad)); err == nil {
			t.Errorf("range %s was added", bad)
		}
	}
	single := mustNodes(t, NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/16")})
	if err := single.AddRange(netip.MustParsePrefix("fd00::/48")); err == nil {
		t.Error("another family was added")
	}
}

func TestNodeOccupy(t *testing.T) {
	cfg := NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/22", "fd00::/48"), Occupied: prefixes("10.0.3.0/24")}
	for _, test := range []struct {
		name  string
		first []string // of node a
		then  []string // of node b
		want  string   // part of b's error
		next  string   // the IPv4 block that node c gets
	}{
		{"equal", []string{"10.0.0.0/24"}, []string{"10.0.0.0/24"}, "node b: podCIDR 10.0.0.0/24 overlaps podCIDR 10.0.0.0/24 of node a", "10.0.1.0/24"},
		{"second family equal", []string{"10.0.0.0/24", "fd00::/64"}, []string{"10.0.1.0/24", "fd00::/64"}, "overlaps podCIDR fd00::/64 of node a", "10.0.1.0/24"},
		{"larger", []string{"10.0.1.0/24"}, []string{"10.0.0.0/23"}, "10.0.0.0/23 overlaps podCIDR 10.0.1.0/24 of node a", "10.0.0.0/24"},
		{"smaller", []string{"10.0.0.0/23"}, []string{"10.0.1.0/24"}, "10.0.1.0/24 overlaps podCIDR 10.0.0.0/23 of node a", "10.0.2.0/24"},
		{"halves of a block", []string{"10.0.0.0/25"}, []string{"10.0.0.128/25"}, "", "10.0.1.0/24"},
		{"apart", []string{"10.0.0.0/24"}, []string{"10.0.1.0/24"}, "", "10.0.2.0/24"},
		{"in an occupied range", []string{"10.0.3.0/24"}, []string{"10.0.0.0/24"}, "", "10.0.1.0/24"},
		{"outside", []string{"10.0.0.0/24"}, []string{"10.1.0.0/24"}, "outside every cluster CIDR", "10.0.1.0/24"},
		{"larger than the range", nil, []string{"10.0.0.0/16"}, "outside every cluster CIDR", "10.0.0.0/24"},
		{"host bits", nil, []string{"10.0.1.1/24"}, "host bits", "10.0.0.0/24"},
		{"one family twice", nil, []string{"10.0.0.0/24", "10.0.1.0/24"}, "one CIDR per family", "10.0.0.0/24"},
		{"none", nil, []string{}, "one CIDR per family", "10.0.0.0/24"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := mustNodes(t, cfg)
			if test.first != nil {
				if err := a.Occupy("a", prefixes(test.first...)); err != nil {
					t.Fatal(err)
				}
				if err := a.Occupy("a", prefixes(test.first...)); err != nil {
					t.Errorf("once more: %v", err)
				}
			}
			err := a.Occupy("b", prefixes(test.then...))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("adopt: %v, want %q", err, test.want)
			}
			if err != nil && a.Lookup("b") != nil {
				t.Errorf("after a refusal b has %v", a.Lookup("b"))
			}
			got, err := a.Allocate("c")
			if err != nil || got[0].String() != test.next {
				t.Errorf("c got %v, %v, want %s", got, err, test.next)
			}
			for _, n := range []string{"a", "b", "c"} {
				a.Release(n)
			}
			for _, st := range a.Stats() {
				if st.Used != 0 || st.Quarantined != 0 {
					t.Errorf("after all were released: %+v", st)
				}
			}
		})
	}
}

func TestNodeQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := mustNodes(t, NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/23"), Quarantine: time.Minute})
		expectBlocks(t, a, "a", "10.0.0.0/24")
		expectBlocks(t, a, "b", "10.0.1.0/24")
		if got := a.Release("a"); !slices.Equal(got, prefixes("10.0.0.0/24")) {
			t.Errorf("released %v", got)
		}
		if a.Release("a") != nil {
			t.Error("released twice")
		}
		time.Sleep(59 * time.Second)
		var e *ExhaustedError
		if _, err := a.Allocate("c"); !errors.As(err, &e) || e.Used != 1 || e.Quarantined != 1 || e.Capacity != 2 {
			t.Errorf("in quarantine: %v", err)
		}
		expectBlocks(t, a, "a", "10.0.0.0/24") // its own comes back
		a.Release("a")
		if err := a.Occupy("d", prefixes("10.0.0.0/24")); err != nil { // adopted by another one meanwhile
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if _, err := a.Allocate("c"); !errors.Is(err, ErrExhausted) {
			t.Errorf("the adopted block was freed: %v", err)
		}
		a.Release("b")
		time.Sleep(time.Minute)
		expectBlocks(t, a, "c", "10.0.1.0/24")
	})
}

func TestNodeConfigFaults(t *testing.T) {
	for _, test := range []struct {
		cfg  NodeConfig
		want []string
	}{
		{NodeConfig{}, []string{"clusterCIDRs []: want at least one"}},
		{NodeConfig{ClusterCIDRs: []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.1/16")}, MaskSizeIPv4: 31, MaskSizeIPv6: -1, Quarantine: -1, Occupied: prefixes("10.0.0.1/8")},
			[]string{"clusterCIDRs[0]", "clusterCIDRs[1] 10.0.0.1/16: has host bits: want 10.0.0.0/16", "maskSizeIPv4 31: want 8 to 30", "maskSizeIPv6 -1", "quarantine -1ns", "occupied[0] 10.0.0.1/8"}},
		{NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/25")}, []string{"clusterCIDRs[0] 10.0.0.0/25: want /24 or larger"}},
		{NodeConfig{ClusterCIDRs: prefixes("fd00::/16"), MaskSizeIPv6: 112}, []string{"clusterCIDRs[0] fd00::/16: want /50 or smaller, for blocks of /112"}},
		{NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/16", "10.0.0.0/8")}, []string{"clusterCIDRs[1] 10.0.0.0/8: overlaps 10.0.0.0/16"}},
		{NodeConfig{ClusterCIDRs: prefixes("0.0.0.0/0", "224.0.0.0/8", "127.0.0.0/16", "169.254.0.0/16", "fe80::/48", "ff00::/16", "::/0")},
			[]string{"clusterCIDRs[0]", "multicast", "loopback", "clusterCIDRs[3]", "clusterCIDRs[4]", "clusterCIDRs[5]", "clusterCIDRs[6] ::/0: want less than the whole"}},
		{NodeConfig{ClusterCIDRs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 112)}}, []string{"want plain IPv4"}},
	} {
		err := test.cfg.Validate()
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", test.cfg, err, want)
			}
		}
	}
	a := mustNodes(t, NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/16")})
	for _, node := range []string{"", "../a", "a/b", "a b", strings.Repeat("a", 254)} {
		if _, err := a.Allocate(node); !errors.Is(err, ErrInvalidOwner) {
			t.Errorf("node %q: %v", node, err)
		}
	}
}

func BenchmarkNodeAllocateRelease(b *testing.B) {
	a := mustNodes(b, NodeConfig{ClusterCIDRs: prefixes("10.0.0.0/8", "fd00::/16")})
	for i := range 65000 {
		if _, err := a.Allocate(fmt.Sprint("n", i)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := a.Allocate("x"); err != nil {
			b.Fatal(err)
		}
		a.Release("x")
	}
}
