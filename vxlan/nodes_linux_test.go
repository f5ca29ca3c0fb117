package vxlan

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// testNode is a node with one pod, in namespaces of their own.
type testNode struct {
	number  int
	node    *rtnltest.Netns
	pod     *rtnltest.Netns
	conn    *rtnl.Conn
	podAddr map[rtnl.Family]netip.Addr
}

// threeNodes makes n1 and n2 on one segment and n3 on another, with a router between them.
func threeNodes(t *testing.T) []testNode {
	t.Helper()
	router := rtnltest.NewNetns(t)
	r := router.Conn(t)
	write(t, r,
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "seg1", Kind: rtnl.KindBridge, Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "seg2", Kind: rtnl.KindBridge, Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "seg1", Prefix: prefix("192.168.1.254/24")}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "seg2", Prefix: prefix("192.168.2.254/24")}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "seg1", Prefix: prefix("2001:db8:1::fe/64"), NoDAD: true}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "seg2", Prefix: prefix("2001:db8:2::fe/64"), NoDAD: true}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}},
	)
	var nodes []testNode
	for n := 1; n <= 3; n++ {
		nodes = append(nodes, newTestNode(t, r, n))
	}
	return nodes
}

func segmentOf(n int) int { return 1 + n/3 }

func newTestNode(t *testing.T, router *rtnl.Conn, n int) testNode {
	t.Helper()
	node := testNode{number: n, node: rtnltest.NewNetns(t), pod: rtnltest.NewNetns(t), podAddr: map[rtnl.Family]netip.Addr{}}
	node.conn = node.node.Conn(t)
	pod := node.pod.Conn(t)
	segment := segmentOf(n)
	add := func(o rtnl.Object) rtnl.Change { return rtnl.Change{Verb: rtnl.Add, Object: o} }
	write(t, router, add(rtnl.Link{
		Name: fmt.Sprintf("n%d", n), Kind: rtnl.KindVeth, Up: rtnl.On, Master: fmt.Sprintf("seg%d", segment),
		Veth: rtnl.Veth{Peer: "eth0", PeerNetns: node.node.Path()},
	}))
	write(t, node.conn,
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}},
		add(rtnl.Addr{Link: "eth0", Prefix: prefix(fmt.Sprintf("192.168.%d.%d/24", segment, n))}),
		add(rtnl.Addr{Link: "eth0", Prefix: prefix(fmt.Sprintf("2001:db8:%d::%d/64", segment, n)), NoDAD: true}),
		add(rtnl.Route{Dst: prefix("0.0.0.0/0"), Gateway: addr(fmt.Sprintf("192.168.%d.254", segment)), Link: "eth0"}),
		add(rtnl.Route{Dst: prefix("::/0"), Gateway: addr(fmt.Sprintf("2001:db8:%d::fe", segment)), Link: "eth0"}),
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}},
		add(rtnl.Link{Name: "pod", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: node.pod.Path()}}),
	)
	write(t, pod, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}})
	for _, family := range families {
		cidr := nodeOf(n, family).PodCIDR
		gateway := cidr.Addr().Next()
		inside := gateway.Next()
		node.podAddr[family] = inside
		everywhere := netip.PrefixFrom(cidr.Addr(), 0).Masked()
		write(t, node.conn, add(rtnl.Addr{Link: "pod", Prefix: netip.PrefixFrom(gateway, cidr.Bits()), NoDAD: family == rtnl.IPv6}))
		write(t, pod,
			add(rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(inside, cidr.Bits()), NoDAD: family == rtnl.IPv6}),
			add(rtnl.Route{Dst: everywhere, Gateway: gateway, Link: "eth0"}),
		)
	}
	return node
}

// configs are the Configs of the three nodes.
func configs(nodes []testNode) []Config {
	all := cluster(len(nodes))
	outer := func(n int, family rtnl.Family) netip.Addr {
		if family == rtnl.IPv4 {
			return addr(fmt.Sprintf("192.168.%d.%d", segmentOf(n), n))
		}
		return addr(fmt.Sprintf("2001:db8:%d::%d", segmentOf(n), n))
	}
	for i := range all {
		for j, e := range all[i].Endpoints {
			all[i].Endpoints[j].Local = outer(i+1, rtnl.FamilyOf(e.Local))
		}
		for j, p := range all[i].Peers {
			var n int
			fmt.Sscanf(p.Name, "n%d", &n)
			all[i].Peers[j].Addr = outer(n, rtnl.FamilyOf(p.Addr))
		}
	}
	return all
}

// echo answers every datagram that reaches a pod with the address it came from, until the test ends.
func echo(t *testing.T, node testNode, family rtnl.Family) netip.AddrPort {
	t.Helper()
	var conn *net.UDPConn
	err := node.pod.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(node.podAddr[family], 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort([]byte(from.Addr().String()), from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// ask sends one datagram of size payload bytes (Don't Fragment) from a namespace and returns the answer.
func ask(from *rtnltest.Netns, to netip.AddrPort, size int) (string, error) {
	var answer string
	err := from.Do(func() error {
		d := net.Dialer{Control: dontFragment}
		conn, err := d.DialContext(context.Background(), "udp", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write(make([]byte, size)); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

func dontFragment(network, _ string, raw syscall.RawConn) error {
	var err error
	control := raw.Control(func(fd uintptr) {
		if network == "udp4" {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
		} else {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER, syscall.IPV6_PMTUDISC_DO)
		}
	})
	return errors.Join(control, err)
}

// wantAnswer asks until there is the wanted answer: a first packet may be lost while neighbours of the underlay are being resolved.
func wantAnswer(t *testing.T, from *rtnltest.Netns, to netip.AddrPort, want netip.Addr) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if got, err = ask(from, to, 10); err == nil {
			break
		}
	}
	if err != nil || got != want.String() {
		t.Fatalf("from %s to %s: server saw %q (%v), want %s", want, to, got, err, want)
	}
}

// ping sends an ICMP echo request from a namespace and waits for the reply.
func ping(from *rtnltest.Netns, to netip.Addr) error {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	return from.Do(func() error {
		conn, err := net.Dial(network, to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		packet := []byte{request, 0, 0, 0, 0x70, 0x6e, 0, 1}
		if to.Is4() {
			// IPv6 checksums are the kernel's business on such a socket.
			binary.BigEndian.PutUint16(packet[2:], ^(uint16(request)<<8 + 0x706e + 1))
		}
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		for buf := make([]byte, 1500); ; {
			n, _, err := conn.(*net.IPConn).ReadFrom(buf) // Read would leave the IPv4 header in
			if err != nil {
				return err
			}
			if n >= 8 && buf[0] == reply && buf[4] == 0x70 && buf[5] == 0x6e {
				return nil
			}
		}
	})
}

func wantAllReachable(t *testing.T, nodes []testNode) {
	t.Helper()
	for _, family := range families {
		for _, server := range nodes {
			to := echo(t, server, family)
			for _, client := range nodes {
				if client.number == server.number {
					continue
				}
				wantAnswer(t, client.pod, to, client.podAddr[family])
				// From the node itself the source is the address of its VTEP, or with direct routing the node's own.
				if _, err := ask(client.node, to, 10); err != nil {
					t.Errorf("node n%d to %s: %v", client.number, to, err)
				}
				if err := ping(client.pod, to.Addr()); err != nil {
					t.Errorf("ping from %s to %s: %v", client.podAddr[family], to.Addr(), err)
				}
			}
		}
	}
}

// TestPacketsBetweenNodes moves real packets between pods on three nodes, one of them behind a router.
func TestPacketsBetweenNodes(t *testing.T) {
	for _, mode := range []struct {
		name   string
		direct bool
		Options
	}{{"tunnel", false, Options{}}, {"direct", true, Options{}}, {"nexthops", false, Options{NexthopsAbove: 1}}} {
		t.Run(mode.name, func(t *testing.T) {
			nodes := threeNodes(t)
			for i, want := range configs(nodes) {
				want.DirectRouting = mode.direct
				apply(t, nodes[i].conn, want, mode.Options)
			}
			wantAllReachable(t, nodes)
			if mode.direct {
				wantDirect(t, nodes[0].conn)
			}
		})
	}
}

// wantDirect: n1 goes to n2 directly, and through the tunnel to n3.
func wantDirect(t *testing.T, n1 *rtnl.Conn) {
	t.Helper()
	for n, link := range map[int]string{2: "eth0", 3: "podnet.1"} {
		to := nodeOf(n, rtnl.IPv4).PodCIDR.Addr().Next()
		if r, err := n1.RouteTo(t.Context(), to); err != nil || r.Link != link {
			t.Errorf("route to %s: %s (%v), want it over %s", to, r, err, link)
		}
	}
}

// TestPacketsAfterDamage: packets flow again after each repair.
func TestPacketsAfterDamage(t *testing.T) {
	nodes := threeNodes(t)
	want := configs(nodes)
	for i := range want {
		apply(t, nodes[i].conn, want[i], Options{})
	}
	to := map[rtnl.Family]netip.AddrPort{}
	for _, family := range families {
		to[family] = echo(t, nodes[2], family)
	}
	c := nodes[0].conn
	all := func(objects ...rtnl.Object) (p []rtnl.Change) {
		for _, o := range objects {
			p = append(p, rtnl.Change{Verb: rtnl.Delete, Object: o})
		}
		return p
	}
	for name, damage := range map[string][]rtnl.Change{
		"devices deleted": all(rtnl.Link{Name: "podnet.1"}, rtnl.Link{Name: "podnet-v6.1"}),
		"devices down": {
			{Verb: rtnl.Set, Object: rtnl.Link{Name: "podnet.1", Up: rtnl.Off}},
			{Verb: rtnl.Set, Object: rtnl.Link{Name: "podnet-v6.1", Up: rtnl.Off}},
		},
		"MACs rewritten": {
			{Verb: rtnl.Set, Object: rtnl.Link{Name: "podnet.1", MAC: rtnl.MAC{2, 7}}},
			{Verb: rtnl.Set, Object: rtnl.Link{Name: "podnet-v6.1", MAC: rtnl.MAC{2, 7}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, c, damage...)
			for _, family := range families {
				if _, err := ask(nodes[0].pod, to[family], 10); err == nil {
					t.Errorf("IPv%d: packets flow in spite of the damage", family)
				}
			}
			apply(t, c, want[0], Options{})
			for _, family := range families {
				wantAnswer(t, nodes[0].pod, to[family], nodes[0].podAddr[family])
			}
		})
	}
}

// TestLargestPacket: with Don't Fragment the largest packet passes and one byte more is refused, on the node itself and in a pod whose own
// device would take it.
func TestLargestPacket(t *testing.T) {
	nodes := threeNodes(t)
	for i, want := range configs(nodes) {
		apply(t, nodes[i].conn, want, Options{})
	}
	for _, family := range families {
		headers := 20 + 8
		if family == rtnl.IPv6 {
			headers = 40 + 8
		}
		payload := MTUFor(1500, family) - headers
		to := echo(t, nodes[2], family)
		wantAnswer(t, nodes[0].pod, to, nodes[0].podAddr[family])
		for name, from := range map[string]*rtnltest.Netns{"node": nodes[0].node, "pod": nodes[0].pod} {
			if _, err := ask(from, to, payload); err != nil {
				t.Errorf("IPv%d %s: a packet of %d bytes: %v", family, name, payload+headers, err)
			}
			var err error
			for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
				if _, err = ask(from, to, payload+1); !errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
			}
			if !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("IPv%d %s: a packet of %d bytes: got %v, want EMSGSIZE", family, name, payload+1+headers, err)
			}
		}
	}
}
