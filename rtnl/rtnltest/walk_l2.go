package rtnltest

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

// frame is an Ethernet frame. The zero destination stands for broadcast.
type frame struct {
	src, dst rtnl.MAC
	size     int // of the IP packet in it
	df       bool
}

// drops says why a frame went no further, in each direction that it tried.
type drops []*LostError

func (d drops) String() string {
	var reasons []string
	for _, e := range d {
		reasons = append(reasons, e.place()+": "+e.Reason)
	}
	if len(reasons) > 3 {
		reasons = append(reasons[:3], "...")
	}
	if len(reasons) == 0 {
		return ""
	}
	return " (" + strings.Join(reasons, "; ") + ")"
}

// transmit sends a frame to the station with its MAC and returns that.
func (w *walker) transmit(d *device, f frame) (*device, error) {
	station, drops := w.find(d, f, func(s *device) bool { return s.hears(f.dst) })
	if station != nil {
		return station, nil
	}
	for _, e := range drops {
		if e.MTU > 0 {
			return nil, e
		}
	}
	if len(drops) == 1 {
		return nil, drops[0]
	}
	return nil, lost(d.ns, d, "nobody on the link has MAC %s%s", f.dst, drops)
}

// hears reports whether frames to a MAC are for the device itself: a bridge also hears those of its ports.
func (d *device) hears(mac rtnl.MAC) bool {
	return d.MAC == mac || slices.ContainsFunc(d.ports, func(p *device) bool { return p.MAC == mac })
}

// find sends a frame out of a device and returns the first station, on the ways that it takes, that accepts it.
func (w *walker) find(d *device, f frame, accept func(*device) bool) (*device, drops) {
	s := search{w: w, f: f, accept: accept}
	return s.out(d), s.drops
}

// search is one frame on its way through a broadcast domain, depth first.
type search struct {
	w      *walker
	f      frame
	accept func(*device) bool
	drops  drops
	seen   []*device // bridges passed: a loop ends the search
}

func (s *search) drop(d *device, format string, args ...any) *device {
	s.drops = append(s.drops, lost(d.ns, d, format, args...))
	return nil
}

// out sends the frame out of a device.
func (s *search) out(d *device) *device {
	switch {
	case !d.up():
		return s.drop(d, "device is down")
	case s.f.size > d.MTU:
		return s.drop(d, "frame of %d bytes dropped: MTU %d", s.f.size, d.MTU)
	case d.Kind == rtnl.KindBridge:
		return s.ports(d, nil)
	case d.Kind == rtnl.KindVXLAN:
		return s.tunnel(d)
	case d.peer != nil:
		return s.in(d.peer)
	}
	if d.segment == nil {
		return s.drop(d, "not plugged in")
	}
	for _, port := range d.segment.ports {
		if port != d && (port.master != nil || s.accept(port)) {
			if found := s.in(port); found != nil {
				return found
			}
		}
	}
	return nil
}

// in takes the frame in at a device.
func (s *search) in(d *device) *device {
	switch {
	case !d.up():
		return s.drop(d, "device is down")
	case s.f.size > d.MTU:
		return s.drop(d, "frame of %d bytes dropped: MTU %d", s.f.size, d.MTU)
	case d.master == nil && s.accept(d):
		return d
	case d.master == nil:
		return nil
	}
	b := d.master
	switch {
	case !b.up():
		return s.drop(b, "bridge is down")
	case s.accept(b):
		return b
	}
	return s.ports(b, d)
}

// ports sends the frame out of the ports of a bridge; not of that where it came in, unless that may hairpin.
func (s *search) ports(b, in *device) *device {
	if slices.Contains(s.seen, b) {
		return s.drop(b, "loop of bridges")
	}
	s.seen = append(s.seen, b)
	for _, p := range b.ports {
		if p == in && p.Hairpin != rtnl.On || !p.up() {
			continue
		}
		mark := len(s.w.hops)
		if in != nil {
			s.w.hop(b, "bridge %s to %s", in.Name, p.Name)
		}
		if found := s.out(p); found != nil {
			return found
		}
		s.w.hops = s.w.hops[:mark]
	}
	return nil
}

// tunnel sends the frame through a vxlan device to the VTEP that the forwarding database names.
func (s *search) tunnel(d *device) *device {
	v := d.VXLAN
	entry, ok := d.fdb[s.f.dst]
	if !ok {
		entry, ok = d.fdb[rtnl.MAC{}] // where everything else goes
	}
	switch {
	case !ok && s.f.dst.IsZero():
		return s.drop(d, "no forwarding entry for broadcast")
	case !ok:
		return s.drop(d, "no forwarding entry for %s", s.f.dst)
	case s.w.tunnels == maxTunnels:
		return s.drop(d, "tunnel in itself")
	}
	mark := len(s.w.hops)
	s.w.hop(d, "vxlan %d to %s", v.VNI, entry.Dst)
	s.w.tunnels++
	outer := &packet{src: v.Local, dst: entry.Dst, size: s.f.size + overhead(v.Local), ttl: defaultTTL, df: s.f.df}
	end, err := s.w.send(d.ns, outer, d.lower)
	s.w.tunnels--
	var found *device
	if err == nil {
		found = s.decapsulate(end.ns, v)
	} else if e, ok := err.(*LostError); ok {
		// The kernel tells the inner sender what passes (skb_tunnel_check_pmtu).
		inner := *e
		if inner.MTU > 0 {
			inner.MTU -= overhead(v.Local)
		}
		s.drops = append(s.drops, &inner)
	}
	if found == nil {
		s.w.hops = s.w.hops[:mark]
	}
	return found
}

// decapsulate takes the frame in at the vxlan device of the namespace where the outer packet arrived.
func (s *search) decapsulate(n *FakeNetns, sender rtnl.VXLAN) *device {
	for _, d := range n.devices {
		v := d.VXLAN
		if d.Kind != rtnl.KindVXLAN || v.VNI != sender.VNI || v.Port != sender.Port || v.Local.Is6() != sender.Local.Is6() || !d.up() {
			continue
		}
		if s.f.src == d.MAC {
			return s.drop(d, "the sender has the same MAC %s", d.MAC)
		}
		found := s.in(d)
		if found == nil && d.master == nil {
			s.drop(d, "frame is for MAC %s, this is %s", s.f.dst, d.MAC)
		}
		return found
	}
	s.drops = append(s.drops, lost(n, nil, "no vxlan device that is up, with VNI %d and port %d", sender.VNI, sender.Port))
	return nil
}

// onLink returns the device of another station on the same link that has an IPv6 address; nil if there is none.
func (d *device) onLink(ip netip.Addr) *device {
	var w walker
	other, _ := w.find(d, frame{src: d.MAC}, func(s *device) bool { return s != d && s.hasFinished(ip) })
	return other
}
