package nft

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// commands are what somebody may do with nft.
var commands = []string{
	"flush ruleset",
	"flush table ip podnet-service",
	"delete table ip podnet-service",
	"delete element ip podnet-service endpoints-1024 { 0x1 . 0x0 }",
	"flush map ip podnet-service frontends-1024",
	"flush chain ip podnet-service services",
	"flush chain ip podnet-service prerouting; delete chain ip podnet-service prerouting",
	"flush map ip podnet-service classes; delete chain ip podnet-service cluster2",
	"add table ip podnet-service { flags dormant; }",
	"insert rule ip podnet-service services drop",
	"add chain ip podnet-service evil { type filter hook output priority 0; policy drop; }",
}

// TestKernelRepair: whatever somebody does to the tables, the Reconciler repairs it within a second.
func TestKernelRepair(t *testing.T) {
	n := newNode(t, 2)
	d := New(n.k, Options{})
	r := service.New(d, service.Options{})
	c := config(1)
	r.SetService(c.Services[0])
	r.SetSlice(c.Services[0].Name, "a", c.Endpoints[c.Services[0].Name][0])
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	healthy := func() error {
		return n.ns.Do(func() error {
			for range 4 {
				if _, err := ask(1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	until := func(f func() error) time.Duration {
		t.Helper()
		start := time.Now()
		for {
			err := f()
			if err == nil {
				return time.Since(start)
			}
			if time.Since(start) > 20*time.Second {
				t.Fatal(err)
			}
		}
	}
	until(healthy)
	want := n.list(t)
	same := func() error {
		if have := n.list(t); have != want {
			return fmt.Errorf("have:\n%s\nwant:\n%s", have, want)
		}
		return nil
	}
	until(same)
	for _, harm := range commands {
		out, err := exec.Command("ip", "netns", "exec", n.ns.Name(), "nft", harm).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %s", harm, out)
		}
		took := until(same)
		if took > time.Second {
			t.Errorf("%s: repaired after %s", harm, took)
		}
		t.Logf("%s: %s", harm, took)
		if err := healthy(); err != nil {
			t.Errorf("%s: %v", harm, err)
		}
	}
	if cancel(); <-done != nil {
		t.Error("Run failed")
	}
}

// list shows the table without numbers that may differ.
func (n *node) list(t *testing.T) string {
	t.Helper()
	seen, err := n.k.Describe(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	rules := map[string]string{}
	for _, r := range seen.Rules {
		rules[r.Chain] += "  " + r.Comment + "\n"
	}
	chains := map[string]bool{}
	for _, c := range seen.Chains {
		chains[c.Name] = true
		if rules[c.Name] == "" {
			return "empty chain " + c.Name
		}
	}
	for _, name := range []string{"prerouting", "output", "postrouting", "services", "firewall", "cluster2"} {
		fmt.Fprintf(&b, "%s %v\n%s", name, chains[name], rules[name])
	}
	fmt.Fprintf(&b, "dormant %v, %d chains\n", seen.Dormant, len(chains))
	for _, s := range seen.Sets {
		count := 0
		if err := n.k.Elements(t.Context(), nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service"}, s.Name, func() { count = 0 }, func(nfnl.Element) { count++ }); err != nil {
			return err.Error()
		}
		fmt.Fprintf(&b, "%s %d\n", s.Name, count)
	}
	return b.String()
}

// mirror does every transaction in the fake kernel, too.
type mirror struct {
	Kernel
	fake *nfnltest.Conn
}

func (m *mirror) Commit(ctx context.Context, tx *nfnl.Transaction) error {
	fake := m.fake.Commit(ctx, tx)
	err := m.Kernel.Commit(ctx, tx)
	if (fake == nil) != (err == nil) {
		return fmt.Errorf("the fake says %v, the real kernel %v", fake, err)
	}
	return err
}

// contents tells all that is in the tables, sorted.
func contents(t *testing.T, k Kernel) string {
	t.Helper()
	var lines []string
	for _, family := range []nfnl.Family{nfnl.IPv4, nfnl.IPv6} {
		table := nfnl.Table{Family: family, Name: "podnet-service"}
		seen, err := k.Describe(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range seen.Chains {
			lines = append(lines, fmt.Sprintf("%s chain %+v", family, c))
		}
		for _, r := range seen.Rules {
			lines = append(lines, fmt.Sprintf("%s rule of %s: %s", family, r.Chain, r.Comment))
		}
		for _, set := range seen.Sets {
			lines = append(lines, fmt.Sprintf("%s set %+v", family, set))
			if err := k.Elements(t.Context(), table, set.Name, func() {}, func(x nfnl.Element) {
				lines = append(lines, fmt.Sprintf("%s element of %s %x %x %v", family, set.Name, x.Key, x.Data, x.Verdict))
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestKernelRandom: the same transactions leave the same in the fake and in the real kernel, and a restart finds nothing to do there.
func TestKernelRandom(t *testing.T) {
	fake := &nfnltest.Kernel{}
	k := &mirror{kernel(t), fake.Open()}
	random := servicetest.NewRandom(7)
	d := New(k, Options{})
	d.least = 2
	r := service.New(d, service.Options{})
	for i := range 60 {
		random.Change()
		if _, err := r.Apply(t.Context(), random.World.Config); err != nil {
			t.Fatal(i, err)
		}
		again, err := service.New(New(k, Options{}), service.Options{}).Apply(t.Context(), random.World.Config)
		if err != nil || again.Writes > 0 {
			t.Fatalf("state %d: a restart wrote %d objects: %v", i, again.Writes, err)
		}
		if diff := cmp.Diff(contents(t, k.fake), contents(t, k.Kernel)); diff != "" {
			t.Fatalf("state %d: fake and real kernel differ: %s", i, diff)
		}
	}
}

// TestKernelListing: nft shows the tables and does not stumble over them.
func TestKernelListing(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	k, err := Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	random := servicetest.NewRandom(3)
	for range 30 {
		random.Change()
		d := New(k, Options{})
		if _, err := service.New(d, service.Options{}).Apply(t.Context(), random.World.Config); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ip", "netns", "exec", ns.Name(), "nft", "list", "ruleset").CombinedOutput()
		if err != nil || strings.Contains(string(out), "rror") || len(out) == 0 && len(random.World.Services) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
	}
}
