package masq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/masq"
)

const echoPort = 7000

// lab is the cluster of the packet tests: a node between four hosts, each a network namespace.
type lab struct {
	node  string
	hosts map[string]string // name to namespace, the node's included
}

// newLab builds it. Every host knows ways to all others, so that a packet that is wrongly left untranslated arrives and is seen.
func newLab(t testing.TB) lab {
	t.Helper()
	l := lab{hosts: map[string]string{}}
	for _, name := range []string{"node", "pod", "remote", "outside", "excepted"} {
		l.hosts[name] = newNetns(t)
		in(t, l.hosts[name], "ip link set lo up")
	}
	l.node = l.hosts["node"]
	in(t, l.node, "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	for name, addrs := range map[string][4]string{
		"pod":      {gatewayV4 + "/24", gatewayV6 + "/64", podV4 + "/24", podV6 + "/64"},
		"remote":   {tunnelV4 + "/24", tunnelV6 + "/64", "10.245.0.2/24", "fd00:20::2/64"},
		"outside":  {uplinkV4 + "/24", uplinkV6 + "/64", outsideV4 + "/24", outsideV6 + "/64"},
		"excepted": {"198.51.100.1/24", "2001:db8:100::1/64", exceptedV4 + "/24", exceptedV6 + "/64"},
	} {
		host := l.hosts[name]
		in(t, l.node, "ip link add "+name+" type veth peer name eth0 netns "+host)
		for i, a := range addrs {
			if i < 2 {
				in(t, l.node, "ip addr add "+a+" dev "+name+nodad(a))
			} else {
				in(t, host, "ip addr add "+a+" dev eth0"+nodad(a))
			}
		}
		in(t, l.node, "ip link set "+name+" up")
		in(t, host, "ip link set eth0 up")
		for _, gateway := range addrs[:2] {
			gateway, _, _ = strings.Cut(gateway, "/")
			in(t, host, "ip route add default via "+gateway)
		}
	}
	in(t, l.hosts["remote"], "ip addr add "+remoteV4+"/32 dev lo")
	in(t, l.hosts["remote"], "ip addr add "+remoteV6+"/128 dev lo nodad")
	in(t, l.node, "ip route add 10.244.2.0/24 via 10.245.0.2")
	in(t, l.node, "ip route add fd00:10:2::/64 via fd00:20::2")
	return l
}

func nodad(addr string) string {
	if strings.Contains(addr, ":") {
		return " nodad"
	}
	return ""
}

// serve answers every UDP datagram, and every TCP connection, to an address of a host with the address that it came from.
func (l lab) serve(t testing.TB, host, addr string) {
	t.Helper()
	var udp *net.UDPConn
	var tcp net.Listener
	err := netns.Do(netns.Path(l.hosts[host]), func() (err error) {
		if udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr), Port: echoPort}); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(echoPort)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
		}
	})
	wg.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			_, _ = conn.Write([]byte(from.Addr().Unmap().String()))
			conn.Close()
		}
	})
	t.Cleanup(func() {
		udp.Close()
		tcp.Close()
		wg.Wait()
	})
}

// seenBy sends from a host and returns the address that the server at dst saw.
func (l lab) seenBy(network, host, src, dst string, mark int) (string, error) {
	var answer string
	var err error
	deadline := time.Now().Add(10 * time.Second) // neighbours of fresh links may take a second
	for answer == "" && time.Now().Before(deadline) {
		err = netns.Do(netns.Path(l.hosts[host]), func() error {
			dialer := net.Dialer{Timeout: 2 * time.Second, Control: marker(mark)}
			dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(src)}
			if network == "tcp" {
				dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(src)}
			}
			conn, err := dialer.DialContext(context.Background(), network, net.JoinHostPort(dst, strconv.Itoa(echoPort)))
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				return err
			}
			if _, err := conn.Write([]byte("who am I?")); err != nil {
				return err
			}
			buf := make([]byte, 64)
			n, err := conn.Read(buf)
			answer = string(buf[:n])
			return err
		})
	}
	return answer, err
}

// marker sets the packet mark of a socket.
func marker(mark int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			if mark != 0 {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
			}
		}), err)
	}
}

// groupSeenBy sends to a multicast group and returns the address that a member saw.
func (l lab) groupSeenBy(sender, member, src, group string) (string, error) {
	network, link := "udp4", "outside"
	if strings.Contains(group, ":") {
		network = "udp6"
	}
	var listener *net.UDPConn
	err := netns.Do(netns.Path(l.hosts[member]), func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		listener, err = net.ListenMulticastUDP(network, ifi, &net.UDPAddr{IP: net.ParseIP(group), Port: echoPort + 1})
		return err
	})
	if err != nil {
		return "", err
	}
	defer listener.Close()
	deadline := time.Now().Add(10 * time.Second) // nobody repeats a lost datagram but we
	for {
		if err := l.sendGroup(sender, network, src, group, link); err != nil {
			return "", err
		}
		if err := listener.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return "", err
		}
		_, from, err := listener.ReadFromUDPAddrPort(make([]byte, 64))
		if err == nil || time.Now().After(deadline) {
			return from.Addr().WithZone("").Unmap().String(), err
		}
	}
}

// sendGroup sends one datagram to a group out of a link of the sender.
func (l lab) sendGroup(sender, network, src, group, link string) error {
	return netns.Do(netns.Path(l.hosts[sender]), func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		to := netip.AddrPortFrom(netip.MustParseAddr(group), echoPort+1)
		if network == "udp6" {
			to = netip.AddrPortFrom(to.Addr().WithZone(strconv.Itoa(ifi.Index)), to.Port()) // a name would come from a cache of package net
		}
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(src)}, Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			return errors.Join(raw.Control(func(fd uintptr) {
				if network == "udp4" {
					err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifi.Index)})
				}
			}), err)
		}}
		conn, err := dialer.DialContext(context.Background(), network, to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return err
	})
}

// legacyPath makes a directory in which iptables is the legacy one.
func legacyPath(t testing.TB) string {
	t.Helper()
	const multi = "/usr/sbin/xtables-legacy-multi"
	if _, err := os.Stat(multi); err != nil {
		lacking(t, "no legacy iptables: "+err.Error())
	}
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			if err := os.Symlink(multi, filepath.Join(dir, name+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// TestKernelPackets sends the packets of the table for real: the server says which source address it saw. Its answer has to arrive too,
// so the table also shows that the way back works.
func TestKernelPackets(t *testing.T) {
	for _, b := range []string{"nftables", "iptables", "iptables-legacy"} {
		t.Run(b, func(t *testing.T) {
			l := newLab(t)
			backend := masq.NFTables
			if b != "nftables" {
				backend = masq.IPTables
			}
			if b == "iptables-legacy" {
				t.Setenv("PATH", legacyPath(t)+":"+os.Getenv("PATH"))
			}
			requireBackend(t, l.node, backend)
			r := masq.New(&masq.Netfilter{Netns: netns.Path(l.node)}, masq.Options{Backend: backend})
			for host, addrs := range map[string][2]string{
				"pod": {podV4, podV6}, "remote": {remoteV4, remoteV6}, "outside": {outsideV4, outsideV6}, "excepted": {exceptedV4, exceptedV6},
			} {
				l.serve(t, host, addrs[0])
				l.serve(t, host, addrs[1])
			}
			if _, err := r.Apply(t.Context(), dualStack()); err != nil {
				t.Fatal(err)
			}
			for _, p := range packets {
				for i := range p.src {
					t.Run(fmt.Sprintf("%s/v%d", p.name, 4+2*i), func(t *testing.T) { l.check(t, p.from, p.to, p.src[i], p.dst[i], p.mark, p.want) })
				}
			}
		})
	}
}

func (l lab) check(t *testing.T, from, to, src, dst string, mark int, want masq.Verdict) {
	networks := []string{"udp", "tcp"}
	if netip.MustParseAddr(dst).IsMulticast() {
		networks = []string{"group"}
	}
	for _, network := range networks {
		var have string
		var err error
		if network == "group" {
			have, err = l.groupSeenBy(from, to, src, dst)
		} else {
			have, err = l.seenBy(network, from, src, dst, mark)
		}
		if err != nil {
			t.Errorf("%s %s > %s: %v", network, src, dst, err)
			continue
		}
		if (have != src) != (want == masq.Masquerade) {
			t.Errorf("%s %s > %s: seen as %s, want %s", network, src, dst, have, want)
		}
		node := map[string][2]string{"outside": {uplinkV4, uplinkV6}, "remote": {tunnelV4, tunnelV6}}[to]
		if want == masq.Masquerade && have != node[0] && have != node[1] {
			t.Errorf("%s %s > %s: seen as %s, want the node, one of %v", network, src, dst, have, node)
		}
	}
}

// TestKernelNoGap replaces the rules over and over while a pod opens connections: each of them is translated.
func TestKernelNoGap(t *testing.T) {
	for _, b := range []masq.Backend{masq.NFTables, masq.IPTables} {
		t.Run(b.String(), func(t *testing.T) {
			l := newLab(t)
			requireBackend(t, l.node, b)
			l.serve(t, "outside", outsideV4)
			r := masq.New(&masq.Netfilter{Netns: netns.Path(l.node)}, masq.Options{Backend: b})
			configs := [2]masq.Config{dualStack(), dualStack()}
			configs[1].NonMasquerade = cidrs("203.0.113.0/24")
			if _, err := r.Apply(t.Context(), configs[0]); err != nil {
				t.Fatal(err)
			}
			stop, stopped := make(chan struct{}), make(chan struct{})
			connections := 0
			go func() {
				defer close(stopped)
				for ; ; connections++ {
					select {
					case <-stop:
						return
					default:
					}
					if seen, err := l.seenBy("udp", "pod", podV4, outsideV4, 0); err != nil || seen != uplinkV4 {
						t.Errorf("connection %d: seen as %q, %v", connections, seen, err)
					}
				}
			}()
			for i := range 20 {
				if _, err := r.Apply(t.Context(), configs[(i+1)%2]); err != nil {
					t.Error(err)
				}
			}
			close(stop)
			<-stopped
			t.Logf("%d connections during 20 replacements", connections)
		})
	}
}

// TestKernelForward: with Docker's policy DROP, pods reach the outside only with Forward.
func TestKernelForward(t *testing.T) {
	l := newLab(t)
	requireBackend(t, l.node, masq.IPTables)
	l.serve(t, "outside", outsideV4)
	l.serve(t, "outside", outsideV6)
	r := masq.New(&masq.Netfilter{Netns: netns.Path(l.node)}, masq.Options{Backend: masq.IPTables})
	config := dualStack()
	config.Forward = true
	for _, tool := range []string{"iptables", "ip6tables"} {
		in(t, l.node, tool+" -P FORWARD DROP")
	}
	if _, err := r.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{podV4, outsideV4}, {podV6, outsideV6}} {
		if have, err := l.seenBy("tcp", "pod", pair[0], pair[1], 0); err != nil {
			t.Errorf("%v: seen as %q: %v", pair, have, err)
		}
	}
}

// TestKernelPortClash: 200 pods use the same source port to the same servers at once. With fully random ports none of the translations
// clash (insert_failed in the connection table), and every answer arrives.
func TestKernelPortClash(t *testing.T) {
	const pods, servers = 200, 10
	l := newLab(t)
	requireBackend(t, l.node, masq.NFTables)
	r := masq.New(&masq.Netfilter{Netns: netns.Path(l.node)}, masq.Options{})
	if _, err := r.Apply(t.Context(), dualStack()); err != nil {
		t.Fatal(err)
	}
	l.serve(t, "outside", outsideV4)
	for i := range servers {
		addr := fmt.Sprintf("192.0.2.%d", 10+i)
		in(t, l.hosts["outside"], "ip addr add "+addr+"/24 dev eth0")
		l.serve(t, "outside", addr)
	}
	for i := range pods {
		in(t, l.hosts["pod"], fmt.Sprintf("ip addr add 10.244.1.%d/24 dev eth0", 10+i))
	}
	if _, err := l.seenBy("udp", "pod", podV4, outsideV4, 0); err != nil { // the neighbours are known after this
		t.Fatal(err)
	}
	before := insertFailed(t, l.node)
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() {
			err := netns.Do(netns.Path(l.hosts["pod"]), func() error { return askAll(fmt.Sprintf("10.244.1.%d", 10+i), servers) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if delta := insertFailed(t, l.node) - before; delta != 0 {
		t.Errorf("insert_failed rose by %d", delta)
	}
}

// askAll asks each server from one socket of port 5353, and waits for all answers, asking again for those that were lost on the way.
func askAll(src string, servers int) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(src), Port: 5353})
	if err != nil {
		return err
	}
	defer conn.Close()
	answered := map[netip.Addr]bool{}
	for range 10 {
		for i := range servers {
			dst := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)})
			if !answered[dst] {
				if _, err := conn.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(dst, echoPort)); err != nil {
					return err
				}
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		for len(answered) < servers {
			_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 64))
			if err != nil {
				break
			}
			answered[from.Addr().Unmap()] = true
		}
		if len(answered) == servers {
			return nil
		}
	}
	return fmt.Errorf("%s: %d of %d servers answered", src, len(answered), servers)
}

// insertFailed returns how often the kernel refused a connection because another one has the same addresses and ports.
func insertFailed(t *testing.T, ns string) int64 {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(in(t, ns, "cat /proc/net/stat/nf_conntrack")), "\n")
	sum, column := int64(0), -1
	for i, name := range strings.Fields(lines[0]) {
		if name == "insert_failed" {
			column = i
		}
	}
	if column < 0 {
		t.Fatalf("no insert_failed in %q", lines[0])
	}
	for _, cpu := range lines[1:] {
		n, err := strconv.ParseInt(strings.Fields(cpu)[column], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
