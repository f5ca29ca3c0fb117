package veth_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

// BenchmarkAdd measures the whole wiring of a dual-stack pod on a node that has its bridge, beside the bare netlink calls for the same
// objects (vishvananda/netlink, as the field uses it), in turn, each in a fresh namespace. Both open their connections.
//
//   - podnet: bridge and link, until packets reach the pod and its neighbours know it.
//   - written: of that, until the last object is written: what bare does.
//   - bare: make the pair, size it, put it into the bridge, hairpin off, alias, addresses, up, default routes. No sysctls, no look whether something is
//     there already, no wait.
func BenchmarkAdd(b *testing.B) {
	node := newNode(b)
	var ours, written, bare []time.Duration
	i := 0
	for b.Loop() {
		b.StopTimer()
		first, second := newPlaceForBench(b), newPlaceForBench(b)
		i++
		b.StartTimer()
		total, wrote := addPod(b, node, first, i)
		b.StopTimer()
		ours, written = append(ours, total), append(written, wrote)
		bare = append(bare, addBare(b, node, second, i))
		b.StartTimer()
	}
	report := func(name string, ds []time.Duration) (p50 float64) {
		slices.Sort(ds)
		p50 = float64(ds[len(ds)/2].Microseconds())
		b.ReportMetric(p50, name+"-p50-µs")
		b.ReportMetric(float64(ds[len(ds)*9/10].Microseconds()), name+"-p90-µs")
		return p50
	}
	o, w, p := report("podnet", ours), report("written", written), report("bare", bare)
	b.ReportMetric(o/p, "podnet/bare")
	b.ReportMetric(w/p, "written/bare")
}

// newPlaceForBench returns the path of a namespace.
func newPlaceForBench(b *testing.B) string { return newPlace(b).Path() }

func addPod(b *testing.B, node place, path string, i int) (total, written time.Duration) {
	started := time.Now()
	host, err := rtnl.Open(rtnl.Options{Netns: node.Path()})
	if err != nil {
		b.Fatal(err)
	}
	defer host.Close()
	pod, err := rtnl.Open(rtnl.Options{Netns: path})
	if err != nil {
		b.Fatal(err)
	}
	defer pod.Close()
	if _, err := bridge.New(host, bridge.Options{}).Apply(b.Context(), bridged); err != nil {
		b.Fatal(err)
	}
	watched := &stopwatch{Kernel: pod}
	r := veth.New(host, watched, veth.Options{ContainerID: fmt.Sprint("c", i), Ifname: "eth0", Netns: path})
	if _, err := r.Apply(b.Context(), config(2)); err != nil {
		b.Fatal(err)
	}
	return time.Since(started), watched.wrote.Sub(started)
}

func addBare(b *testing.B, node place, path string, i int) time.Duration {
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	hostNS, err := netns.GetFromPath(node.Path())
	must(err)
	defer hostNS.Close()
	started := time.Now()
	host, err := netlink.NewHandleAt(hostNS, unix.NETLINK_ROUTE)
	must(err)
	defer host.Close()
	podNS, err := os.Open(path)
	must(err)
	defer podNS.Close()
	br, err := host.LinkByName("cni0")
	must(err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = fmt.Sprint("bare", i), 1450, net.FlagUp
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(podNS.Fd()))}
	must(host.LinkAdd(pair))
	end, err := host.LinkByName(attrs.Name)
	must(err)
	must(host.LinkSetMaster(end, br))
	must(host.LinkSetHairpin(end, false))
	must(host.LinkSetAlias(end, "podnet:veth bare eth0"))
	pod, err := netlink.NewHandleAt(netns.NsHandle(int(podNS.Fd())), unix.NETLINK_ROUTE)
	must(err)
	defer pod.Close()
	eth0, err := pod.LinkByName("eth0")
	must(err)
	for _, a := range config(2).Addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		must(pod.AddrAdd(eth0, addr))
	}
	must(pod.LinkSetUp(eth0))
	for _, r := range config(2).Routes {
		must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: r.Gateway.AsSlice(), Dst: &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(0, r.Dst.Addr().BitLen())}}))
	}
	return time.Since(started)
}

// stopwatch notes when the first plan was written to the pod.
type stopwatch struct {
	veth.Kernel
	wrote time.Time
}

func (s *stopwatch) Write(ctx context.Context, p rtnl.Plan) []error {
	errs := s.Kernel.Write(ctx, p)
	if s.wrote.IsZero() {
		s.wrote = time.Now()
	}
	return errs
}
