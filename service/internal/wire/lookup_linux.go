package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/service/servicetest"
)

// How many packets one Lookup sends. Of ten endpoints chosen at random, one is missed once in 70,000 times.
const (
	burst  = 32
	bursts = 4
)

// patience is how long the kernel may take for a burst; only a broken one does.
const patience = 10 * time.Second

func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// Lookup says what becomes of a packet, by sending many like it with other source ports.
func (w *Wire) Lookup(p servicetest.Packet) (servicetest.Verdict, error) {
	runtime.LockOSThread() // the queues of a processor keep their order
	defer runtime.UnlockOSThread()
	back, err := stay()
	if err != nil {
		return servicetest.Verdict{}, err
	}
	defer back()
	if err := w.flush(); err != nil {
		return servicetest.Verdict{}, err
	}
	var all []servicetest.Verdict
	for range bursts {
		fates, err := w.burst(p)
		if err != nil {
			return servicetest.Verdict{}, fmt.Errorf("wire: %w", err)
		}
		if all = append(all, fates...); fates[0].Outcome != servicetest.Forwards {
			break // no chance in it
		}
	}
	return summary(all)
}

// summary joins the fates of packets. Masquerading to the address that a packet has already shows in its port only, and by chance that may stay: one that changed is enough.
func summary(fates []servicetest.Verdict) (servicetest.Verdict, error) {
	v := servicetest.Verdict{Outcome: fates[0].Outcome}
	met := map[netip.AddrPort]servicetest.Target{}
	for _, f := range fates {
		if f.Outcome != v.Outcome {
			return v, fmt.Errorf("wire: one packet was %s, another was %s", fates[0], f)
		}
		for _, t := range f.Targets {
			t.Masquerade = t.Masquerade || met[t.Addr].Masquerade
			met[t.Addr] = t
		}
	}
	v.Targets = slices.Collect(maps.Values(met))
	return v, nil
}

// Agrees reports whether an answer of Lookup is what was wanted. Where there is affinity, one client has met one of the endpoints only. A packet to an endpoint that
// is the node itself is not masqueraded, and need not be.
func Agrees(got, want servicetest.Verdict) bool {
	want.Targets = slices.Clone(want.Targets)
	for i, w := range want.Targets {
		if slices.ContainsFunc(got.Targets, func(g servicetest.Target) bool { return g.Stays && g.Addr == w.Addr }) {
			want.Targets[i].Masquerade = false
		}
	}
	if want.Affinity == 0 || want.Outcome != servicetest.Forwards {
		return got.String() == want.String()
	}
	return got.Outcome == servicetest.Forwards && len(got.Targets) == 1 &&
		slices.ContainsFunc(want.Targets, func(w servicetest.Target) bool {
			return w.Addr == got.Targets[0].Addr && w.Masquerade == got.Targets[0].Masquerade
		})
}

// Asks reports whether a packet of a random world can be asked: one whose endpoint is where it goes anyway cannot be told from one that passes.
func Asks(world servicetest.World, p servicetest.Packet) bool {
	want, _ := world.Lookup(p)
	return !slices.ContainsFunc(want.Targets, func(t servicetest.Target) bool { return t.Addr == netip.AddrPortFrom(p.To, p.Port) })
}

// stay keeps the thread on the processor it is on, and returns how it is let go.
func stay() (back func(), err error) {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, err
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }, nil
}

// burst sends packets and the sentinel behind them, and returns the fate of each packet.
func (w *Wire) burst(p servicetest.Packet) ([]servicetest.Verdict, error) {
	sent := map[uint32]probe{}
	fates := map[uint32]servicetest.Verdict{}
	for range burst {
		w.id++
		if w.port++; w.port < 20000 {
			w.port = 20000
		}
		one := probe{netip.AddrPortFrom(p.From, w.port), netip.AddrPortFrom(p.To, p.Port), p.Protocol, w.id}
		sent[w.id], fates[w.id] = one, servicetest.Verdict{Outcome: servicetest.Drops}
		if err := w.send(one, p.In); err != nil {
			return nil, err
		}
	}
	w.id++
	last := probe{from: netip.AddrPortFrom(p.From, 0), to: nowhere(p.To), protocol: sentinel, id: w.id}
	if err := w.send(last, p.In); err != nil {
		return nil, err
	}
	if err := w.await(last, sent, fates); err != nil {
		return nil, err
	}
	var list []servicetest.Verdict
	for id := range sent {
		list = append(list, fates[id])
	}
	return list, nil
}

// nowhere is an address for benchmarks (RFC 2544, RFC 5180): nobody has it, and it leaves through eth0.
func nowhere(like netip.Addr) netip.AddrPort {
	if like.Is4() {
		return netip.MustParseAddrPort("198.18.0.1:0")
	}
	return netip.MustParseAddrPort("[2001:2::1]:0")
}

// send lets a packet in through a device, or sends it from the node.
func (w *Wire) send(p probe, in string) error {
	local := slices.Contains(w.local, p.from.Addr()) || p.from.Addr().IsLoopback()
	packet := p.packet()
	if in == "" && local {
		return w.sendLocal(p, packet)
	}
	if in == "" {
		in = "eth0"
	}
	e, ok := w.ends[in]
	if !ok {
		return fmt.Errorf("the node has no device %q", in)
	}
	frame := slices.Concat(nodeMAC[:], worldMAC[:], []byte{0x08, 0x00})
	if p.to.Addr().Is6() {
		frame[12], frame[13] = 0x86, 0xdd
	}
	return unix.Sendto(e.fd, append(frame, packet...), 0, &unix.SockaddrLinklayer{Ifindex: e.index, Halen: 6})
}

func (w *Wire) sendLocal(p probe, packet []byte) error {
	var err error
	if p.to.Addr().Is4() {
		err = unix.Sendto(w.raw["4"], packet, 0, &unix.SockaddrInet4{Addr: p.to.Addr().As4()})
	} else {
		err = unix.Sendto(w.raw["6"], packet, 0, &unix.SockaddrInet6{Addr: p.to.Addr().As16()})
	}
	if errors.Is(err, unix.EPERM) { // dropped on its way out: a fate as any other
		return nil
	}
	return err
}

// await reads what comes out until the sentinel does.
func (w *Wire) await(last probe, sent map[uint32]probe, fates map[uint32]servicetest.Verdict) error {
	end := time.Now().Add(patience)
	for seen := false; ; {
		for _, e := range w.ends {
			if err := drain(e.fd, func(p probe, unreachable bool) {
				seen = seen || p.protocol == sentinel && p.id == last.id
				leaves(p, unreachable, sent, fates)
			}); err != nil {
				return err
			}
		}
		if seen {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the packet behind a burst never came out")
		}
		fds := []unix.PollFd{{Fd: int32(w.ends["eth0"].fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	if err := drain(w.loopback, func(p probe, unreachable bool) {
		if unreachable {
			leaves(p, unreachable, sent, fates)
		}
	}); err != nil {
		return err
	}
	for _, s := range w.delivered { // last: the node itself answers to what it gets
		if err := s.arrived(sent, fates); err != nil {
			return err
		}
	}
	return nil
}

// leaves judges a packet that comes out of the node.
func leaves(p probe, unreachable bool, sent map[uint32]probe, fates map[uint32]servicetest.Verdict) {
	was, ok := sent[p.id]
	switch {
	case !ok || p.protocol != was.protocol:
		return
	case unreachable:
		fates[p.id] = servicetest.Verdict{Outcome: servicetest.Rejects}
	default:
		fates[p.id] = fate(was, p)
	}
}

// fate compares a packet with what was sent.
func fate(was, is probe) servicetest.Verdict {
	if is.to == was.to {
		return servicetest.Verdict{Outcome: servicetest.Pass}
	}
	return servicetest.Verdict{Outcome: servicetest.Forwards, Targets: []servicetest.Target{{Addr: is.to, Masquerade: is.from != was.from}}}
}

// drain reads all packets that wait at a packet socket.
func drain(fd int, each func(p probe, unreachable bool)) error {
	b := make([]byte, 2048)
	return receive(func() (int, error) {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || ok && ll.Pkttype == unix.PACKET_OUTGOING {
			return n, err // nothing, or what we sent
		}
		if p, unreachable, ok := parse(b[min(14, n):n]); ok {
			each(p, unreachable)
		}
		return n, nil
	})
}

// arrived reads what a socket of the node got.
func (s rawSocket) arrived(sent map[uint32]probe, fates map[uint32]servicetest.Verdict) error {
	b, control := make([]byte, 2048), make([]byte, 256)
	return receive(func() (int, error) {
		n, oobn, _, from, err := unix.Recvmsg(s.fd, b, control, 0)
		if err != nil {
			return n, err
		}
		packet := b[:n]
		if six, ok := from.(*unix.SockaddrInet6); ok {
			packet = s.header(six.Addr, control[:oobn], packet)
		}
		if p, unreachable, ok := parse(packet); ok && !unreachable {
			leaves(p, false, sent, fates)
			for i := range fates[p.id].Targets {
				fates[p.id].Targets[i].Stays, fates[p.id].Targets[i].Masquerade = true, false
			}
		}
		return n, nil
	})
}

// header puts back what parse reads of an IPv6 header: raw sockets of IPv6 give none.
func (s rawSocket) header(from [16]byte, control, body []byte) []byte {
	h := make([]byte, 40, 40+len(body))
	h[0], h[6] = 0x60, s.protocol
	copy(h[8:], from[:])
	messages, _ := unix.ParseSocketControlMessage(control)
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16 {
			copy(h[24:], m.Data[:16])
		}
	}
	return append(h, body...)
}

// receive calls one until there is nothing more.
func receive(one func() (int, error)) error {
	for {
		switch _, err := one(); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}
