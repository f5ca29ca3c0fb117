package vxlan

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// benchNode makes a namespace with an uplink and the VTEP, but no peers.
func benchNode(b *testing.B) (*rtnltest.Netns, *rtnl.Conn) {
	b.Helper()
	ns := rtnltest.NewNetns(b)
	c := ns.Conn(b)
	write(b, c,
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "switch"}}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "switch", Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: prefix("192.168.0.1/16")}},
	)
	if _, err := New(c, Options{}).Apply(b.Context(), manyPeers(0)); err != nil {
		b.Fatal(err)
	}
	return ns, c
}

// iproute2 writes the same objects with bridge -batch and ip -batch, as fast as the kernel takes them one by one.
func iproute2(b *testing.B, ns *rtnltest.Netns, p rtnl.Plan) {
	b.Helper()
	var bridge, ip strings.Builder
	for _, c := range p {
		if _, ok := c.Object.(rtnl.FDB); ok {
			fmt.Fprintln(&bridge, c)
		} else {
			fmt.Fprintln(&ip, c)
		}
	}
	for _, batch := range []struct {
		tool  string
		lines *strings.Builder
	}{{"bridge", &bridge}, {"ip", &ip}} {
		cmd := exec.Command(batch.tool, "-batch", "-")
		cmd.Stdin = strings.NewReader(batch.lines.String())
		var out []byte
		err := ns.Do(func() (err error) {
			out, err = cmd.CombinedOutput()
			return err
		})
		if err != nil {
			b.Fatalf("%s -batch: %v\n%.500s", batch.tool, err, out)
		}
	}
}

// BenchmarkPeersFromNothing is the time to n peers, beside iproute2 writing the same objects (with "plain" as in the form that flannel
// has, without nexthop objects), in the same run.
func BenchmarkPeersFromNothing(b *testing.B) {
	for _, tool := range []string{"ip", "bridge"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skipf("%s (Debian package iproute2) is missing: there is nothing to compare with", tool)
		}
	}
	for _, n := range []int{1000, 5000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			want := manyPeers(n)
			var ours, theirs, plain time.Duration
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				_, c := benchNode(b)
				r := New(c, Options{})
				b.StartTimer()
				start := time.Now()
				done, err := r.Apply(b.Context(), want)
				ours += time.Since(start)
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				theirs += timeBatch(b, done)
				plain += timeBatch(b, withoutNexthops(b, want))
				b.StartTimer()
			}
			b.ReportMetric(ours.Seconds()*1e6/float64(b.N*n), "us/peer")
			b.ReportMetric(theirs.Seconds()*1e6/float64(b.N*n), "ip-us/peer")
			b.ReportMetric(plain.Seconds()*1e6/float64(b.N*n), "ip-plain-us/peer")
			b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-ip")
			b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-ip-plain")
		})
	}
}

func timeBatch(b *testing.B, p rtnl.Plan) time.Duration {
	b.Helper()
	ns, _ := benchNode(b)
	start := time.Now()
	iproute2(b, ns, p)
	return time.Since(start)
}

func withoutNexthops(b *testing.B, want Config) rtnl.Plan {
	b.Helper()
	_, c := benchNode(b)
	p, err := New(c, Options{NexthopsAbove: -1}).Plan(b.Context(), want)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// BenchmarkSteadyState is a look at a node that is as wanted: dumps, and thinking alone.
func BenchmarkSteadyState(b *testing.B) {
	for _, n := range []int{5000, 20000} {
		want := manyPeers(n)
		b.Run(fmt.Sprintf("%d/plan", n), func(b *testing.B) {
			_, c := benchNode(b)
			r := New(c, Options{})
			if _, err := r.Apply(b.Context(), want); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if p, err := r.Plan(b.Context(), want); err != nil || !p.Empty() {
					b.Fatal(p, err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/thinking", n), func(b *testing.B) {
			_, c := benchNode(b)
			r := New(c, Options{})
			if _, err := r.Apply(b.Context(), want); err != nil {
				b.Fatal(err)
			}
			have, err := r.read(b.Context(), want)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if p, err := plan(want, have, r.options); err != nil || !p.Empty() {
					b.Fatal(p, err)
				}
			}
		})
	}
}

// BenchmarkOneChange is one of 5,000 peers coming back with a new MAC.
func BenchmarkOneChange(b *testing.B) {
	_, c := benchNode(b)
	r := New(c, Options{})
	want := manyPeers(5000)
	if _, err := r.Apply(b.Context(), want); err != nil {
		b.Fatal(err)
	}
	changes := 0
	for i := 0; b.Loop(); i++ {
		want.Peers[2500].MAC = rtnl.MAC{2, byte(i >> 16), byte(i >> 8), byte(i), 1}
		done, err := r.Apply(b.Context(), want)
		if err != nil {
			b.Fatal(err)
		}
		changes = max(changes, len(done))
	}
	b.ReportMetric(float64(changes), "writes/op")
}
