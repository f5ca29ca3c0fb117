package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
)

// few are Services of all kinds of chains, in both families.
func few() service.Config {
	slice := func(port service.Port, addrs ...string) service.Slice {
		s := service.Slice{Ports: []service.EndpointPort{{Name: port.Name, Protocol: port.Protocol, Port: 8080}}}
		for i, a := range addrs {
			s.Endpoints = append(s.Endpoints, service.Endpoint{Addr: netip.MustParseAddr(a), Node: fmt.Sprintf("node-%d", i)})
		}
		return s
	}
	web := service.Service{
		Name: service.Name{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.80"), netip.MustParseAddr("fd00:96::80")},
		Ports:           []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}},
		LoadBalancerIPs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, ExternalPolicy: service.Local,
	}
	dns := service.Service{
		Name: service.Name{Namespace: "kube-system", Name: "dns"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		Ports: []service.Port{{Name: "udp", Protocol: service.UDP, Port: 53}}, Affinity: time.Hour,
	}
	idle := service.Service{Name: service.Name{Namespace: "default", Name: "idle"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.99")},
		Ports: []service.Port{{Name: "sctp", Protocol: service.SCTP, Port: 99, NodePort: 30099}}}
	return service.Config{
		Node: service.Node{
			Name: "node-0", LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:244::/64")}},
			ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		},
		Services: []service.Service{web, dns, idle},
		Endpoints: map[service.Name][]service.Slice{
			web.Name: {slice(web.Ports[0], "10.244.0.1", "10.244.1.1"), slice(web.Ports[0], "fd00:244::1")},
			dns.Name: {slice(dns.Ports[0], "10.244.0.2", "10.244.1.2")},
		},
	}
}

// disturbance is what a neighbour does with iptables-restore --noflush.
type disturbance struct{ name, input string }

func disturbances(chain func(kind string) string) []disturbance {
	return []disturbance{
		{"a chain is emptied", "*nat\n-F " + chain("C-") + "\nCOMMIT\n"},
		{"a rule is added", "*nat\n-A " + chain("C-") + " -j RETURN\nCOMMIT\n"},
		{"a rule is replaced", "*nat\n-F PODNET-SVC-POSTROUTING\n-A PODNET-SVC-POSTROUTING -j RETURN\nCOMMIT\n"},
		{"the table nat is flushed", "*nat\n-F PREROUTING\n-F OUTPUT\n-F POSTROUTING\nCOMMIT\n"},
		{"a rule that leads to us stands twice", "*nat\n-A POSTROUTING -m comment --comment \"podnet Services\" -j PODNET-SVC-POSTROUTING\nCOMMIT\n"},
		{"a rule under conditions leads to us", "*filter\n-A FORWARD -p tcp --dport 80 -j PODNET-SVC-FILTER\nCOMMIT\n"},
		{"filter is emptied", "*filter\n-F PODNET-SVC-FILTER\n-F INPUT\n-F FORWARD\n-F OUTPUT\nCOMMIT\n"},
		{"a chain of ours is new", "*filter\n:PODNET-SVC-V-OLD - [0:0]\n-A PODNET-SVC-V-OLD -j RETURN\nCOMMIT\n"},
	}
}

// normal is a dump without counters, dates and the order in which programs print chains.
func normal(t testing.TB, k iptables.Kernel) string {
	t.Helper()
	var b strings.Builder
	for _, f := range service.Families() {
		for _, table := range []string{"nat", "filter"} {
			text, err := k.Save(t.Context(), f, table)
			if err != nil {
				t.Fatal(err)
			}
			chains := map[string][]string{}
			var names []string
			for line := range strings.Lines(text) {
				if name, ok := strings.CutPrefix(line, ":"); ok {
					name, _, _ = strings.Cut(name, " ")
					names = append(names, name)
				} else if rest, ok := strings.CutPrefix(line, "-A "); ok {
					name, rule, _ := strings.Cut(rest, " ")
					chains[name] = append(chains[name], rule)
				}
			}
			fmt.Fprintln(&b, f, table)
			for _, n := range sorted(names) {
				fmt.Fprintln(&b, n, chains[n])
			}
		}
	}
	return b.String()
}

// repair disturbs and repairs a kernel in every way.
func repair(t *testing.T, k iptables.Kernel) {
	ctx := t.Context()
	r := service.New(iptables.New(k, iptables.Options{Forward: true}), service.Options{})
	if _, err := r.Apply(ctx, few()); err != nil {
		t.Fatal(err)
	}
	want := normal(t, k)
	chain := func(kind string) string {
		_, rest, _ := strings.Cut(want, "\nPODNET-SVC-"+kind)
		name, _, _ := strings.Cut(rest, " ")
		return "PODNET-SVC-" + kind + name
	}
	for _, d := range disturbances(chain) {
		if err := k.Restore(ctx, service.IPv4, d.input); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		if p, err := r.Plan(ctx, few()); err != nil || !p.Foreign {
			t.Errorf("%s: Plan: %v, foreign %t", d.name, err, p.Foreign)
		}
		if report, err := r.Apply(ctx, few()); err != nil || report.Writes == 0 {
			t.Errorf("%s: Apply: %v, %d writes", d.name, err, report.Writes)
		}
		if have := normal(t, k); have != want {
			t.Fatalf("%s: repaired to\n%s\nwant\n%s", d.name, have, want)
		}
		if report, err := r.Apply(ctx, few()); err != nil || report.Writes > 0 {
			t.Errorf("%s: second Apply: %v, %d writes", d.name, err, report.Writes)
		}
	}
}

func TestRepair(t *testing.T) { repair(t, &iptablestest.Kernel{}) }

// foreign proves that a user leaves what is not his as it is, and another user of this package too.
func foreign(t *testing.T, k iptables.Kernel) {
	ctx := t.Context()
	for _, f := range service.Families() {
		input := "*nat\n:KUBE-SERVICES - [0:0]\n:PODNET-MASQ - [0:0]\n-A KUBE-SERVICES -j RETURN\n-A POSTROUTING -j PODNET-MASQ\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n" +
			"*filter\n:DOCKER - [0:0]\n-A FORWARD -j DOCKER\nCOMMIT\n"
		if err := k.Restore(ctx, f, input); err != nil {
			t.Fatal(err)
		}
	}
	before := normal(t, k)
	one, two := iptables.New(k, iptables.Options{}), iptables.New(k, iptables.Options{Name: "two", MasqueradeMark: 0x8000, Forward: true})
	for _, d := range []*iptables.Dataplane{one, two} {
		if _, err := service.New(d, service.Options{}).Apply(ctx, few()); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if report, err := service.New(iptables.New(k, iptables.Options{Name: "two", MasqueradeMark: 0x8000, Forward: true}), service.Options{}).Apply(ctx, few()); err != nil || report.Writes > 0 {
		t.Errorf("after the cleanup of one the other writes %d objects, %v", report.Writes, err)
	}
	if err := two.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if after := normal(t, k); after != before {
		t.Errorf("after both cleanups there is\n%s\nbefore there was\n%s", after, before)
	}
}

func TestForeign(t *testing.T) { foreign(t, &iptablestest.Kernel{}) }

// TestLacks: one error names everything that is missing; what only some Services need fails those.
func TestLacks(t *testing.T) {
	k := &iptablestest.Kernel{}
	k.Lack("REJECT")
	k.Lack("statistic")
	_, err := service.New(iptables.New(k, iptables.Options{}), service.Options{}).Apply(t.Context(), few())
	for _, want := range []string{"ipt_REJECT", "xt_statistic", "CONFIG_NETFILTER_XT_MATCH_STATISTIC"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s in it", err, want)
		}
	}
	if k.Dump() != (&iptablestest.Kernel{}).Dump() && strings.Contains(k.Dump(), "PODNET") {
		t.Errorf("left behind:\n%s", k.Dump())
	}

	k = &iptablestest.Kernel{}
	k.Lack("recent")
	k.Lack("sctp")
	r := service.New(iptables.New(k, iptables.Options{}), service.Options{})
	report, err := r.Apply(t.Context(), few())
	if len(report.Failed) != 2 || err == nil || !strings.Contains(err.Error(), "xt_recent") || !strings.Contains(err.Error(), "xt_sctp") {
		t.Errorf("without recent and sctp: %v", err)
	}
	if !strings.Contains(k.Dump(), "--to-destination 10.244.0.1:8080") {
		t.Errorf("web is not in place:\n%s", k.Dump())
	}
}

// TestNoIPv6: a host without IPv6 has its IPv4, and says what is missing for whom.
func TestNoIPv6(t *testing.T) {
	k := &iptablestest.Kernel{}
	broken := fmt.Errorf("no IPv6: %w", fs.ErrNotExist)
	k.Fault(func(c iptablestest.Call) error {
		if c.Family == service.IPv6 {
			return broken
		}
		return nil
	})
	d := iptables.New(k, iptables.Options{})
	r := service.New(d, service.Options{})
	report, err := r.Apply(t.Context(), few())
	if !errors.Is(err, broken) || len(report.Failed) != 1 || report.Writes == 0 {
		t.Errorf("%v, failed %v", err, report.Failed)
	}
	if !strings.Contains(k.Dump(), "--to-destination 10.244.0.1:8080") {
		t.Errorf("IPv4 is not in place:\n%s", k.Dump())
	}
	if err := d.Cleanup(t.Context()); err != nil {
		t.Errorf("cleanup: %v", err)
	}
	k.Fault(nil)
	for range 2 {
		_, err = r.Apply(t.Context(), few())
	}
	if err != nil || !strings.Contains(k.Dump(), "[fd00:244::1]:8080") {
		t.Errorf("when IPv6 is there: %v\n%s", err, k.Dump())
	}
}

func TestOptions(t *testing.T) {
	for _, mark := range []uint32{3, 0xffffffff} {
		if _, err := iptables.New(&iptablestest.Kernel{}, iptables.Options{MasqueradeMark: mark}).Observe(t.Context()); err == nil {
			t.Errorf("mark %#x: no error", mark)
		}
	}
}

// TestWatch: a flush is told of within the poll, once it is repaired nothing is.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &iptablestest.Kernel{}
		d := iptables.New(k, iptables.Options{})
		r := service.New(d, service.Options{})
		if _, err := r.Apply(t.Context(), few()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		told := 0
		ended := make(chan error)
		go func() { ended <- d.Watch(ctx, func() { told++ }) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if told > 0 {
			t.Errorf("told %d times of nothing", told)
		}
		k.Flush(service.IPv6, "filter")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if told != 1 {
			t.Errorf("told %d times in 5 s, want 1", told)
		}
		if _, err := r.Apply(t.Context(), few()); err != nil {
			t.Fatal(err)
		}
		told = 0
		time.Sleep(time.Minute)
		synctest.Wait()
		if told > 0 {
			t.Errorf("told %d times after the repair", told)
		}
		broken := errors.New("broken")
		k.Fault(func(iptablestest.Call) error { return broken })
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("Watch = %v", err)
		}
		cancel()
	})
}
