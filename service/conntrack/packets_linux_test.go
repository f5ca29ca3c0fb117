package conntrack_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service/conntrack"
)

// world is a client namespace, joined to a node namespace in which two endpoints listen on addresses of a bridge that nobody else is on, and nftables translate a VIP and a node port.
type world struct {
	t            *testing.T
	client, node *rtnltest.Netns
	v            addresses
}

type addresses struct {
	family            string // for nft
	client, node      string
	vip, vipAddr, any string
	nodePort          string
	endpoints         [2]string
	bits              int
}

var worlds = map[string]addresses{
	"IPv4": {"ip", "198.51.100.1", "198.51.100.2", "10.96.0.10:53", "10.96.0.10", "0.0.0.0:30053", "198.51.100.2:30053", [2]string{"10.244.1.3:5353", "10.244.1.4:5353"}, 24},
	"IPv6": {"ip6", "fd00:51::1", "fd00:51::2", "[fd00:96::10]:53", "fd00:96::10", "[::]:30053", "[fd00:51::2]:30053", [2]string{"[fd00:1::3]:5353", "[fd00:1::4]:5353"}, 64},
}

func newWorld(t *testing.T, v addresses) *world {
	w := &world{t: t, client: rtnltest.NewNetns(t), node: rtnltest.NewNetns(t), v: v}
	w.sh(w.client, "ip link add eth0 type veth peer name eth0 netns "+w.node.Name())
	for _, side := range []struct {
		ns   *rtnltest.Netns
		addr string
	}{{w.client, v.client}, {w.node, v.node}} {
		w.sh(side.ns, fmt.Sprintf("ip addr add %s/%d dev eth0 %s", side.addr, v.bits, nodad(v)))
		w.sh(side.ns, "ip link set eth0 up")
	}
	w.sh(w.client, fmt.Sprintf("ip route add %s dev eth0 via %s", v.vipAddr, v.node))
	// What is not translated leaves, as it does for want of a better route, and a flow is recorded.
	w.sh(w.node, fmt.Sprintf("ip route add default dev eth0 via %s", v.client))
	w.sh(w.node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	w.sh(w.node, "ip link add pods type bridge")
	w.sh(w.node, "ip link set pods up")
	for _, e := range v.endpoints {
		w.sh(w.node, fmt.Sprintf("ip addr add %s/%d dev pods %s", netip.MustParseAddrPort(e).Addr(), v.bits, nodad(v)))
		w.echo(e)
	}
	return w
}

func nodad(v addresses) string {
	if v.family == "ip6" {
		return "nodad"
	}
	return ""
}

func (w *world) sh(ns *rtnltest.Netns, command string) string {
	w.t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		args := strings.Fields(command)
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		w.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// translate makes the node send new flows to the endpoint, or nowhere.
func (w *world) translate(endpoint string) {
	w.t.Helper()
	// One rule that needs conntrack stays, as a dataplane's does: without any, the kernel tracks nothing in this namespace.
	script := fmt.Sprintf("table %s svc {\nchain pre {\ntype nat hook prerouting priority dstnat;\n}\nchain track {\nct state new counter\n}\n}\nflush chain %[1]s svc pre\ntable %[1]s svc {\nchain pre {\n", w.v.family)
	if endpoint != "" {
		script += fmt.Sprintf("%[1]s daddr %[2]s udp dport 53 dnat to %[3]s\n%[1]s daddr %[4]s udp dport 30053 dnat to %[3]s\n", w.v.family, w.v.vipAddr, endpoint, w.v.node)
	}
	script += "}\n}\n"
	err := w.node.Do(func() error {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// echo listens on addr in the node and answers everything with addr.
func (w *world) echo(addr string) {
	w.t.Helper()
	conn := w.listen(w.node, addr)
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(addr), from)
		}
	}()
}

func (w *world) listen(ns *rtnltest.Netns, addr string) net.PacketConn {
	w.t.Helper()
	var conn net.PacketConn
	if err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", addr)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// flow is a client that sends from one port for ever, as a resolver does.
type flow struct {
	w    *world
	conn net.PacketConn
	to   net.Addr
}

func (w *world) flow(to string) *flow {
	return &flow{w, w.listen(w.client, net.JoinHostPort(w.v.client, "0")), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))}
}

// send sends a packet and returns who answered; "" is nobody.
func (f *flow) send(wait time.Duration) string {
	f.w.t.Helper()
	if _, err := f.conn.WriteTo([]byte("who"), f.to); err != nil {
		f.w.t.Fatal(err)
	}
	if err := f.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		f.w.t.Fatal(err)
	}
	b := make([]byte, 64)
	n, _, err := f.conn.ReadFrom(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		f.w.t.Fatal(err)
	}
	return string(b[:n])
}

// answers expects an answer of the endpoint, silent none.
func (f *flow) answers(endpoint string) {
	f.w.t.Helper()
	if have := f.send(5 * time.Second); have != endpoint {
		f.w.t.Errorf("answer of %q, want %q", have, endpoint)
	}
}

func (f *flow) silent() {
	f.w.t.Helper()
	if have := f.send(50 * time.Millisecond); have != "" {
		f.w.t.Errorf("answer of %q, want none", have)
	}
}

func (w *world) clean(want int, fronts ...conntrack.Frontend) {
	w.t.Helper()
	r := conntrack.New(&conntrack.Conn{Netns: w.node.Path()}, conntrack.Options{})
	p, err := r.Apply(w.t.Context(), conntrack.Config{Frontends: fronts})
	if err != nil || p.Stale != want {
		w.t.Errorf("Apply: %v, deleted %d of %d, want %d\n%s", err, p.Stale, p.Seen, want, p)
	}
	if p, err := r.Plan(w.t.Context(), conntrack.Config{Frontends: fronts}); err != nil || !p.Empty() {
		w.t.Errorf("after Apply: %v\n%s", err, p)
	}
}

// TestKernelSixCases: row D2 of the fault catalogue with packets. Each case first proves that without us the flow stays where it was.
func TestKernelSixCases(t *testing.T) {
	for name, v := range worlds {
		t.Run(name, func(t *testing.T) {
			a, b := v.endpoints[0], v.endpoints[1]
			for _, to := range []struct{ name, dst, front string }{{"ClusterIP", v.vip, v.vip}, {"NodePort", v.nodePort, v.any}} {
				t.Run(to.name, func(t *testing.T) { sixCases(t, v, to.dst, to.front, a, b) })
			}
		})
	}
}

func sixCases(t *testing.T, v addresses, dst, addr, a, b string) {
	w := newWorld(t, v)
	w.translate(a)
	f := w.flow(dst)
	f.answers(a)
	w.clean(0, front(addr, a)) // an endpoint that serves: its flow stays
	f.answers(a)

	t.Log("endpoint removed")
	w.translate(b)
	f.answers(a) // the flow clings to it
	other := w.flow(dst)
	other.answers(b)
	w.clean(1, front(addr, b))
	f.answers(b)
	other.answers(b)

	t.Log("last endpoint removed")
	w.translate("")
	f.answers(b)
	w.clean(2, front(addr))
	f.silent()

	t.Log("first endpoint added: the flow was recorded without translation")
	w.translate(a)
	f.silent()
	w.clean(1, front(addr, a))
	f.answers(a)

	t.Log("Service deleted, its address reused by another")
	w.translate("")
	f.answers(a)
	w.translate(b)
	f.answers(a)
	w.clean(1, front(addr, b))
	f.answers(b)

	t.Log("nobody ran while the Service changed: all frontends at once, and another Service's flow stays")
	w.translate(a)
	w.clean(1, front(v.vip, a), front(v.any, a), front("192.0.2.77:53"))
	f.answers(a)
}

// TestKernelServiceCIDRs: a Service that was deleted while nobody ran, and whose frontends nobody knows.
func TestKernelServiceCIDRs(t *testing.T) {
	v := worlds["IPv4"]
	w := newWorld(t, v)
	w.translate(v.endpoints[0])
	f, n := w.flow(v.vip), w.flow(v.nodePort)
	f.answers(v.endpoints[0])
	n.answers(v.endpoints[0])
	p, err := conntrack.New(&conntrack.Conn{Netns: w.node.Path()}, conntrack.Options{}).Apply(t.Context(), conntrack.Config{ServiceCIDRs: prefixes("10.96.0.0/12")})
	if err != nil || p.Stale != 1 {
		t.Errorf("Apply: %v, deleted %d\n%s", err, p.Stale, p)
	}
}

// TestKernelTCPStays: never a flow of another protocol.
func TestKernelTCPStays(t *testing.T) {
	w := newWorld(t, worlds["IPv4"])
	w.translate("")
	w.sh(w.node, "conntrack -I -p tcp -s 198.51.100.1 -d 10.96.0.10 --sport 1000 --dport 53 --state ESTABLISHED --timeout 100")
	w.sh(w.node, "conntrack -I -p sctp -s 198.51.100.1 -d 10.96.0.10 --orig-port-src 1000 --orig-port-dst 53 --orig-vtag 1 --reply-vtag 2 --state ESTABLISHED --timeout 100")
	w.sh(w.node, "conntrack -I -p udp -s 198.51.100.1 -d 10.96.0.10 --sport 1000 --dport 53 --timeout 100")
	w.sh(w.node, "conntrack -I -p udp -s 198.51.100.1 -d 10.96.0.10 --sport 1000 --dport 53 --timeout 100 -w 7")
	w.clean(1, front("10.96.0.10:53"))
	left := w.sh(w.node, "conntrack -L")
	for _, want := range []string{"tcp ", "sctp ", "zone=7"} {
		if !strings.Contains(left, want) {
			t.Errorf("no %s left:\n%s", want, left)
		}
	}
}
