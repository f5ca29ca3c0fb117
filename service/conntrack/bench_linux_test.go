package conntrack_test

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service/conntrack"
)

const tableSize = 200_000

// filled returns a namespace with 200,000 UDP flows to 100 Services of 20 endpoints each, and the frontends.
func filled(b *testing.B) (*rtnltest.Netns, []conntrack.Frontend) {
	ns := rtnltest.NewNetns(b)
	var fronts []conntrack.Frontend
	for i := range 100 {
		f := conntrack.Frontend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i), 10}), 53)}
		for j := range 20 {
			f.Serving = append(f.Serving, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), byte(j + 1)}), 5353))
		}
		fronts = append(fronts, f)
	}
	flows := make([]conntrack.Flow, tableSize)
	for i := range flows {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24|200<<16|uint32(i/50))
		src := netip.AddrPortFrom(netip.AddrFrom4(a), uint16(2000+i%50))
		f := fronts[i%100]
		flows[i] = conntrack.Flow{Protocol: conntrack.UDP, Src: src, Dst: f.Addr, ReplySrc: f.Serving[i/100%20], ReplyDst: src}
	}
	conntrack.Track(b, ns.Path(), flows...)
	return ns, fronts
}

// BenchmarkApply: a table of 200,000 UDP flows. "one" is a change of one Service, "all" of frontends that have nothing in common, so that every flow comes
// over; in none of them anything is stale.
func BenchmarkApply(b *testing.B) {
	ns, fronts := filled(b)
	r := conntrack.New(&conntrack.Conn{Netns: ns.Path()}, conntrack.Options{})
	more := append(fronts, conntrack.Frontend{Addr: netip.MustParseAddrPort("10.97.0.1:54")})
	for _, bm := range []struct {
		name   string
		fronts []conntrack.Frontend
		seen   int
	}{{"one", fronts[:1], tableSize / 100}, {"all", more, tableSize}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			var peak uint64
			for b.Loop() {
				p, err := r.Apply(b.Context(), conntrack.Config{Frontends: bm.fronts})
				if err != nil || p.Stale != 0 || p.Seen != bm.seen {
					b.Fatal(err, p.Stale, p.Seen)
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
			b.ReportMetric(float64(peak)/1e6, "heap-MB")
		})
	}
}

// BenchmarkDelete deletes 200,000 stale flows, the worst case.
func BenchmarkDelete(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		ns, fronts := filled(b)
		for i := range fronts {
			fronts[i].Serving = nil
		}
		r := conntrack.New(&conntrack.Conn{Netns: ns.Path()}, conntrack.Options{})
		b.StartTimer()
		p, err := r.Apply(b.Context(), conntrack.Config{Frontends: fronts})
		if err != nil || p.Stale != tableSize {
			b.Fatal(err, p.Stale)
		}
	}
}
