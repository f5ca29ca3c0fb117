package rtnltest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

const (
	pingSize   = 84 // an IPv4 ping
	defaultTTL = 64
	maxTunnels = 4 // tunnels in tunnels
)

// Packet is an IP packet to send through the fake kernel's state.
type Packet struct {
	From string     // the network namespace that sends it
	Src  netip.Addr // invalid: chosen as the kernel would
	Dst  netip.Addr // a link-local one needs its device as zone
	Size int        // bytes with the IP header; 0 = 84
	TTL  int        // 0 = 64
	DF   bool       // don't fragment
}

// Hop is a step of a packet.
type Hop struct {
	Netns, Link string
	Tunnels     int    // how many tunnels the packet is in
	Does        string // what happens there
}

// String returns "NETNS LINK: DOES", indented by tunnels.
func (h Hop) String() string {
	return strings.Repeat("  ", h.Tunnels) + h.Netns + " " + h.Link + ": " + h.Does
}

// Trace is the way of a packet, to its end if there was no error.
type Trace struct {
	Hops        []Hop
	Src         netip.Addr // source address
	Netns, Link string     // where it was delivered, and the device by which it came in
	TTL         int        // what was left
}

// String returns one line per hop.
func (t Trace) String() string {
	var b strings.Builder
	for _, h := range t.Hops {
		b.WriteString(h.String() + "\n")
	}
	return b.String()
}

// LostError says where and why a packet was lost.
type LostError struct {
	Netns, Link string
	Reason      string
	MTU         int // if the packet was too big: the largest that passes that hop, else 0
}

func (e *LostError) Error() string {
	return "lost in " + e.place() + ": " + e.Reason
}

func (e *LostError) place() string {
	if e.Link == "" {
		return "netns " + e.Netns
	}
	return "netns " + e.Netns + ", dev " + e.Link
}

// Walk sends a packet through routes, neighbours, bridges, veth pairs, segments and tunnels. If it does not arrive the error is a
// *LostError, and the trace tells how far it came. Packet filters and address translation are not rtnetlink's; Walk knows none.
func (k *Kernel) Walk(p Packet) (Trace, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := &walker{}
	n := k.netns[netnsName(p.From)]
	if n == nil {
		return Trace{}, fmt.Errorf("walk: no netns %q", p.From)
	}
	if p.Size == 0 {
		p.Size = pingSize
	}
	if p.TTL == 0 {
		p.TTL = defaultTTL
	}
	q := &packet{src: p.Src, dst: p.Dst, size: p.Size, ttl: p.TTL, df: p.DF}
	end, err := w.send(n, q, n.devices[p.Dst.Zone()])
	t := Trace{Hops: w.hops, Src: q.src, TTL: q.ttl}
	if err != nil {
		return t, err
	}
	t.Netns, t.Link = end.ns.name, end.Name
	return t, nil
}

// walker follows one packet and those that carry it.
type walker struct {
	hops    []Hop
	tunnels int
}

type packet struct {
	src, dst netip.Addr
	size     int
	ttl      int
	df       bool
}

func (w *walker) hop(d *device, format string, args ...any) {
	w.hops = append(w.hops, Hop{Netns: d.ns.name, Link: d.Name, Tunnels: w.tunnels, Does: fmt.Sprintf(format, args...)})
}

func lost(n *FakeNetns, d *device, format string, args ...any) *LostError {
	e := &LostError{Netns: n.name, Reason: fmt.Sprintf(format, args...)}
	if d != nil {
		e.Link = d.Name
	}
	return e
}

// send sends a packet from a namespace, out of dev only unless that is nil, and returns the device where it was delivered.
func (w *walker) send(n *FakeNetns, p *packet, dev *device) (*device, error) {
	p.dst = p.dst.WithZone("")
	m := n.lookup(p.dst, dev)
	if err := m.lost(n, p.dst); err != nil {
		return nil, err
	}
	switch {
	case !p.src.IsValid():
		if p.src = n.source(p.dst, m); !p.src.IsValid() {
			return nil, lost(n, m.dev, "no source address for %s", p.dst)
		}
	case !n.isLocal(p.src):
		return nil, lost(n, m.dev, "source %s is no address of this netns, or not usable yet", p.src)
	}
	if m.local {
		w.hop(m.dev, "deliver %s > %s", p.src, p.dst)
		return m.dev, nil
	}
	return w.forward(n, p, m, nil)
}

// lost explains a lookup that found no way.
func (m match) lost(n *FakeNetns, dst netip.Addr) error {
	switch {
	case m.errno != 0 && m.route != nil:
		return lost(n, m.dev, "%s", m.route)
	case m.errno != 0:
		return lost(n, nil, "no route to %s", dst)
	case m.broadcast:
		return lost(n, m.dev, "%s is a broadcast address", dst)
	}
	return nil
}

// isLocal reports whether a packet to ip is delivered here.
func (n *FakeNetns) isLocal(ip netip.Addr) bool {
	if ip.Is4() {
		return n.isLocal4(ip)
	}
	return n.hasIPv6(ip)
}

// forward sends a packet on the way that a lookup found; in is where it came from, nil for a packet of our own.
func (w *walker) forward(n *FakeNetns, p *packet, m match, in *device) (*device, error) {
	for {
		gateway := m.route.via()
		if !gateway.IsValid() {
			gateway = p.dst
		}
		if err := p.fit(n, m, in != nil); err != nil {
			return nil, err
		}
		mac, err := w.neighbour(m.dev, gateway)
		if err != nil {
			return nil, err
		}
		w.hop(m.dev, "%s %s > %s via %s lladdr %s", map[bool]string{true: "forward", false: "send"}[in != nil], p.src, p.dst, gateway, mac)
		station, err := w.transmit(m.dev, frame{src: m.dev.MAC, dst: mac, size: min(p.size, m.dev.MTU), df: p.df})
		if err != nil {
			return nil, err
		}
		n, in = station.ns, station
		if n.isLocal(p.dst) {
			if err := p.accepted(in); err != nil {
				return nil, err
			}
			w.hop(in, "deliver %s > %s", p.src, p.dst)
			return in, nil
		}
		if m, err = p.enter(in); err != nil {
			return nil, err
		}
	}
}

// fit checks that the packet fits through the device and the route, in fragments if it may be cut.
func (p *packet) fit(n *FakeNetns, m match, forwarded bool) error {
	mtu := m.dev.MTU
	if m.route.MTU > 0 {
		mtu = min(mtu, m.route.MTU)
	}
	if p.size > mtu && (p.df || forwarded && p.dst.Is6()) {
		e := lost(n, m.dev, "packet of %d bytes is too big for MTU %d", p.size, mtu)
		e.MTU = mtu
		return e
	}
	return nil
}

// accepted checks the source of a packet that came in.
func (p *packet) accepted(in *device) error {
	if p.src.Is6() {
		return nil
	}
	n := in.ns
	if n.isLocal4(p.src) && n.conf(rtnl.IPv4, in.Name, "accept_local") == 0 {
		return lost(n, in, "martian source %s: an address of this netns", p.src)
	}
	strictness := max(n.conf(rtnl.IPv4, "all", "rp_filter"), n.conf(rtnl.IPv4, in.Name, "rp_filter"))
	if strictness == 0 {
		return nil
	}
	back := n.longestMatch(p.src, nil, rtnl.ScopeUniverse)
	if back == nil || back.Type != rtnl.Unicast || strictness == 1 && back.out() != in {
		return lost(n, in, "rp_filter: the way back to %s is not by this device", p.src)
	}
	return nil
}

// enter decides about a packet to someone else and finds the way on.
func (p *packet) enter(in *device) (match, error) {
	n := in.ns
	if err := p.accepted(in); err != nil {
		return match{}, err
	}
	setting, on := "net/ipv4/ip_forward", n.conf(rtnl.IPv4, in.Name, "forwarding")
	if p.dst.Is6() {
		setting, on = "net/ipv6/conf/all/forwarding", n.conf(rtnl.IPv6, "all", "forwarding")
	}
	switch {
	case on == 0:
		return match{}, lost(n, in, "%s is no address of this netns, and forwarding is off (%s)", p.dst, setting)
	case p.dst.IsLinkLocalUnicast() || p.src.Is6() && p.src.IsLinkLocalUnicast():
		return match{}, lost(n, in, "link-local packets are not forwarded")
	case p.ttl <= 1:
		return match{}, lost(n, in, "TTL expired on the way to %s", p.dst)
	}
	p.ttl--
	m := n.lookup(p.dst, nil)
	return m, m.lost(n, p.dst)
}

// neighbour returns the MAC of an address on the link of a device: from the table, or because someone there answers.
func (w *walker) neighbour(d *device, ip netip.Addr) (rtnl.MAC, error) {
	if d.Name == "lo" {
		return rtnl.MAC{}, lost(d.ns, d, "nobody is behind lo")
	}
	if e, ok := d.neighs[ip]; ok && !e.MAC.IsZero() {
		return e.MAC, nil
	}
	search := walker{tunnels: w.tunnels}
	station, drops := search.find(d, frame{src: d.MAC}, func(s *device) bool { return s.answers(ip) })
	if station == nil {
		return rtnl.MAC{}, lost(d.ns, d, "no neighbour entry for %s, and nobody on the link answers%s", ip, drops)
	}
	return station.MAC, nil
}

// answers reports whether a device answers ARP or neighbour solicitation for an address.
func (d *device) answers(ip netip.Addr) bool {
	if ip.Is6() {
		return d.owns(ip)
	}
	n := d.ns
	switch {
	case ip.IsLoopback():
		return false
	case n.isLocal4(ip):
		return !d.raised("arp_ignore") || d.owns(ip)
	case d.raised("proxy_arp") && n.conf(rtnl.IPv4, d.Name, "forwarding") > 0:
		r := n.longestMatch(ip, nil, rtnl.ScopeUniverse)
		return r != nil && r.Type == rtnl.Unicast && r.out() != d
	}
	return false
}
