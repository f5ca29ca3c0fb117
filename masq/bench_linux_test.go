package masq_test

import (
	"runtime"
	"testing"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/masq"
)

// inside runs a benchmark on a thread in the namespace, as the CNI plugin and the agent run in the node's.
func inside(b *testing.B, ns string, body func()) {
	b.Helper()
	err := netns.Do(netns.Path(ns), func() error {
		body()
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSteady is what every pod ADD and every resync costs while nothing differs.
func BenchmarkSteady(b *testing.B) {
	for _, bb := range []struct {
		name    string
		backend masq.Backend
		config  masq.Config
	}{
		{"auto/dual", masq.Auto, dualStack()},
		{"nftables/dual", masq.NFTables, dualStack()},
		{"nftables/v4", masq.NFTables, masq.Config{PodCIDRs: cidrs("10.244.1.0/24"), ClusterCIDRs: cidrs("10.244.0.0/16")}},
		{"iptables/dual", masq.IPTables, dualStack()},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ns, _ := real(b, masq.NFTables)
			r := masq.New(&masq.Netfilter{}, masq.Options{Backend: bb.backend})
			inside(b, ns, func() {
				if _, err := r.Apply(b.Context(), bb.config); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if p, err := r.Apply(b.Context(), bb.config); err != nil || !p.Empty() {
						b.Fatalf("%v\n%s", err, p)
					}
				}
			})
		})
	}
	b.Run("nftables/dual/given-netns", func(b *testing.B) {
		_, r := real(b, masq.NFTables)
		if _, err := r.Apply(b.Context(), dualStack()); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if p, err := r.Plan(b.Context(), dualStack()); err != nil || !p.Empty() {
				b.Fatalf("%v\n%s", err, p)
			}
		}
	})
	b.Run("fork/nft-list-table", func(b *testing.B) {
		ns, r := real(b, masq.NFTables)
		if _, err := r.Apply(b.Context(), dualStack()); err != nil {
			b.Fatal(err)
		}
		for b.Loop() { // one family: a second process is needed for the other
			in(b, ns, "nft list table ip podnet-masq")
		}
	})
}

// BenchmarkFirst is the first Apply on a node, with everything that a new process has to find out.
func BenchmarkFirst(b *testing.B) {
	for _, backend := range []masq.Backend{masq.NFTables, masq.IPTables} {
		b.Run(backend.String(), func(b *testing.B) {
			ns, _ := real(b, backend)
			inside(b, ns, func() {
				runtime.GC()
				for b.Loop() {
					r := masq.New(&masq.Netfilter{}, masq.Options{Backend: backend})
					if _, err := r.Apply(b.Context(), dualStack()); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if _, err := r.Apply(b.Context(), masq.Config{}); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		})
	}
}

// BenchmarkRepair is the Apply after a flush by somebody else, in a process that has written before.
func BenchmarkRepair(b *testing.B) {
	ns, r := real(b, masq.NFTables)
	for b.Loop() {
		b.StopTimer()
		in(b, ns, "nft flush ruleset")
		b.StartTimer()
		if _, err := r.Apply(b.Context(), dualStack()); err != nil {
			b.Fatal(err)
		}
	}
}
