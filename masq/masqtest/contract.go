package masqtest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/masq"
)

// Contract checks what masq relies on in a kernel. It must be empty, and may be changed by nobody else during the test.
func Contract(t *testing.T, k masq.Kernel, backends ...masq.Backend) {
	for _, b := range backends {
		for _, f := range []masq.Family{masq.IPv4, masq.IPv6} {
			t.Run(b.String()+"/"+string(f), func(t *testing.T) { contractChain(t, k, b, f) })
		}
	}
	t.Run("watch", func(t *testing.T) { contractWatch(t, k) })
}

func contractChain(t *testing.T, k masq.Kernel, b masq.Backend, f masq.Family) {
	ctx := t.Context()
	if err := k.Probe(ctx, b); err != nil {
		t.Fatalf("Probe: %v", err)
	}
	c := masq.Chain{Backend: b, Family: f, Table: "podnet-contract", Name: "postrouting"}
	if b == masq.IPTables {
		c.Table, c.Name = "nat", "PODNET-CONTRACT"
	}
	pods, all := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.0.0/16")
	if f == masq.IPv6 {
		pods, all = netip.MustParsePrefix("fd00:10:1::/64"), netip.MustParsePrefix("fd00:10::/32")
	}
	first := masq.Rule{Mark: 0x4000, Verdict: masq.Return, Comment: "podnet 1/2: a reason, with: marks"}
	second := masq.Rule{Src: []netip.Prefix{pods}, Dst: []netip.Prefix{all}, Verdict: masq.Masquerade, Comment: "podnet 2/2"}
	observe := func(want map[masq.Chain]masq.Observed) {
		t.Helper()
		have, err := k.Observe(ctx, []masq.Chain{c})
		if err != nil {
			t.Fatalf("Observe: %v", err)
		}
		if len(have) == 0 {
			have = nil
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Fatalf("Observe (-want +have):\n%s", diff)
		}
	}
	set := func(rules ...masq.Rule) error { return k.Set(ctx, masq.Ruleset{Chain: c, Rules: rules}) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	holds := func(comments ...string) map[masq.Chain]masq.Observed {
		return map[masq.Chain]masq.Observed{c: {Hooks: 1, Comments: comments}}
	}

	observe(nil)
	must(k.Delete(ctx, c))
	must(set(first, second))
	observe(holds(first.Comment, second.Comment))
	must(set(first, second))
	observe(holds(first.Comment, second.Comment))
	must(set(second, first, first))
	observe(holds(second.Comment, first.Comment, first.Comment))

	for name, bad := range map[string]masq.Rule{
		"other family": {Src: []netip.Prefix{otherFamily(f)}, Verdict: masq.Return, Comment: "podnet"},
		"comment":      {Verdict: masq.Return, Comment: strings.Repeat("x", 256)},
		"verdict":      {Comment: "podnet"},
	} {
		if b == masq.IPTables && name != "other family" {
			continue // iptables cuts comments (at 255), and every rule is written with some verdict
		}
		if err := set(first, bad); err == nil {
			t.Errorf("Set of a rule with a bad %s: no error", name)
		}
		observe(holds(second.Comment, first.Comment, first.Comment)) // a refused Set changes nothing
	}

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := k.Set(cancelled, masq.Ruleset{Chain: c, Rules: []masq.Rule{first}}); err == nil {
		t.Error("Set with a cancelled context: no error")
	}
	must(k.Delete(ctx, c))
	observe(nil)
	must(k.Delete(ctx, c))
}

func otherFamily(f masq.Family) netip.Prefix {
	if f == masq.IPv6 {
		return netip.MustParsePrefix("192.0.2.0/24")
	}
	return netip.MustParsePrefix("2001:db8::/32")
}

func contractWatch(t *testing.T, k masq.Kernel) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	woken, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- k.Watch(ctx, "podnet-contract", func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-woken:
		case err := <-ended:
			t.Fatalf("Watch ended: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no notification of %s in 10 s", what)
		}
	}
	rules := []masq.Rule{{Verdict: masq.Return, Comment: "podnet 1/1"}}
	own := masq.Chain{Backend: masq.NFTables, Family: masq.IPv4, Table: "podnet-contract", Name: "postrouting"}
	other := own
	other.Table = "podnet-contract-2"

	wait("the start")
	if err := k.Set(ctx, masq.Ruleset{Chain: own, Rules: rules}); err != nil {
		t.Fatal(err)
	}
	wait("Set")
	if err := k.Delete(ctx, own); err != nil {
		t.Fatal(err)
	}
	wait("Delete")
	// One change may be announced in several pieces. Once those are in, changes to another table are silent.
	for quiet := false; !quiet; {
		select {
		case <-woken:
		case <-time.After(200 * time.Millisecond):
			quiet = true
		}
	}
	for _, err := range []error{k.Set(ctx, masq.Ruleset{Chain: other, Rules: rules}), k.Delete(ctx, other)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-woken:
		t.Error("woken by a change to another table")
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ended with %v, want %v", err, context.Canceled)
	}
}
