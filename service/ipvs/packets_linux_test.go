package ipvs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// patience is for a guest whose processors are emulated and shared.
const patience = 2 * time.Minute

// lane is a client, a node and servers in three namespaces: 203.0.113.2 - 203.0.113.1, 10.0.2.1 - 10.0.2.11 to 13.
type lane struct {
	client, node, servers *rtnltest.Netns
	kernel                ipvs.Kernel
}

func newLane(t testing.TB) *lane {
	t.Helper()
	vmtest.RequireIPVS(t)
	l := &lane{client: rtnltest.NewNetns(t), node: rtnltest.NewNetns(t), servers: rtnltest.NewNetns(t)}
	script := strings.NewReplacer("CLIENT", l.client.Name(), "NODE", l.node.Name(), "SERVERS", l.servers.Name()).Replace(`
ip link add eth0 netns CLIENT type veth peer name eth0 netns NODE
ip link add eth0 netns SERVERS type veth peer name cni0 netns NODE
ip -n CLIENT addr add 203.0.113.2/24 dev eth0
ip -n NODE addr add 203.0.113.1/24 dev eth0
ip -n NODE addr add 10.0.2.1/24 dev cni0
for i in 11 12 13; do ip -n SERVERS addr add 10.0.2.$i/24 dev eth0; done
for n in CLIENT NODE SERVERS; do ip -n $n link set lo up; ip -n $n link set eth0 up; done
ip -n NODE link set cni0 up
ip -n CLIENT route add default via 203.0.113.1
ip -n SERVERS route add default via 10.0.2.1
ip netns exec NODE sysctl -qw net.ipv4.ip_forward=1
`)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var err error
	if l.kernel, err = ipvs.Open(ipvs.OpenOptions{Netns: l.node.Path()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.kernel.Close() })
	return l
}

// serve echoes lines and datagrams on the servers' port 8080, with the server's address in front.
func (l *lane) serve(t testing.TB) {
	t.Helper()
	for _, addr := range []string{"10.0.2.11", "10.0.2.12", "10.0.2.13"} {
		var tcp net.Listener
		var udp net.PacketConn
		err := l.servers.Do(func() (err error) {
			if tcp, err = net.Listen("tcp", addr+":8080"); err == nil {
				udp, err = net.ListenPacket("udp", addr+":8080")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go func() {
			for c, err := tcp.Accept(); err == nil; c, err = tcp.Accept() {
				go func() {
					defer c.Close()
					for lines := bufio.NewScanner(c); lines.Scan(); {
						fmt.Fprintf(c, "%s %s\n", addr, lines.Text())
					}
				}()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for n, from, err := udp.ReadFrom(b); err == nil; n, from, err = udp.ReadFrom(b) {
				_, _ = udp.WriteTo([]byte(addr+" "+string(b[:n])), from)
			}
		}()
	}
}

// vip is the Service's address.
var vip = netip.MustParseAddrPort("10.96.0.10:80")

func config(backends ...string) service.Config {
	s := service.Slice{Ports: []service.EndpointPort{{Name: "tcp", Protocol: service.TCP, Port: 8080}, {Name: "udp", Protocol: service.UDP, Port: 8080}}}
	for _, a := range backends {
		s.Endpoints = append(s.Endpoints, service.Endpoint{Addr: netip.MustParseAddr(a), Node: "node-0"})
	}
	return service.Config{
		Node: service.Node{Name: "node-0", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}},
		Services: []service.Service{{Name: web, ClusterIPs: []netip.Addr{vip.Addr()}, LoadBalancerIPs: []netip.Addr{netip.MustParseAddr("198.51.100.9")}, Ports: []service.Port{
			{Name: "tcp", Protocol: service.TCP, Port: 80}, {Name: "udp", Protocol: service.UDP, Port: 80},
		}}},
		Endpoints: map[service.Name][]service.Slice{web: {s}},
	}
}

// restart applies with a new dataplane, as a new process does.
func (l *lane) restart(t testing.TB, c service.Config) *ipvs.Dataplane {
	t.Helper()
	d := ipvs.New(l.kernel, ipvs.Options{})
	if _, err := service.New(d, service.Options{}).Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return d
}

func (l *lane) dial(t testing.TB) net.Conn {
	t.Helper()
	var c net.Conn
	if err := l.client.Do(func() (err error) { c, err = net.DialTimeout("tcp", vip.String(), patience); return err }); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil { // it ends with a reset: IPVS keeps that for 10 s, other ends for 2 minutes
		t.Fatal(err)
	}
	return c
}

// ask sends a line and returns who answered.
func ask(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	addr, _, _ := strings.Cut(line, " ")
	return addr, err
}

func must(t testing.TB, c net.Conn) string {
	t.Helper()
	who, err := ask(c)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// TestLiveConnection: a connection survives that its endpoint goes, that the process starts again, and that its Service goes; then the virtual server goes with it.
func TestLiveConnection(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	l.restart(t, config("10.0.2.11"))
	c := l.dial(t)
	must(t, c)
	for _, what := range []string{"another endpoint", "a restart"} {
		l.restart(t, config("10.0.2.12"))
		if who := must(t, c); who != "10.0.2.11" {
			t.Errorf("%s: %s answers", what, who)
		}
		fresh := l.dial(t)
		if who := must(t, fresh); who != "10.0.2.12" {
			t.Errorf("%s: %s answers a new connection", what, who)
		}
		fresh.Close()
	}
	d := l.restart(t, service.Config{Node: config().Node})
	if who := must(t, c); who != "10.0.2.11" {
		t.Errorf("without a Service: %s answers", who)
	}
	if reals, err := l.kernel.IPVS.Reals(t.Context(), ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: vip}); err != nil || len(reals) == 0 || reals[0].Weight != 0 {
		t.Errorf("real servers: %v, %v", reals, err)
	}
	c.Close()
	for end := time.Now().Add(3 * patience); ; time.Sleep(100 * time.Millisecond) {
		if err := d.EndDrain(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := l.kernel.IPVS.Servers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("still there: %+v", all)
		}
	}
	if err := d.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRollingUpdate: no connection fails while endpoints come and go, one process after the other.
func TestRollingUpdate(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	d := l.restart(t, config("10.0.2.11", "10.0.2.12"))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	count := 0
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = l.client.Do(func() error {
				for range 20 {
					c, err := net.DialTimeout("tcp", vip.String(), patience)
					if err != nil {
						return err
					}
					_, err = ask(c)
					c.Close()
					if err != nil {
						return err
					}
					count++
				}
				return nil
			})
		}
		failed <- err
	}()
	sets := [][]string{{"10.0.2.12", "10.0.2.13"}, {"10.0.2.13", "10.0.2.11"}, {"10.0.2.11", "10.0.2.12", "10.0.2.13"}, {"10.0.2.12"}, {"10.0.2.11", "10.0.2.12"}}
	end := time.Now().Add(10 * time.Second)
	for i := 0; time.Now().Before(end); i++ {
		d = l.restart(t, config(sets[i%len(sets)]...))
		select {
		case err := <-failed:
			t.Fatalf("after %d connections: %v", count, err)
		default:
		}
	}
	cancel()
	if err := <-failed; err != nil {
		t.Errorf("after %d connections: %v", count, err)
	}
	t.Logf("%d connections", count)
	if err := d.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestUDPMoves: a UDP client that keeps its port meets another endpoint when its own is gone (kubernetes#76664).
func TestUDPMoves(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	l.restart(t, config("10.0.2.11"))
	var c net.Conn
	if err := l.client.Do(func() (err error) { c, err = net.Dial("udp", vip.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	meet := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if _, err := c.Write([]byte("hello")); err != nil {
				continue // refused: from before
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := c.Read(b); err == nil && strings.HasPrefix(string(b[:n]), want+" ") {
				return
			}
		}
		t.Errorf("%s never answers", want)
	}
	meet("10.0.2.11")
	d := l.restart(t, config("10.0.2.12"))
	meet("10.0.2.12")
	l.restart(t, config())
	l.restart(t, config("10.0.2.13"))
	meet("10.0.2.13")
	if err := d.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStrictARP: with it, the node does not answer for the address of a load balancer, which is on none of its devices: no dummy device is needed.
func TestStrictARP(t *testing.T) {
	for _, strict := range []bool{false, true} {
		l := newLane(t)
		d := ipvs.New(l.kernel, ipvs.Options{StrictARP: strict})
		if _, err := service.New(d, service.Options{}).Apply(t.Context(), config("10.0.2.11")); err != nil {
			t.Fatal(err)
		}
		run(t, l.client, "ip", "route", "add", "198.51.100.9", "dev", "eth0")
		answered := func(addr string) bool {
			var c net.Conn
			if err := l.client.Do(func() (err error) { c, err = net.Dial("udp", addr+":9"); return err }); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conn := l.client.Conn(t)
			for range 300 {
				_, _ = c.Write([]byte("x"))
				neighs, err := conn.Neighs(t.Context(), "eth0")
				if err != nil {
					t.Fatal(err)
				}
				state := run(t, l.client, "ip", "neigh", "show", addr)
				for _, n := range neighs {
					if n.IP == netip.MustParseAddr(addr) && n.MAC != (rtnl.MAC{}) {
						return true
					}
				}
				if strings.Contains(state, "FAILED") {
					return false
				}
				time.Sleep(100 * time.Millisecond)
			}
			return false
		}
		if !answered("203.0.113.1") {
			t.Errorf("strict %v: the node does not answer for itself", strict)
		}
		if got := answered("198.51.100.9"); got == strict {
			t.Errorf("strict %v: it answers for the load balancer: %v", strict, got)
		}
		if err := d.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestKernelLacks: with the modules gone, and no way to load them, the error says what to do.
func TestKernelLacks(t *testing.T) {
	l := newLane(t)
	if !vmtest.InGuest() {
		t.Skip("it unloads modules")
	}
	sh := func(script string) {
		t.Helper()
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	l.restart(t, config("10.0.2.11"))
	if err := ipvs.New(l.kernel, ipvs.Options{}).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	sh("echo /bin/false >/proc/sys/kernel/modprobe; rmmod ip_vs_lblcr ip_vs_ovf 2>/dev/null || true")
	t.Cleanup(func() { sh("echo /sbin/modprobe >/proc/sys/kernel/modprobe; modprobe ip_vs") })
	for _, name := range []string{"lblcr", "ovf"} {
		_, err := service.New(ipvs.New(l.kernel, ipvs.Options{Scheduler: name}), service.Options{}).Apply(t.Context(), config("10.0.2.11"))
		if want := fmt.Sprintf("ip_vs_%s (CONFIG_IP_VS_%s)", name, strings.ToUpper(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without the scheduler: %v; want %s", err, want)
		}
	}
	sh("for m in $(lsmod | sed -n 's/^\\(ip_vs_[^ ]*\\) .*/\\1/p') ip_vs; do rmmod $m; done")
	if _, err := ipvs.New(l.kernel, ipvs.Options{}).Observe(t.Context()); !errors.Is(err, ipvs.ErrNoIPVS) {
		t.Errorf("without the module: %v", err)
	}
	if errs := l.kernel.IPVS.Write(t.Context(), []ipvs.Change{{Verb: ipvs.AddServer, Key: webKey, Settings: ipvs.Settings{Scheduler: "rr"}}}); errs == nil {
		t.Error("without the module a virtual server can be made")
	}
	sh("echo /sbin/modprobe >/proc/sys/kernel/modprobe; modprobe ip_vs")
	d := l.restart(t, config("10.0.2.11")) // it is there again, with another number
	if err := d.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}
