package masq_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl/rtnltest"
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
			port := nextPort()
			dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(src), Port: port}
			if network == "tcp" {
				dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(src), Port: port}
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

var lastPort atomic.Int32

// nextPort returns a source port that has not been used for long: a connection like an earlier one would have that one's translation (conntrack), or none.
func nextPort() int { return 20000 + int(lastPort.Add(1))%40000 }

// marker sets the packet mark of a socket.
func marker(mark int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlled := raw.Control(func(fd uintptr) {
			if mark != 0 {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
			}
		})
		return errors.Join(controlled, err)
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
		rtnltest.Lacking(t, "no legacy iptables: "+err.Error())
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
