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
