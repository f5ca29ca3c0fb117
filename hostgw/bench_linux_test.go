package hostgw

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// manyPeers is an IPv4 node with n peers on its segment.
func manyPeers(n int) Config {
	c := Config{Underlay: "eth0", Endpoints: []Endpoint{{Local: addr("172.16.0.1"), PodCIDR: prefix("10.0.0.0/24")}}}
	for i := 1; i <= n; i++ {
		c.Peers = append(c.Peers, Peer{
			Name:    fmt.Sprintf("node-%05d", i),
			PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24),
			Addr:    netip.AddrFrom4([4]byte{172, 17, byte(i >> 8), byte(i)}),
		})
	}
	return c
}

func benchNode(b *testing.B) (*rtnltest.Netns, *rtnl.Conn) {
	b.Helper()
	ns := rtnltest.NewNetns(b)
	c := ns.Conn(b)
	write(b, c,
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "switch"}}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "switch", Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: prefix("172.16.0.1/12")}},
	)
	return ns, c
}

// BenchmarkPeersFromNothing is the time to n peers, beside ip -batch writing the same routes, in the same run.
func BenchmarkPeersFromNothing(b *testing.B) {
	if _, err := exec.LookPath("ip"); err != nil {
		b.Skip("ip (Debian package iproute2) is missing: there is nothing to compare with")
	}
	for _, n := range []int{1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			want := manyPeers(n)
			var ours, theirs time.Duration
			for range b.N {
				b.StopTimer()
				_, c := benchNode(b)
				b.StartTimer()
				start := time.Now()
				done, err := New(c, Options{}).Apply(b.Context(), want)
				ours += time.Since(start)
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				ns, _ := benchNode(b)
				cmd := exec.Command("ip", "-batch", "-")
				cmd.Stdin = strings.NewReader(done.String())
				start = time.Now()
				if err := ns.Do(cmd.Run); err != nil {
					b.Fatal(err)
				}
				theirs += time.Since(start)
				b.StartTimer()
			}
			b.ReportMetric(ours.Seconds()*1e6/float64(b.N*n), "us/peer")
			b.ReportMetric(theirs.Seconds()*1e6/float64(b.N*n), "ip-us/peer")
			b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-ip")
		})
	}
}

// BenchmarkSteadyState is a look at a node that is as wanted.
func BenchmarkSteadyState(b *testing.B) {
	_, c := benchNode(b)
	r := New(c, Options{})
	want := manyPeers(5000)
	if _, err := r.Apply(b.Context(), want); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p, err := r.Plan(b.Context(), want); err != nil || !p.Empty() {
			b.Fatal(p, err)
		}
	}
}
