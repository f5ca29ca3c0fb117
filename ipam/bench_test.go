package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
)

func BenchmarkAllocateRelease(b *testing.B) {
	ctx := context.Background()
	for _, bench := range []struct {
		name    string
		subnets []string
		leases  int
	}{
		{"v4-16/65000", []string{"10.0.0.0/16"}, 65000},
		{"v6-64/65000", []string{"fd00::/64"}, 65000},
		{"dual/65000", []string{"10.0.0.0/15", "fd00::/64"}, 65000},
		{"dual/100", []string{"10.0.0.0/15", "fd00::/64"}, 100},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var cfg PodConfig
			for _, s := range bench.subnets {
				cfg.RangeSets = append(cfg.RangeSets, []Range{{Subnet: netip.MustParsePrefix(s)}})
			}
			p, err := NewPodAllocator(NewMemoryStore(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			for i := range bench.leases {
				if _, err := p.Allocate(ctx, Owner{fmt.Sprint("c", i), "eth0"}, Request{}); err != nil {
					b.Fatal(err)
				}
			}
			o := Owner{"bench", "eth0"}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Allocate(ctx, o, Request{}); err != nil {
					b.Fatal(err)
				}
				if err := p.Release(ctx, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
