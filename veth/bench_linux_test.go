package veth_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
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
//   - calls: of that, in the kernel's answers: the sum of its netlink calls and sysctls without what is between them.
//   - bare: make the pair, size it, put it into the bridge, hairpin off, alias, addresses, up, default routes. No sysctls, no look whether something is
//     there already, no wait until it works, no announcement.
func BenchmarkAdd(b *testing.B) {
	node := newNode(b)
	for i := range 10 { // without ports the bridge has no carrier, and gets it again and again
		attach(b, node, fmt.Sprint("bystander", i), config(100+i))
	}
	var ours, calls, bare []time.Duration
	i := 0
	for b.Loop() {
		b.StopTimer()
		first, second := newPlace(b).Path(), newPlace(b).Path()
		i++
		b.StartTimer()
		if err := node.Do(func() error { // as a plugin or an agent, which live in the node's namespace
			total, inCalls := addPod(b, first, i)
			ours, calls = append(ours, total), append(calls, inCalls)
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		bare = append(bare, addBare(b, node, second, i))
		// An announcement goes to every port: with pods left over it would cost more in every round.
		for _, end := range []string{veth.HostName(fmt.Sprint("c", i), "eth0"), fmt.Sprint("bare", i)} {
			if errs := node.conn.Write(b.Context(), rtnl.Plan{{Verb: rtnl.Delete, Object: rtnl.Link{Name: end}}}); errs != nil {
				b.Fatal(errs[0])
			}
		}
		b.StartTimer()
	}
	report := func(name string, ds []time.Duration) (p50 float64) {
		slices.Sort(ds)
		for _, percent := range []int{10, 50, 90} { // p10 is what a busy machine disturbs least
			b.ReportMetric(float64(ds[len(ds)*percent/100].Microseconds()), fmt.Sprintf("%s-p%d-µs", name, percent))
		}
		return float64(ds[len(ds)/2].Microseconds())
	}
	o, c, p := report("podnet", ours), report("calls", calls), report("bare", bare)
	b.ReportMetric(o/p, "podnet/bare")
	b.ReportMetric(o/c, "podnet/calls")
}

func addPod(b *testing.B, path string, i int) (total, calls time.Duration) {
	started := time.Now()
	host, err := rtnl.Open(rtnl.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer host.Close()
	pod, err := rtnl.Open(rtnl.Options{Netns: path})
	if err != nil {
		b.Fatal(err)
	}
	defer pod.Close()
	calls = time.Since(started)
	timedHost, timedPod := &timed{Conn: host, sum: &calls}, &timed{Conn: pod, sum: &calls}
	if _, err := bridge.New(timedHost, bridge.Options{}).Apply(b.Context(), bridged); err != nil {
		b.Fatal(err)
	}
	r := veth.New(timedHost, timedPod, veth.Options{ContainerID: fmt.Sprint("c", i), Ifname: "eth0", Netns: path})
	if _, err := r.Apply(b.Context(), config(2)); err != nil {
		b.Fatal(err)
	}
	return time.Since(started), calls
}

// timed adds up how long the calls of a connection take.
type timed struct {
	*rtnl.Conn
	sum *time.Duration
}

func (k *timed) since(started time.Time) { *k.sum += time.Since(started) }

func (k *timed) Link(ctx context.Context, name string) (rtnl.Link, error) {
	defer k.since(time.Now())
	return k.Conn.Link(ctx, name)
}

func (k *timed) Addrs(ctx context.Context, link string) ([]rtnl.Addr, error) {
	defer k.since(time.Now())
	return k.Conn.Addrs(ctx, link)
}

func (k *timed) RouteTo(ctx context.Context, dst netip.Addr) (rtnl.Route, error) {
	defer k.since(time.Now())
	return k.Conn.RouteTo(ctx, dst)
}

func (k *timed) Sysctl(ctx context.Context, name string) (string, error) {
	defer k.since(time.Now())
	return k.Conn.Sysctl(ctx, name)
}

func (k *timed) Write(ctx context.Context, p rtnl.Plan) []error {
	defer k.since(time.Now())
	return k.Conn.Write(ctx, p)
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
