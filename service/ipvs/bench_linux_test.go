package ipvs_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// programs makes Services with one ClusterIP port and that many endpoints each.
func programs(services, endpoints int) []service.Program {
	addr := func(n uint32) netip.Addr { return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))) }
	all := make([]service.Program, services)
	next := uint32(10<<24 | 128<<16)
	for i := range all {
		p := service.PortProgram{Port: "http", Protocol: service.TCP, Family: service.IPv4, Cluster: make([]service.Backend, endpoints)}
		p.Frontends = []service.Frontend{{Kind: service.ClusterIP, Addr: addr(10<<24 | 96<<16 + uint32(i) + 1), Port: 80, Host: service.Route{Masquerade: true}, Remote: service.Route{Masquerade: true}}}
		for j := range p.Cluster {
			next++
			p.Cluster[j].Addr = netip.AddrPortFrom(addr(next), 8080)
		}
		all[i] = service.Program{Name: service.Name{Namespace: "default", Name: fmt.Sprintf("svc-%06d", i)}, Ports: []service.PortProgram{p}}
	}
	return all
}

var benchNode = service.Node{Name: "node", ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}}}

func benchKernel(b *testing.B) ipvs.Kernel {
	k, remove := benchNetns(b)
	b.Cleanup(remove)
	return k
}

func benchNetns(b *testing.B) (k ipvs.Kernel, remove func()) {
	vmtest.RequireIPVS(b)
	ns := rtnltest.NewNetns(b)
	k, err := ipvs.Open(ipvs.OpenOptions{Netns: ns.Path()})
	if err != nil {
		b.Fatal(err)
	}
	return k, func() {
		if err := errors.Join(ipvs.New(k, ipvs.Options{}).Cleanup(context.Background()), k.Close(), ns.Remove()); err != nil {
			b.Error(err)
		}
	}
}

func benchApply(b *testing.B, d *ipvs.Dataplane, delta service.Delta) service.Result {
	b.Helper()
	delta.Node = benchNode
	r, err := d.Apply(b.Context(), delta)
	if err != nil || len(r.Failed) > 0 {
		b.Fatal(err, r.Failed)
	}
	return r
}

func sizes(b *testing.B, run func(b *testing.B, services, endpoints int)) {
	for _, size := range [][2]int{{1000, 10}, {5000, 10}, {10_000, 5}, {1, 5000}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) { run(b, size[0], size[1]) })
	}
}

// BenchmarkFirstSync programs a kernel that has nothing yet, in a new namespace each time: for two minutes the kernel keeps real servers that were deleted in a list, and looks through all of it
// for each that is added.
func BenchmarkFirstSync(b *testing.B) {
	sizes(b, func(b *testing.B, services, endpoints int) {
		all := programs(services, endpoints)
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			k, remove := benchNetns(b)
			b.StartTimer()
			benchApply(b, ipvs.New(k, ipvs.Options{}), service.Delta{Full: true, Set: all})
			b.StopTimer()
			remove()
			b.StartTimer()
		}
	})
}

// BenchmarkOneEndpointChange takes an endpoint from a Service, and gives it back.
func BenchmarkOneEndpointChange(b *testing.B) {
	sizes(b, func(b *testing.B, services, endpoints int) {
		all, k := programs(services, endpoints), benchKernel(b)
		d := ipvs.New(k, ipvs.Options{})
		benchApply(b, d, service.Delta{Full: true, Set: all})
		full := all[services/2]
		less := full
		less.Ports = []service.PortProgram{full.Ports[0]}
		less.Ports[0].Cluster = full.Ports[0].Cluster[:endpoints-1]
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			if r := benchApply(b, d, service.Delta{Set: []service.Program{[]service.Program{full, less}[i%2]}}); r.Writes == 0 {
				b.Fatal("nothing was written")
			}
		}
	})
}

// BenchmarkRestart reads what is there and finds nothing to do.
func BenchmarkRestart(b *testing.B) {
	sizes(b, func(b *testing.B, services, endpoints int) {
		all, k := programs(services, endpoints), benchKernel(b)
		benchApply(b, ipvs.New(k, ipvs.Options{}), service.Delta{Full: true, Set: all})
		b.ReportAllocs()
		for b.Loop() {
			if r := benchApply(b, ipvs.New(k, ipvs.Options{}), service.Delta{Full: true, Set: all}); r.Writes > 0 {
				b.Fatal(r.Writes, "writes")
			}
		}
	})
}
