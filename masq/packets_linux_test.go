package masq_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/masq"
)

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
