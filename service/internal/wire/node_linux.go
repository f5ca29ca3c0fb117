package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

var (
	nodeMAC  = rtnl.MAC{2, 0, 0, 0, 0, 1}
	worldMAC = rtnl.MAC{2, 0, 0, 0, 0, 2}
	// base is an address that always stays: with the last one of IPv4 a device loses its routes and neighbours.
	base     = netip.MustParsePrefix("169.254.1.2/24")
	gateways = []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}
)

// devices of the node. Everything that leaves it goes out through the first.
var devices = []string{"eth0", "cni0", "cni01"}

// Wire is a node in a network namespace.
type Wire struct {
	node  *rtnltest.Netns
	world *rtnltest.Netns
	conn  *rtnl.Conn
	local []netip.Addr

	ends      map[string]*end // by device: its other end in the world
	conntrack int             // to forget connections
	loopback  int             // what the node's loopback carries
	raw       map[string]int  // from which the node sends: "4", "6"
	delivered []rawSocket     // what the node's own programs would get

	id   uint32
	port uint16
}

// rawSocket gets every packet of a protocol that is delivered to the node.
type rawSocket struct {
	fd       int
	protocol byte
}

// end is the world's end of a device.
type end struct {
	fd, index int
}

// New makes a node with its devices, which can send packets to everywhere and lets them through. It is removed when the test ends.
func New(t testing.TB) *Wire {
	t.Helper()
	w := &Wire{node: rtnltest.NewNetns(t), world: rtnltest.NewNetns(t), ends: map[string]*end{}, raw: map[string]int{}, port: 20000}
	w.conn = w.node.Conn(t)
	world := w.world.Conn(t)
	var plan, other rtnl.Plan
	for _, name := range []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0",
		"net/ipv4/icmp_ratemask=0", "net/ipv6/icmp/ratelimit=0", "net/ipv6/icmp/ratemask=129", "net/ipv6/conf/default/accept_dad=0", "net/ipv4/conf/all/send_redirects=0", "net/ipv4/conf/default/send_redirects=0"} {
		key, value, _ := strings.Cut(name, "=")
		plan = append(plan, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: key, Value: value}})
	}
	other = append(other, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/default/disable_ipv6", Value: "1"}})
	write(t, world, other)
	for _, d := range devices {
		plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: d, Kind: rtnl.KindVeth, MAC: nodeMAC, Up: rtnl.On,
			Veth: rtnl.Veth{Peer: d, PeerNetns: w.world.Path(), PeerMAC: worldMAC}}})
	}
	write(t, w.conn, plan)
	other, plan = nil, nil
	for _, d := range devices {
		other = append(other, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: d, Up: rtnl.On}})
	}
	write(t, world, other)
	plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: base}})
	for i, zero := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		plan = append(plan,
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Neigh{Link: "eth0", IP: gateways[i], MAC: worldMAC, Permanent: true}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: zero, Gateway: gateways[i], Link: "eth0", Onlink: true}})
	}
	write(t, w.conn, plan)
	if err := errors.Join(w.world.Do(w.openWorld), w.node.Do(w.openNode)); err != nil {
		t.Fatalf("wire: %v", err)
	}
	t.Cleanup(w.close)
	return w
}

func write(t testing.TB, c *rtnl.Conn, p rtnl.Plan) {
	t.Helper()
	if err := errors.Join(c.Write(t.Context(), p)...); err != nil {
		t.Fatalf("wire: %v", err)
	}
}

// Netns returns the node's network namespace: the dataplane under test belongs in it.
func (w *Wire) Netns() *rtnltest.Netns { return w.node }

// subject is a dataplane in the node.
type subject struct {
	service.Dataplane
	*Wire
	t testing.TB
}

// Subject joins the node and a dataplane in it, for flowtable.Run and servicetest.RunRandom.
func (w *Wire) Subject(t testing.TB, d service.Dataplane) servicetest.Subject {
	return subject{d, w, t}
}

func (s subject) SetMachine(m servicetest.Machine) {
	s.t.Helper()
	if err := s.Wire.SetMachine(m); err != nil {
		s.t.Fatalf("wire: %v", err)
	}
}

// SetMachine gives the node its addresses.
func (w *Wire) SetMachine(m servicetest.Machine) error {
	var p rtnl.Plan
	change := func(verb rtnl.Verb, a netip.Addr) {
		p = append(p, rtnl.Change{Verb: verb, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(a, a.BitLen()), NoDAD: a.Is6()}})
	}
	for _, a := range m.Local {
		if !slices.Contains(w.local, a) {
			change(rtnl.Add, a)
		}
	}
	for _, a := range w.local {
		if !slices.Contains(m.Local, a) {
			change(rtnl.Delete, a)
		}
	}
	w.local = slices.Clone(m.Local)
	ctx, cancel := deadline()
	defer cancel()
	if err := errors.Join(w.conn.Write(ctx, p)...); err != nil {
		return err
	}
	for _, a := range m.Local {
		if err := w.settle(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until the kernel takes packets for an address: that of IPv6 comes with the device's carrier, which is told from a queue.
func (w *Wire) settle(ctx context.Context, a netip.Addr) error {
	for {
		r, err := w.conn.RouteTo(ctx, a)
		if err == nil && r.Link == "lo" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not become local: its route is %q, error %v", a, r, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// flush forgets the connections: what was decided for one must not be asked again after a change, and the source ports that were translated are in nobody's way.
func (w *Wire) flush() error {
	const message, remove = unix.NLMSG_HDRLEN + 4, unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // with a struct nfgenmsg; IPCTNL_MSG_CT_DELETE
	b := make([]byte, message)
	binary.NativeEndian.PutUint32(b[0:], message)
	binary.NativeEndian.PutUint16(b[4:], remove)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if err := unix.Sendto(w.conntrack, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("flush conntrack: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(w.conntrack, answer, 0)
	if err != nil || n < unix.NLMSG_HDRLEN+4 {
		return fmt.Errorf("flush conntrack: %d bytes, %w", n, err)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
		return fmt.Errorf("flush conntrack: %w", unix.Errno(-code))
	}
	return nil
}

// openWorld opens the other ends of the devices.
func (w *Wire) openWorld() error {
	for _, d := range devices {
		fd, index, err := packetSocket(d)
		if err != nil {
			return err
		}
		w.ends[d] = &end{fd, index}
	}
	return nil
}

// openNode opens the sockets of the node itself.
func (w *Wire) openNode() error {
	var err error
	if w.loopback, _, err = packetSocket("lo"); err != nil {
		return err
	}
	if w.conntrack, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	for family, af := range map[string]int{"4": unix.AF_INET, "6": unix.AF_INET6} {
		fd, err := unix.Socket(af, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("raw socket: %w", err)
		}
		w.raw[family] = fd
		if af == unix.AF_INET6 { // IPPROTO_RAW implies it in IPv4 only
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1); err != nil {
				return fmt.Errorf("IPV6_HDRINCL: %w", err)
			}
		}
		for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
			fd, err := unix.Socket(af, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
			if err != nil {
				return fmt.Errorf("raw socket: %w", err)
			}
			w.delivered = append(w.delivered, rawSocket{fd, byte(protocol)})
			if af == unix.AF_INET6 {
				if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
					return fmt.Errorf("IPV6_RECVPKTINFO: %w", err)
				}
			}
		}
	}
	return nil
}

func packetSocket(device string) (fd, index int, err error) {
	const all = unix.ETH_P_ALL << 8 // in network order
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("packet socket: %w", err)
	}
	req, err := unix.NewIfreq(device)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", device, err)
	}
	index = int(req.Uint32())
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return 0, 0, fmt.Errorf("bind to %s: %w", device, err)
	}
	return fd, index, nil
}

func (w *Wire) close() {
	for _, e := range w.ends {
		_ = unix.Close(e.fd)
	}
	for _, fd := range w.raw {
		_ = unix.Close(fd)
	}
	for _, s := range w.delivered {
		_ = unix.Close(s.fd)
	}
	_ = unix.Close(w.loopback)
	_ = unix.Close(w.conntrack)
}
