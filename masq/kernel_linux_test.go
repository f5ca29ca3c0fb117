package masq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/masq/masqtest"
)

// real returns a reconciler of a fresh namespace.
func real(t testing.TB, b masq.Backend) (ns string, r *masq.Reconciler) {
	t.Helper()
	ns = newNetns(t)
	requireBackend(t, ns, b)
	return ns, masq.New(&masq.Netfilter{Netns: netns.Path(ns)}, masq.Options{Backend: b})
}

func TestContractKernel(t *testing.T) {
	ns := newNetns(t)
	requireBackend(t, ns, masq.NFTables)
	requireBackend(t, ns, masq.IPTables)
	masqtest.Contract(t, &masq.Netfilter{Netns: netns.Path(ns)}, masq.NFTables, masq.IPTables)
}

func TestContractLegacy(t *testing.T) {
	ns := newNetns(t)
	t.Setenv("PATH", legacyPath(t)+":"+os.Getenv("PATH"))
	requireBackend(t, ns, masq.NFTables)
	masqtest.Contract(t, &masq.Netfilter{Netns: netns.Path(ns)}, masq.IPTables)
}

// listing is what the tools themselves show of the rules, without handles and counters.
func listing(t testing.TB, ns string, b masq.Backend) string {
	if b == masq.NFTables {
		return in(t, ns, "nft list ruleset ip") + in(t, ns, "nft list ruleset ip6") // by family: all at once come in order of creation
	}
	var rules []string
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(in(t, ns, tool)) {
			if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, ":PODNET") {
				rules = append(rules, tool+" "+line)
			}
		}
	}
	return strings.Join(rules, "")
}

// disturbances are what neighbours and administrators do, one command per line; HANDLE is that of the second rule.
var disturbances = []struct {
	name    string
	backend masq.Backend
	script  string
}{
	{"flush ruleset", masq.NFTables, "nft flush ruleset"},
	{"delete table", masq.NFTables, "nft delete table ip podnet-masq"},
	{"delete table ip6", masq.NFTables, "nft delete table ip6 podnet-masq"},
	{"flush table", masq.NFTables, "nft flush table ip podnet-masq"},
	{"delete chain", masq.NFTables, "nft flush chain ip podnet-masq postrouting\nnft delete chain ip podnet-masq postrouting"},
	{"delete one rule", masq.NFTables, "nft delete rule ip podnet-masq postrouting handle HANDLE"},
	{"append a duplicate", masq.NFTables, `nft add rule ip podnet-masq postrouting ip daddr 10.244.0.0/16 masquerade fully-random comment "COMMENT"`},
	{"insert a rule", masq.NFTables, "nft insert rule ip podnet-masq postrouting return"},
	{"replace a rule", masq.NFTables, "nft replace rule ip podnet-masq postrouting handle HANDLE accept"},
	{"reorder", masq.NFTables, "nft delete rule ip podnet-masq postrouting handle HANDLE\n" +
		`nft insert rule ip podnet-masq postrouting ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return comment "COMMENT"`},
	{"foreign chain", masq.NFTables, "nft add chain ip podnet-masq other\nnft add rule ip podnet-masq other accept"},
	{"dormant", masq.NFTables, "nft add table ip podnet-masq { flags dormant ; }"},
	{"policy", masq.NFTables, "nft chain ip podnet-masq postrouting { policy drop ; }"},
	{"other hook", masq.NFTables, "nft delete table ip podnet-masq\nnft add table ip podnet-masq\n" +
		"nft add chain ip podnet-masq postrouting { type filter hook postrouting priority 0 ; }"},

	{"flush nat", masq.IPTables, "iptables -t nat -F"},
	{"flush all", masq.IPTables, "iptables -t nat -F\niptables -t nat -X\niptables -F\niptables -X\nip6tables -t nat -F\nip6tables -t nat -X"},
	{"delete the jump", masq.IPTables, "iptables -t nat -D POSTROUTING 1"},
	{"jump twice", masq.IPTables, `ip6tables -t nat -A POSTROUTING -j PODNET-MASQ`},
	{"only another jump", masq.IPTables, "iptables -t nat -D POSTROUTING 1\niptables -t nat -A POSTROUTING -s 10.0.0.0/8 -j PODNET-MASQ"},
	{"delete one rule", masq.IPTables, "iptables -t nat -D PODNET-MASQ 2"},
	{"duplicate", masq.IPTables, "iptables -t nat -A PODNET-MASQ -j RETURN"},
	{"insert a rule", masq.IPTables, "iptables -t nat -I PODNET-MASQ -j RETURN"},
	{"forward", masq.IPTables, "iptables -F PODNET-FWD"},
}

// disturb runs a script in the namespace.
func disturb(t testing.TB, ns, script string) {
	t.Helper()
	if strings.Contains(script, "HANDLE") || strings.Contains(script, "COMMENT") {
		for line := range strings.Lines(in(t, ns, "nft -a list table ip podnet-masq")) {
			if _, rest, found := strings.Cut(line, `comment "`); found && strings.Contains(line, " 2/7 ") {
				comment, handle, _ := strings.Cut(rest, `" # handle `)
				script = strings.ReplaceAll(script, "HANDLE", strings.TrimSpace(handle))
				script = strings.ReplaceAll(script, "COMMENT", strings.ReplaceAll(comment, " ", "\x00"))
			}
		}
	}
	for line := range strings.Lines(script) {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\x00", " ")
		}
		if _, err := runArgs(ns, args...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKernelRepair(t *testing.T) {
	config := dualStack()
	config.Forward = true
	legacy := legacyPath(t)
	for _, mode := range []string{"nftables", "iptables", "iptables-legacy"} {
		t.Run(mode, func(t *testing.T) {
			backend := masq.IPTables
			if mode == "nftables" {
				backend = masq.NFTables
			}
			if mode == "iptables-legacy" {
				t.Setenv("PATH", legacy+":"+os.Getenv("PATH"))
			}
			ns, r := real(t, backend)
			if _, err := r.Apply(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			want := listing(t, ns, backend)
			for _, d := range disturbances {
				if d.backend != backend {
					continue
				}
				disturb(t, ns, d.script)
				if p, err := r.Plan(t.Context(), config); err != nil || p.Empty() {
					t.Errorf("%s: Plan: %v, empty %t", d.name, err, p.Empty())
				}
				if _, err := r.Apply(t.Context(), config); err != nil {
					t.Errorf("%s: Apply: %v", d.name, err)
				}
				if have := listing(t, ns, backend); have != want {
					t.Fatalf("%s: repaired to:\n%s\nwant:\n%s", d.name, have, want)
				}
				if p, err := r.Apply(t.Context(), config); err != nil || !p.Empty() {
					t.Errorf("%s: second Apply: %v\n%s", d.name, err, p)
				}
			}
			if _, err := r.Apply(t.Context(), masq.Config{}); err != nil {
				t.Fatal(err)
			}
			if left := listing(t, ns, backend); strings.Contains(strings.ToLower(left), "podnet") {
				t.Errorf("left after Apply of the zero Config:\n%s", left)
			}
		})
	}
}

// TestKernelPlanText: what Plan prints is what nft reads, and has the effect of Apply.
func TestKernelPlanText(t *testing.T) {
	ns, r := real(t, masq.NFTables)
	config := dualStack()
	config.ClusterCIDRs = append(config.ClusterCIDRs, cidrs("10.250.0.0/16")...)
	p, err := r.Plan(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "plan.nft")
	if err := os.WriteFile(script, []byte(p.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	in(t, ns, "nft -f "+script)
	if p, err := r.Plan(t.Context(), config); err != nil || !p.Empty() {
		t.Errorf("Plan after the text of the Plan: %v\n%s", err, p)
	}
	for _, c := range p {
		if !strings.Contains(in(t, ns, "nft list ruleset"), fmt.Sprintf("table %s %s {", c.Chain.Family, c.Chain.Table)) {
			t.Errorf("%s is missing", c.Chain)
		}
	}
}

// TestKernelForeign: an Apply of ours, and a clean-up, leave the rules of others as they were.
func TestKernelForeign(t *testing.T) {
	for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
		ns, r := real(t, b)
		for _, command := range []string{
			"nft add table ip kube-proxy", "nft add chain ip kube-proxy services", "nft add table inet filter",
			"iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE", "iptables -N PODNET-FWD-OTHER", "ip6tables -P FORWARD DROP",
		} {
			in(t, ns, command)
		}
		foreign := func() string {
			return in(t, ns, "iptables -t nat -S") + in(t, ns, "iptables -S") + in(t, ns, "ip6tables -S") + in(t, ns, "nft list tables")
		}
		_ = foreign() // listing makes iptables create its base chains
		before := foreign()
		config := dualStack()
		config.Forward = true
		for _, c := range []masq.Config{config, {}} {
			if _, err := r.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		for line := range strings.Lines(before) {
			if !strings.Contains(foreign(), line) {
				t.Errorf("%s: lost %s", b, line)
			}
		}
	}
}

// TestKernelWatch: each disturbance wakes the watcher, who repairs; in between are neighbours who must not wake anybody.
func TestKernelWatch(t *testing.T) {
	ns, r := real(t, masq.NFTables)
	ctx, cancel := context.WithCancel(t.Context())
	woken, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- r.Watch(ctx, func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	}()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	}()
	quiet := func() { // until nothing comes any more
		for {
			select {
			case <-woken:
			case <-time.After(100 * time.Millisecond):
				return
			}
		}
	}
	for _, d := range disturbances {
		if d.backend != masq.NFTables {
			continue
		}
		if _, err := r.Apply(t.Context(), dualStack()); err != nil {
			t.Fatal(err)
		}
		quiet()
		for _, neighbour := range []string{"nft add table ip kube-proxy", "nft add table ip podnet-masq-other", "nft delete table ip kube-proxy", "nft delete table ip podnet-masq-other"} {
			in(t, ns, neighbour)
		}
		select {
		case <-woken:
			t.Errorf("before %s: woken by a neighbour", d.name)
		case <-time.After(20 * time.Millisecond):
		}
		disturb(t, ns, d.script)
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not woken in 10 s", d.name)
		}
	}
}

// TestKernelWatchOverflow loses announcements: a watcher that is too slow is woken all the same.
func TestKernelWatchOverflow(t *testing.T) {
	ns, r := real(t, masq.NFTables)
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- r.Watch(ctx, func() {
			select {
			case calls <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	<-calls // it listens
	if _, err := r.Apply(t.Context(), dualStack()); err != nil {
		t.Fatal(err)
	}
	// The watcher is stuck in notify. Meanwhile a neighbour writes more than a socket buffer holds, then our table goes.
	script := filepath.Join(t.TempDir(), "big.nft")
	var rules strings.Builder
	rules.WriteString("table ip big {\nchain c {\n")
	for i := range 5000 {
		fmt.Fprintf(&rules, "ip saddr 10.%d.%d.1 accept comment \"%s\"\n", i/250, i%250, strings.Repeat("x", 100))
	}
	rules.WriteString("}\n}\n")
	if err := os.WriteFile(script, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	in(t, ns, "nft -f "+script)
	in(t, ns, "nft delete table ip podnet-masq")
	for range 2 { // the Apply above, and the loss
		select {
		case <-calls:
		case err := <-ended:
			t.Fatalf("Watch ended: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatal("not woken after lost announcements")
		}
	}
	if _, err := r.Apply(t.Context(), dualStack()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-calls:
	case <-time.After(10 * time.Second):
		t.Fatal("the subscription ended with the overflow")
	}
	cancel()
	<-ended
}

// TestKernelCycles flushes and repairs, many times over (PODNET_FAULTS=1: a thousand); exactly one set of rules is left.
func TestKernelCycles(t *testing.T) {
	cycles := 20
	if os.Getenv("PODNET_FAULTS") != "" {
		cycles = 1000
	}
	for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
		ns, r := real(t, b)
		if _, err := r.Apply(t.Context(), dualStack()); err != nil {
			t.Fatal(err)
		}
		want := listing(t, ns, b)
		for i := range cycles {
			flush := []string{"nft flush ruleset", "nft delete table ip podnet-masq"}[i%2]
			if b == masq.IPTables {
				flush = []string{"iptables -t nat -F", "ip6tables -t nat -D POSTROUTING 1"}[i%2]
			}
			in(t, ns, flush)
			if _, err := r.Apply(t.Context(), dualStack()); err != nil {
				t.Fatalf("%s cycle %d: %v", b, i, err)
			}
		}
		if have := listing(t, ns, b); have != want {
			t.Errorf("%s after %d cycles:\n%s\nwant:\n%s", b, cycles, have, want)
		}
	}
}

// TestKernelConcurrent: several processes apply at once, as two CNI ADDs and the agent do; one set of rules comes out.
func TestKernelConcurrent(t *testing.T) {
	ns, r := real(t, masq.NFTables)
	for range 5 {
		in(t, ns, "nft flush ruleset")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := masq.New(&masq.Netfilter{Netns: netns.Path(ns)}, masq.Options{}).Apply(t.Context(), dualStack()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if p, err := r.Plan(t.Context(), dualStack()); err != nil || !p.Empty() {
			t.Errorf("after concurrent Apply: %v\n%s", err, p)
		}
	}
}

func TestKernelHostileNames(t *testing.T) {
	ns := newNetns(t)
	requireBackend(t, ns, masq.NFTables)
	in(t, ns, "nft add table ip filter")
	in(t, ns, "nft add table ip kube-proxy")
	config := masq.Config{PodCIDRs: cidrs("10.1.0.0/16")}
	for _, name := range hostile {
		r := masq.New(&masq.Netfilter{Netns: netns.Path(ns)}, masq.Options{Name: name})
		for _, c := range []masq.Config{config, {}} {
			if _, err := r.Apply(t.Context(), c); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	if have, want := in(t, ns, "nft list tables"), "table ip filter\ntable ip kube-proxy\n"; have != want {
		t.Errorf("tables: %s, want %s", have, want)
	}
}

// TestKernelErrors: what a user without nft, iptables or privileges reads.
func TestKernelErrors(t *testing.T) {
	ns := newNetns(t)
	t.Setenv("PATH", t.TempDir())
	for _, tt := range []struct {
		backend masq.Backend
		want    string
	}{
		{masq.Auto, "install the package nftables"}, {masq.Auto, "install the package iptables"},
		{masq.NFTables, "install the package nftables"}, {masq.IPTables, "install the package iptables"},
	} {
		_, err := masq.New(&masq.Netfilter{Netns: netns.Path(ns)}, masq.Options{Backend: tt.backend}).Apply(t.Context(), dualStack())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.backend, err, tt.want)
		}
	}
	if p, err := masq.New(&masq.Netfilter{Netns: netns.Path(ns)}, masq.Options{}).Apply(t.Context(), masq.Config{}); err != nil || !p.Empty() {
		t.Errorf("clean-up where nothing is: %v\n%s", err, p)
	}
	_, err := masq.New(&masq.Netfilter{Netns: "/nonexistent"}, masq.Options{Backend: masq.NFTables}).Plan(t.Context(), dualStack())
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing netns: %v, want ENOENT", err)
	}
}
