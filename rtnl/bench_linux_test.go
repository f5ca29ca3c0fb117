package rtnl_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// peer returns the objects of the n-th peer on the VXLAN device vx: its inner gateway, its VTEP MAC, the underlay address and the podCIDR.
func peer(n int) (inner netip.Addr, mac rtnl.MAC, underlay netip.Addr, podCIDR netip.Prefix) {
	hi, lo := byte(n>>8), byte(n)
	inner = netip.AddrFrom4([4]byte{100, 64 + hi>>2, hi<<6 | lo>>2, lo << 6})
	return inner, rtnl.MAC{2, 0xee, 0, 0, hi, lo}, netip.AddrFrom4([4]byte{172, 20, hi, lo}), netip.PrefixFrom(inner, 26)
}

// peerPlan is what n peers of a VXLAN overlay need, with nexthop objects.
func peerPlan(n int) rtnl.Plan {
	plan := make(rtnl.Plan, 0, 4*n)
	for i := range n {
		inner, mac, underlay, podCIDR := peer(i)
		plan = append(plan,
			rtnl.Change{Verb: rtnl.Replace, Object: rtnl.Neigh{Link: "vx", IP: inner, MAC: mac, Permanent: true}},
			rtnl.Change{Verb: rtnl.Replace, Object: rtnl.FDB{Link: "vx", MAC: mac, Dst: underlay}},
			rtnl.Change{Verb: rtnl.Replace, Object: rtnl.Nexthop{ID: uint32(i + 1), Gateway: inner, Link: "vx", Onlink: true, Protocol: rtnl.ProtocolVXLAN}},
			rtnl.Change{Verb: rtnl.Replace, Object: rtnl.Route{Dst: podCIDR, Nexthop: uint32(i + 1), Protocol: rtnl.ProtocolVXLAN}})
	}
	return plan
}

func must(tb testing.TB, errs []error) {
	tb.Helper()
	for _, err := range errs {
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// vxlanNetns makes a namespace with an empty VXLAN device vx.
func vxlanNetns(tb testing.TB) (*rtnltest.Netns, *rtnl.Conn) {
	tb.Helper()
	ns := rtnltest.NewNetns(tb)
	c := ns.Conn(tb)
	must(tb, c.Write(tb.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{
		Name: "vx", Kind: rtnl.KindVXLAN, Up: rtnl.On, VXLAN: rtnl.VXLAN{VNI: 1, Local: netip.MustParseAddr("127.0.0.1"), Learning: rtnl.Off},
	}}}))
	return ns, c
}

// ipBatch lets ip(8) and bridge(8) do the plan, the way of a shell script: one run of each kind of object, and returns how long they took.
func ipBatch(tb testing.TB, ns *rtnltest.Netns, plan rtnl.Plan) time.Duration {
	tb.Helper()
	scripts := map[string]*strings.Builder{}
	kinds := []string{"neigh", "fdb", "nexthop", "route"}
	for _, k := range kinds {
		scripts[k] = &strings.Builder{}
	}
	for _, c := range plan {
		kind, _, _ := strings.Cut(c.Object.String(), " ")
		fmt.Fprintln(scripts[kind], c)
	}
	var total time.Duration
	for _, k := range kinds {
		file := filepath.Join(tb.TempDir(), k)
		if err := os.WriteFile(file, []byte(scripts[k].String()), 0o600); err != nil {
			tb.Fatal(err)
		}
		tool := "ip"
		if k == "fdb" {
			tool = "bridge"
		}
		start := time.Now()
		if out, err := exec.Command(tool, "-n", ns.Name(), "-batch", file).CombinedOutput(); err != nil {
			tb.Fatalf("%s -batch: %v: %s", tool, err, out)
		}
		total += time.Since(start)
	}
	return total
}

// BenchmarkWritePeers programs n peers from nothing (4n objects), and reports how that compares with ip -batch and bridge -batch.
func BenchmarkWritePeers(b *testing.B) {
	for _, n := range []int{250, 1000, 5000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			plan := peerPlan(n)
			var ours, theirs time.Duration
			for b.Loop() {
				_, c := vxlanNetns(b)
				start := time.Now()
				must(b, c.Write(b.Context(), plan))
				ours += time.Since(start)
				if _, err := exec.LookPath("bridge"); err == nil {
					ns, _ := vxlanNetns(b)
					theirs += ipBatch(b, ns, plan)
				} else {
					b.Log("no bridge(8) and ip(8) here to compare with")
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(ours.Microseconds())/float64(b.N*len(plan)), "µs/object")
			if theirs > 0 {
				b.ReportMetric(float64(ours)/float64(theirs), "of-ip-batch")
			}
		})
	}
}

// BenchmarkChunk shows what gathering messages saves: 5,000 neighbours, once per size of what goes into one sendmsg.
func BenchmarkChunk(b *testing.B) {
	var plan rtnl.Plan
	for i := range 5000 {
		inner, mac, _, _ := peer(i)
		plan = append(plan, rtnl.Change{Verb: rtnl.Replace, Object: rtnl.Neigh{Link: "vx", IP: inner, MAC: mac, Permanent: true}})
	}
	for _, size := range []int{1, 1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			_, c := vxlanNetns(b)
			c.SetChunk(size)
			must(b, c.Write(b.Context(), plan))
			for b.Loop() {
				must(b, c.Write(b.Context(), plan))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(plan)), "ns/object")
		})
	}
}

// BenchmarkOpen opens a connection to another namespace, as a CNI plugin does per pod.
func BenchmarkOpen(b *testing.B) {
	ns := rtnltest.NewNetns(b)
	for b.Loop() {
		c, err := rtnl.Open(rtnl.Options{Netns: ns.Path()})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkVethBirth makes a pod's link: a host end in a bridge, the other end in the pod's namespace, and gives it addresses and routes.
func BenchmarkVethBirth(b *testing.B) {
	host, pod := rtnltest.NewNetns(b), rtnltest.NewNetns(b)
	hc, pc := host.Conn(b), pod.Conn(b)
	must(b, hc.Write(b.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge, Up: rtnl.On}}}))
	for i := 0; b.Loop(); i++ {
		eth := fmt.Sprintf("eth%d", i)
		_, mac, _, _ := peer(i)
		must(b, hc.Write(b.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{
			Name: fmt.Sprintf("veth%d", i), Kind: rtnl.KindVeth, Up: rtnl.On, MTU: 1450, MAC: mac, Alias: "podnet:veth", Master: "cni0", Hairpin: rtnl.On,
			Veth: rtnl.Veth{Peer: eth, PeerNetns: pod.Path(), PeerMAC: rtnl.MAC{2, 1, 0, mac[3], mac[4], mac[5]}},
		}}}))
		hi, lo := byte(i>>8), byte(i)
		gateway := netip.AddrFrom4([4]byte{10, hi, lo, 1})
		must(b, pc.Write(b.Context(), rtnl.Plan{
			{Verb: rtnl.Set, Object: rtnl.Link{Name: eth, Up: rtnl.On}},
			{Verb: rtnl.Add, Object: rtnl.Addr{Link: eth, Prefix: netip.PrefixFrom(gateway.Next(), 24)}},
			{Verb: rtnl.Add, Object: rtnl.Addr{Link: eth, Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 2, hi, lo, 15: 2}), 64), NoDAD: true}},
			{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gateway, Link: eth, Priority: uint32(i)}},
		}))
	}
}

// BenchmarkSysctl writes two settings in another namespace.
func BenchmarkSysctl(b *testing.B) {
	c := rtnltest.NewNetns(b).Conn(b)
	plan := rtnl.Plan{
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/lo/accept_ra", Value: "0"}},
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/lo/accept_redirects", Value: "0"}},
	}
	for b.Loop() {
		must(b, c.Write(b.Context(), plan))
	}
}

// BenchmarkRoutes reads 5,000 routes of one protocol beside 5,000 of another.
func BenchmarkRoutes(b *testing.B) {
	_, c := vxlanNetns(b)
	var plan rtnl.Plan
	for i := range 10000 {
		_, _, _, podCIDR := peer(i)
		plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: podCIDR, Link: "vx", Scope: rtnl.ScopeLink, Protocol: rtnl.ProtocolVXLAN + rtnl.Protocol(i&1)}})
	}
	must(b, c.Write(b.Context(), plan))
	for b.Loop() {
		routes, err := c.Routes(b.Context(), rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
		if err != nil || len(routes) != 5000 {
			b.Fatal(len(routes), err)
		}
	}
}

// BenchmarkLinks reads 1,000 devices, and one of them.
func BenchmarkLinks(b *testing.B) {
	c := rtnltest.NewNetns(b).Conn(b)
	for i := range 500 {
		must(b, c.Write(b.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{Name: fmt.Sprint("a", i), Kind: rtnl.KindVeth, Veth: rtnl.Veth{Peer: fmt.Sprint("b", i)}}}}))
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if links, err := c.Links(b.Context()); err != nil || len(links) != 1001 {
				b.Fatal(len(links), err)
			}
		}
	})
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Link(b.Context(), "a77"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
