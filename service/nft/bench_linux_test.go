package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
)

// programs makes Services with one ClusterIP port and that many endpoints each.
func programs(services, endpoints int) []service.Program {
	all := make([]service.Program, services)
	next := uint32(0)
	for i := range all {
		p := service.PortProgram{
			Port: "http", Protocol: service.TCP, Family: service.IPv4,
			Frontends: []service.Frontend{{Kind: service.ClusterIP, Addr: addr4(10<<24 | 96<<16 + uint32(i) + 1), Port: 80}},
			Cluster:   make([]service.Backend, endpoints),
		}
		for j := range p.Cluster {
			next++
			p.Cluster[j].Addr = netip.AddrPortFrom(addr4(10<<24|128<<16+next), 8080)
		}
		all[i] = service.Program{Name: service.Name{Namespace: "default", Name: fmt.Sprintf("svc-%06d", i)}, Ports: []service.PortProgram{p}}
	}
	return all
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func kernel(t testing.TB) *Conn {
	t.Helper()
	k, err := Open(rtnltest.NewNetns(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func apply(t testing.TB, d *Dataplane, delta service.Delta) service.Result {
	t.Helper()
	r, err := d.Apply(t.Context(), delta)
	if err != nil || r.Failed != nil {
		t.Fatal(err, r.Failed)
	}
	return r
}

// stopwatch adds up processor time, which other programs disturb less than the time that passes.
type stopwatch struct{ user, sys, startUser, startSys time.Duration }

func (s *stopwatch) start() { s.startUser, s.startSys = usage() }

func (s *stopwatch) stop() {
	user, sys := usage()
	s.user, s.sys = s.user+user-s.startUser, s.sys+sys-s.startSys
}

func (s *stopwatch) report(b *testing.B) {
	b.ReportMetric(float64(s.user.Microseconds())/float64(b.N), "user-us/op")
	b.ReportMetric(float64(s.sys.Microseconds())/float64(b.N), "sys-us/op")
}

func usage() (user, sys time.Duration) {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
}

// meter tells how much of the time the kernel takes: the floor, what sending the same bytes costs.
type meter struct {
	Kernel
	commits time.Duration
}

func (m *meter) Commit(ctx context.Context, tx *nfnl.Transaction) error {
	start := time.Now()
	defer func() { m.commits += time.Since(start) }()
	return m.Kernel.Commit(ctx, tx)
}

func BenchmarkFirstSync(b *testing.B) {
	for _, size := range [][2]int{{5000, 10}, {10_000, 5}, {50_000, 2}, {1, 100_000}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			all := programs(size[0], size[1])
			k := &meter{Kernel: kernel(b)}
			b.ReportAllocs()
			var floor time.Duration
			var cpu stopwatch
			for b.Loop() {
				d := New(k, Options{})
				k.commits = 0
				cpu.start()
				apply(b, d, service.Delta{Full: true, Set: all})
				cpu.stop()
				b.StopTimer()
				floor += k.commits
				if err := d.Cleanup(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(floor.Nanoseconds())/float64(b.N), "kernel-ns/op")
			cpu.report(b)
		})
	}
}

// BenchmarkRestart reads what is there and finds nothing to do.
func BenchmarkRestart(b *testing.B) {
	for _, size := range [][2]int{{5000, 10}, {50_000, 2}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			all := programs(size[0], size[1])
			k := kernel(b)
			apply(b, New(k, Options{}), service.Delta{Full: true, Set: all})
			b.ReportAllocs()
			var cpu stopwatch
			cpu.start()
			for b.Loop() {
				if r := apply(b, New(k, Options{}), service.Delta{Full: true, Set: all}); r.Writes > 0 {
					b.Fatal(r.Writes, "writes")
				}
			}
			cpu.stop()
			cpu.report(b)
		})
	}
}

// BenchmarkOneEndpointChange takes one endpoint from a Service, or gives it back.
func BenchmarkOneEndpointChange(b *testing.B) {
	for _, size := range [][2]int{{1000, 10}, {10_000, 10}, {50_000, 10}, {5_000, 10}, {1, 100_000}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			all := programs(size[0], size[1])
			k := kernel(b)
			d := New(k, Options{})
			apply(b, d, service.Delta{Full: true, Set: all})
			less := all[0]
			less.Ports = []service.PortProgram{less.Ports[0]}
			less.Ports[0].Cluster = less.Ports[0].Cluster[1:]
			for _, p := range []service.Program{less, all[0]} { // the first transaction after a large one waits until the kernel has freed that
				apply(b, d, service.Delta{Set: []service.Program{p}})
			}
			runtime.GC()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				p := less
				if n++; n%2 == 0 {
					p = all[0]
				}
				apply(b, d, service.Delta{Set: []service.Program{p}})
			}
		})
	}
}
