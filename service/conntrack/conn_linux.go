package conntrack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
)

const (
	dumpSize   = 64 << 10 // the kernel fills up to 32 KiB of it per part of a dump (net/netlink/af_netlink.c, 6.18)
	answerSize = 4 << 10
	// answerTimeout only bounds the wait for an answer that the kernel dropped.
	answerTimeout = 10 * time.Second
	dumpTries     = 30
)

// Flows dumps the table. If the kernel does not filter, which takes Linux 5.8, it is done here.
func (c *Conn) Flows(ctx context.Context, f Filter, visit func(*Flow) error) error {
	s, err := c.open(unix.NETLINK_NETFILTER, dumpSize)
	if err != nil {
		return err
	}
	defer s.close()
	err = s.flows(ctx, f, true, visit)
	if refused(err, unix.EOPNOTSUPP, unix.EINVAL) { // 5.8 refuses filters that later versions know
		err = s.flows(ctx, f, false, visit)
	}
	if refused(err, unix.EINVAL) {
		return fmt.Errorf("%w: the kernel has no connection tracking over netlink: load the module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)", err)
	}
	return err
}

// refused reports whether err is the kernel's answer to a dump, with one of the errnos. An error of the visitor is none.
func refused(err error, errnos ...unix.Errno) bool {
	r, ok := err.(*refusal)
	return ok && slices.Contains(errnos, r.errno)
}

func (s *socket) flows(ctx context.Context, f Filter, filtered bool, visit func(*Flow) error) error {
	var flow Flow
	request := func(e *encoder, seq uint32) {
		e.begin(msgGet, unix.NLM_F_DUMP, seq)
		e.netfilter(f.Family)
		if filtered {
			e.filter(f)
		}
		e.end()
	}
	return s.dump(ctx, "dump flows", request, func(m message) error {
		if m.typ != msgNew || len(m.body) < genLen || !flow.decode(m.body[genLen:]) || !f.Match(&flow) {
			return nil
		}
		return visit(&flow)
	})
}

// Delete removes the flows with one system call.
func (c *Conn) Delete(ctx context.Context, flows []Flow) (int, error) {
	if len(flows) == 0 {
		return 0, ctx.Err()
	}
	s, err := c.open(unix.NETLINK_NETFILTER, answerSize)
	if err != nil {
		return 0, err
	}
	defer s.close()
	deleted := 0
	for len(flows) > 0 && err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		n := min(len(flows), 256) // so many refusals fit into the receive buffer
		var some int
		some, err = s.delete(flows[:n])
		deleted += some
		flows = flows[n:]
	}
	return deleted, err
}

func (s *socket) delete(flows []Flow) (int, error) {
	s.out.buf = make([]byte, 0, len(flows)*128) // 124 bytes are one of IPv6
	first := s.seq + 1
	for i := range flows {
		s.seq++
		flags := uint16(0)
		if i == len(flows)-1 {
			flags = unix.NLM_F_ACK // refusals come in any case
		}
		s.out.delete(&flows[i], flags, s.seq)
	}
	if err := s.send(); err != nil {
		return 0, fmt.Errorf("delete flows: %w", err)
	}
	gone := 0
	var errs []error
	for {
		in, err := s.receive()
		if err != nil {
			return 0, fmt.Errorf("delete flows: %w", err)
		}
		for m := range messages(in) {
			i := int(m.seq - first)
			if m.typ != unix.NLMSG_ERROR || i < 0 || i >= len(flows) {
				continue
			}
			switch errno := m.errno(); errno {
			case 0:
			case unix.ENOENT:
				gone++
			default:
				gone++
				errs = append(errs, fmt.Errorf("delete flow %s: %w", flows[i], errno))
			}
			// The kernel refuses the whole without the privilege: the other messages get no answer.
			if m.errno() == unix.EPERM {
				return 0, fmt.Errorf("delete flows: %w: CAP_NET_ADMIN is needed", fs.ErrPermission)
			}
			if i == len(flows)-1 {
				return len(flows) - gone, errors.Join(errs...)
			}
		}
	}
}

// Local reads the routing table "local", which is what nftables' fib and iptables' addrtype go by. Local routes that a daemon of its own routing protocol number set, such as the
// virtual addresses of an IPVS dataplane, are none of the host's addresses.
func (c *Conn) Local(ctx context.Context) ([]netip.Prefix, error) {
	s, err := c.open(unix.NETLINK_ROUTE, dumpSize)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var local []netip.Prefix
	for _, f := range families() {
		request := func(e *encoder, seq uint32) {
			e.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
			e.buf = append(e.buf, addressFamily(f), 0, 0, 0, unix.RT_TABLE_LOCAL, 0, 0, unix.RTN_LOCAL, 0, 0, 0, 0)
			e.end()
		}
		err := s.dump(ctx, "dump local routes", request, func(m message) error {
			if p, ok := decodeLocal(m, f); ok {
				local = append(local, p)
			}
			return nil
		})
		if err != nil && !refused(err, unix.ENOENT, unix.EOPNOTSUPP) { // no address ever, or no IPv6
			return nil, err
		}
	}
	return local, nil
}

// decodeLocal reads a route. Kernels before 4.20 send those of all tables.
func decodeLocal(m message, f Family) (netip.Prefix, bool) {
	const rtmsgLen = 12 // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
	b := m.body
	if m.typ != unix.RTM_NEWROUTE || len(b) < rtmsgLen || b[0] != addressFamily(f) || b[4] != unix.RT_TABLE_LOCAL || b[7] != unix.RTN_LOCAL {
		return netip.Prefix{}, false
	}
	if p := b[5]; p != unix.RTPROT_KERNEL && p != unix.RTPROT_BOOT && p != unix.RTPROT_STATIC {
		return netip.Prefix{}, false
	}
	bits := int(b[1])
	for b = b[rtmsgLen:]; len(b) > 0; {
		typ, v, rest := next(b)
		if typ == 0 {
			break
		}
		if typ == unix.RTA_DST {
			a, ok := netip.AddrFromSlice(v)
			return netip.PrefixFrom(a, bits), ok
		}
		b = rest
	}
	return netip.Prefix{}, false
}

// open opens a socket in the namespace.
func (c *Conn) open(protocol, buffer int) (*socket, error) {
	if c.Netns == "" {
		return openSocket(protocol, buffer)
	}
	var s *socket
	err := netns.Do(c.Netns, func() (err error) {
		s, err = openSocket(protocol, buffer)
		return err
	})
	return s, err
}
