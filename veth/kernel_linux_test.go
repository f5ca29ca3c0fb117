package veth_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/veth"
)

// The tests in this file send packets between network namespaces of the real kernel.

// place is a network namespace with a connection to it.
type place struct {
	*rtnltest.Netns
	conn *rtnl.Conn
}

func newPlace(t testing.TB) place {
	n := rtnltest.NewNetns(t)
	return place{n, n.Conn(t)}
}

func newNode(t testing.TB) place {
	node := newPlace(t)
	if _, err := bridge.New(node.conn, bridge.Options{}).Apply(t.Context(), bridged); err != nil {
		t.Fatal(err)
	}
	return node
}

func link(node, pod place, id string) *veth.Reconciler {
	return veth.New(node.conn, pod.conn, veth.Options{ContainerID: id, Ifname: "eth0", Netns: pod.Path()})
}

// attach gives a fresh pod its link and proves that a second Apply does nothing.
func attach(t testing.TB, node place, id string, want veth.Config) place {
	t.Helper()
	pod := newPlace(t)
	r := link(node, pod, id)
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	return pod
}

func wantSettled(t testing.TB, r *veth.Reconciler, want veth.Config) {
	t.Helper()
	p, err := r.Apply(t.Context(), want)
	if err != nil || !p.Empty() {
		t.Errorf("another Apply did\n%v%v; want nothing", p, err)
	}
	if err := r.Check(t.Context(), want); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// serve answers every datagram to addr with the address that it came from, until the test ends. Binding fails while an address is tentative.
func serve(t testing.TB, at place, addr netip.Addr) netip.AddrPort {
	t.Helper()
	var conn *net.UDPConn
	if err := at.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for buf := make([]byte, 2048); ; {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := conn.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { conn.Close(); done.Wait() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// atOnce is less than the second after which the kernel repeats a lost ARP or NDP request: within it only the first packet can be answered.
const atOnce = 700 * time.Millisecond

// ask sends one datagram and returns the source address that the server saw.
func ask(from place, server netip.AddrPort) (saw string, err error) {
	err = from.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(atOnce)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte("who am I")); err != nil {
			return err
		}
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		saw = string(buf[:n])
		return err
	})
	return saw, err
}

func wantAnswer(t testing.TB, from place, server netip.AddrPort, saw string) {
	t.Helper()
	got, err := ask(from, server)
	if err != nil || got != saw {
		t.Errorf("first packet to %s: seen as %q, %v; want %q", server, got, err, saw)
	}
}

// TestPodsTalkAtOnce sends the first packet right after Apply: pod to pod, pod to gateway and back, in both families.
func TestPodsTalkAtOnce(t *testing.T) {
	node := newNode(t)
	a, b := newPlace(t), newPlace(t)
	for i, pod := range []place{a, b} {
		started := time.Now()
		if _, err := link(node, pod, fmt.Sprint("c", i)).Apply(t.Context(), config(i+2)); err != nil {
			t.Fatal(err)
		}
		t.Logf("Apply took %v", time.Since(started))
	}
	for f := range 2 {
		addrA, addrB, gw := config(2).Addrs[f].Addr(), config(3).Addrs[f].Addr(), gateways[f].Addr()
		wantAnswer(t, a, serve(t, b, addrB), addrA.String())
		wantAnswer(t, b, serve(t, a, addrA), addrB.String())
		wantAnswer(t, a, serve(t, node, gw), addrA.String())
		wantAnswer(t, node, serve(t, b, addrB), gw.String())
	}
	for i, pod := range []place{a, b} {
		wantSettled(t, link(node, pod, fmt.Sprint("c", i)), config(i+2))
	}
}

// TestReusedAddress gives an address that the node has just talked to, to another pod: the first packet must reach that one, because it was announced
// with another MAC, or because it came with the same one.
func TestReusedAddress(t *testing.T) {
	for name, want := range map[string]veth.Config{"announced": config(2), "quiet": quiet(2)} {
		t.Run(name, func(t *testing.T) {
			node := newNode(t)
			attach(t, node, "bystander", config(9)) // keeps the bridge running: without carrier it would forget its neighbours
			for round := range 3 {
				id := fmt.Sprint("c", round)
				pod := attach(t, node, id, want)
				for f := range 2 {
					wantAnswer(t, node, serve(t, pod, want.Addrs[f].Addr()), gateways[f].Addr().String())
				}
				if _, err := veth.New(node.conn, nil, veth.Options{ContainerID: id, Ifname: "eth0"}).Apply(t.Context(), veth.Config{}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestKernelState(t *testing.T) {
	node := newNode(t)
	want := config(2)
	want.Hairpin = true
	want.MAC = rtnl.MAC{2, 1, 2, 3, 4, 5}
	want.Routes = append(want.Routes, rtnl.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.244.1.1"), MTU: 1400, AdvMSS: 1300, Priority: 7},
		rtnl.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Gateway: netip.MustParseAddr("10.244.1.1"), Table: 1000},
		rtnl.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Scope: rtnl.ScopeLink})
	pod := newPlace(t)
	r := link(node, pod, "c1")
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	wantSettled(t, r, want)
	host, inside := r.Ends(want)
	got, err := node.conn.Link(t.Context(), host.Name)
	if err != nil || got.MTU != 1450 || got.Master != "cni0" || got.Hairpin != rtnl.On || got.MAC != host.MAC || got.Alias != "podnet:veth c1 eth0" || !got.Running {
		t.Errorf("host end %+v, %v", got, err)
	}
	got, err = pod.conn.Link(t.Context(), "eth0")
	if err != nil || got.MTU != 1450 || got.MAC != inside.MAC || got.MAC != want.MAC || got.Up != rtnl.On {
		t.Errorf("pod end %+v, %v", got, err)
	}
	for name, value := range map[string]string{"ipv6/conf/eth0/accept_ra": "0", "ipv4/conf/eth0/arp_notify": "1", "ipv6/conf/eth0/ndisc_notify": "1", "ipv6/conf/eth0/disable_ipv6": "0"} {
		if got, err := pod.conn.Sysctl(t.Context(), "net/"+name); err != nil || got != value {
			t.Errorf("%s = %q, %v; want %s", name, got, err, value)
		}
	}
	if _, err := node.conn.Link(t.Context(), "eth0"); err == nil {
		t.Error("the node has the pod's eth0")
	}
}

// TestDrift breaks one thing after another; the next Apply repairs just that.
func TestDrift(t *testing.T) {
	node := newNode(t)
	want := config(2)
	want.Hairpin = true
	pod := newPlace(t)
	r := link(node, pod, "c1")
	if _, err := r.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	hostEnd, podEnd := r.Ends(want)
	name := hostEnd.Name
	for _, c := range []struct {
		what    string
		at      place
		break_  rtnl.Change
		missing bool // in the eyes of CNI's CHECK
	}{
		{"address", pod, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Addr{Link: "eth0", Prefix: want.Addrs[1]}}, true},
		{"IPv4 address, and with it its routes", pod, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Addr{Link: "eth0", Prefix: want.Addrs[0]}}, true},
		{"route", pod, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Route{Dst: netip.MustParsePrefix("::/0"), Link: "eth0"}}, true},
		{"route elsewhere", pod, rtnl.Change{Verb: rtnl.Replace, Object: rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.244.1.77"), Link: "eth0"}}, true},
		{"down in the pod", pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.Off}}, true},
		{"down on the host", node, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: name, Up: rtnl.Off}}, false},
		{"MTU", pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", MTU: 1400}}, false},
		{"MAC in the pod", pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", MAC: rtnl.MAC{2, 9, 9, 9, 9, 9}}}, false},
		{"MAC on the host", node, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: name, MAC: rtnl.MAC{2, 9, 9, 9, 9, 8}}}, false},
		{"hairpin", node, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: name, Hairpin: rtnl.Off}}, false},
		{"sysctl", pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/eth0/accept_ra", Value: "1"}}, false},
		{"IPv6 off", pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/eth0/disable_ipv6", Value: "1"}}, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			if errs := c.at.conn.Write(t.Context(), rtnl.Plan{c.break_}); errs != nil {
				t.Fatal(errs[0])
			}
			if err := r.Check(t.Context(), want); (err != nil) != c.missing {
				t.Errorf("Check = %v; want an error: %v", err, c.missing)
			}
			p, err := r.Apply(t.Context(), want)
			if err != nil || p.Empty() {
				t.Errorf("Apply did\n%v%v; want a repair", p, err)
			}
			t.Logf("\n%v", p)
			wantSettled(t, r, want)
			for f := range 2 {
				if saw, err := askUntil(pod, serve(t, node, gateways[f].Addr())); err != nil || saw != want.Addrs[f].Addr().String() {
					t.Errorf("gateway saw %q, %v", saw, err)
				}
			}
		})
	}
	if podEnd.Name != "eth0" {
		t.Errorf("pod end is called %s", podEnd.Name)
	}
}

// askUntil asks until it is answered: after a repair, neighbour entries may have to be looked for again.
func askUntil(from place, server netip.AddrPort) (saw string, err error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if saw, err = ask(from, server); err == nil {
			return saw, nil
		}
	}
	return saw, err
}

// TestHairpin sends a frame to the pod's own MAC: only with hairpin it comes back through the port that it came from.
func TestHairpin(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		t.Run(fmt.Sprint(hairpin), func(t *testing.T) {
			node := newNode(t)
			want := config(2)
			want.Hairpin = hairpin
			pod := attach(t, node, "c1", want)
			_, eth0 := link(node, pod, "c1").Ends(want)
			wantAnswer(t, pod, serve(t, node, gateways[0].Addr()), "10.244.1.2") // the bridge learns where the pod is
			got, err := frameComesBack(pod, eth0.MAC)
			if err != nil || got != hairpin {
				t.Errorf("frame to the own MAC comes back: %v, %v; want %v", got, err, hairpin)
			}
		})
	}
}

// frameComesBack sends a frame to mac, then one to the gateway's neighbours (broadcast). The answer to the second proves that the first had its time.
func frameComesBack(pod place, mac rtnl.MAC) (back bool, err error) {
	const proto = 0x88b5 // IEEE 802 local experimental
	err = pod.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(proto)))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		to := &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: eth0.Index, Halen: 6}
		copy(to.Addr[:], mac[:])
		if err := unix.Sendto(fd, []byte("to myself"), 0, to); err != nil {
			return err
		}
		timeout := unix.NsecToTimeval((200 * time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		for buf := make([]byte, 256); ; {
			_, from, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, syscall.EAGAIN) {
				return nil
			}
			if err != nil {
				return err
			}
			if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype != unix.PACKET_OUTGOING {
				back = true
				return nil
			}
		}
	})
	return back, err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// TestConcurrentAdds is 20 pods at once on a node without bridge: each makes the same bridge and its own link.
func TestConcurrentAdds(t *testing.T) {
	const n = 20
	node := newPlace(t)
	pods := make([]place, n)
	for i := range pods {
		pods[i] = newPlace(t)
	}
	var all sync.WaitGroup
	errs := make([]error, n)
	for i, pod := range pods {
		own := place{node.Netns, node.Netns.Conn(t)} // a process of its own has a connection of its own
		all.Go(func() {
			_, err := bridge.New(own.conn, bridge.Options{}).Apply(t.Context(), bridged)
			if err == nil {
				_, err = link(own, pod, fmt.Sprint("c", i)).Apply(t.Context(), config(i+2))
			}
			errs[i] = err
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	links, err := node.conn.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ports := slices.DeleteFunc(slices.Clone(links), func(l rtnl.Link) bool { return l.Master != "cni0" })
	if len(links) != n+2 || len(ports) != n {
		t.Errorf("%d devices, %d ports; want %d and %d", len(links), len(ports), n+2, n)
	}
	if p, err := bridge.New(node.conn, bridge.Options{}).Apply(t.Context(), bridged); err != nil || !p.Empty() {
		t.Errorf("another Apply of the bridge did\n%v%v; want nothing", p, err)
	}
	for f := range 2 {
		server := serve(t, node, gateways[f].Addr())
		for i, pod := range pods {
			wantAnswer(t, pod, server, config(i + 2).Addrs[f].Addr().String())
		}
	}
}

// TestSameOwnerAtOnce is two ADDs of one attachment: whoever loses finds the link there.
func TestSameOwnerAtOnce(t *testing.T) {
	node, pod := newNode(t), newPlace(t)
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		own := place{node.Netns, node.Netns.Conn(t)}
		inside := place{pod.Netns, pod.Netns.Conn(t)}
		all.Go(func() { _, errs[i] = link(own, inside, "c1").Apply(t.Context(), config(2)) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	wantSettled(t, link(node, pod, "c1"), config(2))
}

// TestRemoval deletes the link with the pod's namespace there, without it, twice, and after the kernel did it.
func TestRemoval(t *testing.T) {
	node := newNode(t)
	pod := attach(t, node, "c1", config(2))
	gone := veth.New(node.conn, nil, veth.Options{ContainerID: "c1", Ifname: "eth0"})
	p, err := gone.Apply(t.Context(), veth.Config{})
	if want := "host: link del " + veth.HostName("c1", "eth0") + "\n"; err != nil || p.String() != want {
		t.Errorf("Apply of the zero Config did\n%v%v; want\n%s", p, err, want)
	}
	if p, err := gone.Apply(t.Context(), veth.Config{}); err != nil || !p.Empty() {
		t.Errorf("again: %v, %v; want nothing", p, err)
	}
	if _, err := pod.conn.Link(t.Context(), "eth0"); err == nil {
		t.Error("eth0 is still in the pod")
	}
	if _, err := link(node, pod, "c1").Apply(t.Context(), config(2)); err != nil {
		t.Errorf("attach again: %v", err)
	}
}

// TestForeign proves that devices of others are named in an error and left alone.
func TestForeign(t *testing.T) {
	node, pod := newNode(t), newPlace(t)
	r := link(node, pod, "c1")
	taken := rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Veth: rtnl.Veth{Peer: "other"}}
	if errs := pod.conn.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: taken}}); errs != nil {
		t.Fatal(errs[0])
	}
	if _, err := r.Apply(t.Context(), config(2)); err == nil || !strings.Contains(err.Error(), "interface eth0 exists already in the pod") {
		t.Errorf("Apply = %v; want that eth0 exists", err)
	}
	if errs := pod.conn.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Delete, Object: rtnl.Link{Name: "other"}}}); errs != nil {
		t.Fatal(errs[0])
	}
	name := veth.HostName("c1", "eth0")
	if errs := node.conn.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{Name: name, Kind: rtnl.KindBridge}}}); errs != nil {
		t.Fatal(errs[0])
	}
	if _, err := r.Apply(t.Context(), config(2)); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("Apply = %v; want an error that names %s", err, name)
	}
	if p, err := r.Apply(t.Context(), veth.Config{}); err != nil || !p.Empty() {
		t.Errorf("Apply of the zero Config did\n%v%v; want nothing", p, err)
	}
	if _, err := node.conn.Link(t.Context(), name); err != nil {
		t.Errorf("the foreign device: %v", err)
	}
}

// TestKernelStates runs the table of the fake on the real kernel: the same errors, packets, and a second Apply that does nothing.
func TestKernelStates(t *testing.T) {
	write := func(t *testing.T, at place, p rtnl.Plan) {
		t.Helper()
		for _, err := range at.conn.Write(t.Context(), p) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			node, pod := newNode(t), newPlace(t)
			for _, b := range c.before {
				if _, err := link(node, pod, "c1").Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			if c.elsewhere {
				pod = newPlace(t)
			}
			if d := c.device; d.Name != "" {
				if d.Veth.PeerNetns != "" {
					d.Veth.PeerNetns = pod.Path()
				}
				write(t, node, rtnl.Plan{{Verb: rtnl.Add, Object: d}})
			}
			for _, others := range []struct {
				at   place
				text string
			}{{node, c.node}, {pod, c.pod}} {
				p, err := rtnltest.ParsePlan(others.text)
				if err != nil {
					t.Fatal(err)
				}
				write(t, others.at, p)
			}
			r := link(node, pod, "c1")
			if _, err := r.Apply(t.Context(), c.want); (err != nil) != (c.err != "") {
				t.Fatalf("Apply = %v; want %q", err, c.err)
			}
			if c.err != "" {
				return
			}
			wantSettled(t, r, c.want)
			for _, a := range c.want.Addrs {
				f := 0
				if a.Addr().Is6() {
					f = 1
				}
				if saw, err := askUntil(pod, serve(t, node, gateways[f].Addr())); err != nil || saw != a.Addr().String() {
					t.Errorf("gateway saw %q, %v; want %s", saw, err, a.Addr())
				}
			}
		})
	}
}

// TestCancelled proves that a cancelled context ends Apply with its error.
func TestCancelled(t *testing.T) {
	node, pod := newNode(t), newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := link(node, pod, "c1").Apply(ctx, config(2)); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v; want context.Canceled", err)
	}
}
