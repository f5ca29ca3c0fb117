package masq_test

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/masq/masqtest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestContractFake(t *testing.T) {
	masqtest.Contract(t, &masqtest.Kernel{}, masq.NFTables, masq.IPTables)
}

func golden(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", path, diff)
	}
}

// applyTwice applies c with both backends to fakes and checks that the second time nothing is left to do. It returns the fakes.
func applyTwice(t *testing.T, c masq.Config) map[masq.Backend]*masqtest.Kernel {
	t.Helper()
	kernels := map[masq.Backend]*masqtest.Kernel{}
	for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
		k := &masqtest.Kernel{}
		r := masq.New(k, masq.Options{Backend: b})
		planned, err := r.Plan(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		done, err := r.Apply(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if planned.String() != done.String() {
			t.Errorf("planned:\n%s\ndid:\n%s", planned, done)
		}
		if again, err := r.Apply(t.Context(), c); err != nil || !again.Empty() {
			t.Errorf("second Apply: %v\n%s", err, again)
		}
		kernels[b] = k
	}
	return kernels
}

func TestApply(t *testing.T) {
	several := dualStack()
	several.PodCIDRs = append(several.PodCIDRs, cidrs("10.244.7.0/24")...)
	several.ClusterCIDRs = append(several.ClusterCIDRs, cidrs("10.250.0.0/16")...)
	several.NonMasquerade = cidrs("10.0.0.0/8", "10.1.0.0/16", "172.16.0.0/12", "172.16.0.0/12")
	several.Forward = true
	for _, tt := range []struct {
		name   string
		config masq.Config
	}{
		{"zero", masq.Config{}},
		{"dual-stack", dualStack()},
		{"several", several},
		{"pods-alone", masq.Config{PodCIDRs: cidrs("10.22.0.0/16")}},
		{"cluster-alone", masq.Config{ClusterCIDRs: cidrs("fd00:10::/32")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var dump strings.Builder
			kernels := applyTwice(t, tt.config)
			for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
				dump.WriteString(kernels[b].Dump())
				r := masq.New(kernels[b], masq.Options{Backend: b})
				if _, err := r.Apply(t.Context(), masq.Config{}); err != nil {
					t.Error(err)
				}
				if left := kernels[b].Dump(); left != "" {
					t.Errorf("left after Apply of the zero Config:\n%s", left)
				}
			}
			golden(t, tt.name, dump.String())
		})
	}
}

func TestPackets(t *testing.T) {
	for b, k := range applyTwice(t, dualStack()) {
		for _, p := range packets {
			for i := range p.src {
				packet := masqtest.Packet{Src: netip.MustParseAddr(p.src[i]), Dst: netip.MustParseAddr(p.dst[i]), Mark: uint32(p.mark)}
				if have := k.Lookup(packet); have != p.want {
					t.Errorf("%s: %s: %+v: %s, want %s", b, p.name, packet, have, p.want)
				}
			}
		}
	}
}

// TestOracle compares both backends with the purposes of the rules, said without rules, for every pair of interesting addresses.
func TestOracle(t *testing.T) {
	config := dualStack()
	config.PodCIDRs = append(config.PodCIDRs, cidrs("10.244.7.0/24", "10.250.3.0/24")...)
	config.ClusterCIDRs = append(config.ClusterCIDRs, cidrs("10.250.0.0/16")...)
	config.NonMasquerade = append(config.NonMasquerade, cidrs("10.0.0.0/8", "172.16.0.0/12")...)
	within := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	wanted := func(p masqtest.Packet) masq.Verdict {
		fromCluster, toCluster := within(config.ClusterCIDRs, p.Src), within(config.ClusterCIDRs, p.Dst)
		toRemotePod := toCluster && !within(config.PodCIDRs, p.Dst)
		wayOut := fromCluster && !toCluster && !within(config.NonMasquerade, p.Dst) && !p.Dst.IsMulticast()
		if p.Mark&0x4000 == 0 && (wayOut || toRemotePod && !fromCluster) {
			return masq.Masquerade
		}
		return masq.Return
	}
	var addrs [2][]netip.Addr
	for i, list := range [2][]string{
		{"10.243.255.255", "10.244.0.0", "10.244.1.1", "10.244.2.1", "10.244.7.255", "10.244.255.255", "10.250.3.9", "10.250.4.0", "10.251.0.0", "172.31.0.1", "192.0.2.1", "198.51.100.7", "223.255.255.255", "224.0.0.1", "239.1.1.1", "255.255.255.255"},
		{"fd00:f::1", "fd00:10::1", "fd00:10:1::1", "fd00:10:2::1", "fd00:11::", "2001:db8::1", "2001:db8:100::1", "fe80::1", "ff02::1", "ff0e::1"},
	} {
		for _, s := range list {
			addrs[i] = append(addrs[i], netip.MustParseAddr(s))
		}
	}
	for b, k := range applyTwice(t, config) {
		for _, list := range addrs {
			for _, src := range list {
				for _, dst := range list {
					for _, mark := range []uint32{0, 0x4000, 0x8000, 0xffffffff} {
						p := masqtest.Packet{Src: src, Dst: dst, Mark: mark}
						if have, want := k.Lookup(p), wanted(p); have != want {
							t.Errorf("%s: %+v: %s, want %s", b, p, have, want)
						}
					}
				}
			}
		}
	}
}

// TestReplace: from any config to any other, old ranges are gone. The old rules are found by ownership, not by memory (a new Reconciler each time).
func TestReplace(t *testing.T) {
	configs := []masq.Config{
		dualStack(), {}, {PodCIDRs: cidrs("10.9.0.0/16")}, {ClusterCIDRs: cidrs("fd01::/48"), Forward: true}, {PodCIDRs: cidrs("10.9.0.0/16"), Forward: true},
	}
	for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
		for i, from := range configs {
			for j, to := range configs {
				want, have := &masqtest.Kernel{}, &masqtest.Kernel{}
				for _, step := range []struct {
					k *masqtest.Kernel
					c masq.Config
				}{{want, to}, {have, from}, {have, to}} {
					if _, err := masq.New(step.k, masq.Options{Backend: b}).Apply(t.Context(), step.c); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(want.Dump(), have.Dump()); diff != "" {
					t.Errorf("%s: config %d after %d (-want +have):\n%s", b, j, i, diff)
				}
			}
		}
	}
}

func TestRepair(t *testing.T) {
	type rules = []masq.Rule
	edits := map[string]func(*masqtest.Kernel, masq.Chain){
		"flush":     func(k *masqtest.Kernel, _ masq.Chain) { k.Flush() },
		"no hook":   func(k *masqtest.Kernel, c masq.Chain) { k.Hook(c, 0) },
		"two hooks": func(k *masqtest.Kernel, c masq.Chain) { k.Hook(c, 2) },
		"all rules": func(k *masqtest.Kernel, c masq.Chain) { k.Edit(c, func(rules) rules { return nil }) },
		"duplicate": func(k *masqtest.Kernel, c masq.Chain) { k.Edit(c, func(r rules) rules { return append(r, r[0]) }) },
		"order":     func(k *masqtest.Kernel, c masq.Chain) { k.Edit(c, func(r rules) rules { slices.Reverse(r); return r }) },
		"insert": func(k *masqtest.Kernel, c masq.Chain) {
			k.Edit(c, func(r rules) rules { return slices.Insert(r, 0, masq.Rule{Verdict: masq.Return}) })
		},
		"first": func(k *masqtest.Kernel, c masq.Chain) { k.Edit(c, func(r rules) rules { return r[1:] }) },
		"last":  func(k *masqtest.Kernel, c masq.Chain) { k.Edit(c, func(r rules) rules { return r[:len(r)-1] }) },
	}
	config := dualStack()
	config.Forward = true
	for b, k := range applyTwice(t, config) {
		r := masq.New(k, masq.Options{Backend: b})
		want := k.Dump()
		for _, c := range k.Chains() {
			for name, edit := range edits {
				edit(k, c)
				if p, err := r.Plan(t.Context(), config); err != nil || p.Empty() {
					t.Errorf("%s: Plan after %s: %v, empty %t", c, name, err, p.Empty())
				}
				if _, err := r.Apply(t.Context(), config); err != nil {
					t.Errorf("%s: Apply after %s: %v", c, name, err)
				}
				if diff := cmp.Diff(want, k.Dump()); diff != "" {
					t.Fatalf("%s: after %s (-want +have):\n%s", c, name, diff)
				}
			}
		}
	}
}

// TestFaults fails every call in turn: the error comes through, the other family is done, and the next Apply converges.
func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	config := dualStack()
	for _, b := range []masq.Backend{masq.Auto, masq.NFTables, masq.IPTables} {
		for _, clean := range []bool{false, true} {
			for n := 0; ; n++ {
				k, calls := &masqtest.Kernel{}, 0
				r := masq.New(k, masq.Options{Backend: b})
				want := config
				if clean {
					want = masq.Config{}
					if _, err := r.Apply(t.Context(), config); err != nil {
						t.Fatal(err)
					}
				}
				k.Fault(func(masqtest.Call) error {
					if calls++; calls == n+1 {
						return broken
					}
					return nil
				})
				done, err := r.Apply(t.Context(), want)
				if calls <= n {
					break
				}
				probed := b == masq.Auto && !clean && n == 0 // falls through to the other backend
				if !probed && !errors.Is(err, broken) {
					t.Errorf("%s call %d: error %v, want %v", b, n, err, broken)
				}
				if !probed && (b != masq.Auto || clean || n > 0) && len(done) != 1 {
					t.Errorf("%s call %d: did %d changes, want that of the other family", b, n, len(done))
				}
				k.Fault(nil)
				if _, err := r.Apply(t.Context(), want); err != nil {
					t.Errorf("%s call %d: next Apply: %v", b, n, err)
				}
				if p, err := r.Plan(t.Context(), want); err != nil || !p.Empty() {
					t.Errorf("%s call %d: Plan after that: %v\n%s", b, n, err, p)
				}
			}
		}
	}
}

func TestBackend(t *testing.T) {
	ctx, config := t.Context(), dualStack()
	k := &masqtest.Kernel{}
	k.Missing(masq.NFTables)
	if _, err := masq.New(k, masq.Options{}).Apply(ctx, config); err != nil {
		t.Fatal(err)
	}
	if dump := k.Dump(); !strings.Contains(dump, "*nat # iptables") || strings.Contains(dump, "table ip ") {
		t.Errorf("Auto without nftables:\n%s", dump)
	}
	if err := masq.New(k, masq.Options{}).Watch(ctx, func() {}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Watch with iptables: %v, want %v", err, errors.ErrUnsupported)
	}
	k.Missing(masq.IPTables)
	if _, err := masq.New(k, masq.Options{}).Apply(ctx, config); err == nil || !strings.Contains(err.Error(), "no packet filter") {
		t.Errorf("Auto without any: %v", err)
	}
	if _, err := masq.New(k, masq.Options{Backend: 9}).Apply(ctx, config); err == nil || !strings.Contains(err.Error(), "Backend 9") {
		t.Errorf("backend 9: %v", err)
	}
	if _, err := masq.New(k, masq.Options{}).Apply(ctx, masq.Config{Forward: true}); err == nil || !strings.Contains(err.Error(), "Forward") {
		t.Errorf("invalid config: %v", err)
	}

	k = &masqtest.Kernel{}
	for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
		if _, err := masq.New(k, masq.Options{Backend: b}).Apply(ctx, config); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(k.Dump(), "table ip") {
		t.Errorf("nftables rules are left after a change to iptables:\n%s", k.Dump())
	}
	if _, err := masq.New(k, masq.Options{Backend: masq.NFTables}).Apply(ctx, config); err != nil {
		t.Fatal(err)
	}
	if _, err := masq.New(k, masq.Options{Backend: masq.NFTables}).Apply(ctx, masq.Config{}); err != nil || k.Dump() != "" {
		t.Errorf("left after Apply of the zero Config: %v\n%s", err, k.Dump())
	}
}

// hostile are names that must reach no table but one of our own.
var hostile = []string{"filter", "nat", "kube-proxy", "x; flush ruleset", "a\nflush ruleset", `"`, "--help", "../../etc", "{", "\x00", "\xff", strings.Repeat("n", 10_000), "podnet-masq-", "ñandú"}

func TestNames(t *testing.T) {
	k := &masqtest.Kernel{}
	names := append([]string{"", "a", "b"}, hostile...)
	seen := map[masq.Chain]string{}
	for _, name := range names {
		for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
			done, err := masq.New(k, masq.Options{Name: name, Backend: b}).Apply(t.Context(), masq.Config{PodCIDRs: cidrs("10.1.0.0/16"), Forward: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range done {
				if c.Verb == masq.Delete {
					continue
				}
				if other, taken := seen[c.Chain]; taken {
					t.Errorf("%q and %q share %s", name, other, c.Chain)
				}
				seen[c.Chain] = name
				if own := c.Chain.Table; b == masq.NFTables && !strings.HasPrefix(own, "podnet-masq") || len(c.Chain.Name) > 28 {
					t.Errorf("%q: chain %s", name, c.Chain)
				}
			}
		}
	}
	for _, same := range []string{"", masq.DefaultName} {
		p, err := masq.New(k, masq.Options{Name: same, Backend: masq.IPTables}).Plan(t.Context(), masq.Config{PodCIDRs: cidrs("10.1.0.0/16"), Forward: true})
		if err != nil || !p.Empty() {
			t.Errorf("name %q: %v\n%s", same, err, p)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, k := range []masq.Kernel{&masqtest.Kernel{}, &masq.Netfilter{}} {
		if _, err := masq.New(k, masq.Options{}).Apply(ctx, dualStack()); err == nil {
			t.Errorf("%T: Apply with a cancelled context: no error", k)
		}
	}
}
