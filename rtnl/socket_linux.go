package rtnl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	receiveSize = 64 << 10 // the kernel fills up to 32 KiB of it per part of a dump (net/netlink/af_netlink.c, 6.18)
	// dumpTries bounds the repetitions of a dump during which the kernel's table changed.
	dumpTries = 30
	// answerTimeout only bounds the wait for an answer that the kernel dropped: it answers before sendmsg returns.
	answerTimeout = 10 * time.Second
)

// reply is what the kernel said about one request: its errno, 0 for success, and its words.
type reply struct {
	errno  syscall.Errno
	detail string
}

// socket is a NETLINK_ROUTE socket. Its methods other than close want mu held.
type socket struct {
	mu      sync.Mutex
	fd      int // -1 after close
	seq     uint32
	answers int    // how many answers to failed messages the receive buffer holds
	in      []byte // made at first use: it is larger than the rest of a Conn
	out     encoder
	sizes   sizes
}

// table names what a dump returns: the objects of a device, or the routes that a filter selects.
type table struct {
	typ    uint16
	family uint8
	filter RouteFilter
}

// sizes remembers how many objects each dump returned last, so that the next begins with room for them: growing step by step, 10,000 routes
// leave four times their size to the garbage collector.
type sizes map[table]int

// room returns a capacity for a dump. It does not trust the past too far: a table that was once large is not paid for ever.
func (s sizes) room(t table) int {
	n := s[t]
	return n + n/16
}

// remember keeps the size of a dump. Devices come and go; there are never many that are dumped again.
func (s *sizes) remember(t table, n int) {
	const most = 32
	if *s == nil || len(*s) >= most {
		*s = sizes{}
	}
	if n < 64 {
		delete(*s, t)
		return
	}
	(*s)[t] = n
}

// openSocket opens a socket in the network namespace of the calling thread.
func openSocket(receiveBuffer int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	s := &socket{fd: fd}
	if err := s.configure(receiveBuffer); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) configure(receiveBuffer int) error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	for _, o := range []struct {
		name   string
		option int
	}{
		{"NETLINK_EXT_ACK", unix.NETLINK_EXT_ACK},
		{"NETLINK_CAP_ACK", unix.NETLINK_CAP_ACK},
		{"NETLINK_GET_STRICT_CHK (linux 4.20)", unix.NETLINK_GET_STRICT_CHK},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, o.option, 1); err != nil {
			return fmt.Errorf("netlink option %s: %w", o.name, errors.Join(err, errors.ErrUnsupported))
		}
	}
	if receiveBuffer > 0 {
		setBuffer(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("netlink receive timeout: %w", err)
	}
	return s.countAnswers()
}

// countAnswers finds out how many answers the receive buffer holds: the kernel drops what does not fit.
func (s *socket) countAnswers() error {
	size, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	s.answers = max(size/answerSize, 1)
	return nil
}

// setBuffer asks for a socket buffer beyond the limit for ordinary users, or else for what they may have.
func setBuffer(fd, force, plain, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size) // clamped by the kernel, never refused
	}
}

func (s *socket) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

func (s *socket) nextSeq() uint32 {
	s.seq++
	return s.seq
}

func (s *socket) send(b []byte) error {
	if s.fd < 0 {
		return errClosed
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// receive returns the next datagram from the kernel. It is valid until the next call.
func (s *socket) receive() ([]byte, error) {
	if s.fd < 0 {
		return nil, errClosed
	}
	if s.in == nil {
		s.in = make([]byte, receiveSize)
	}
	return receiveFrom(s.fd, s.in)
}

func receiveFrom(fd int, in []byte) ([]byte, error) {
	for {
		n, _, flags, from, err := unix.Recvmsg(fd, in, nil, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case flags&unix.MSG_TRUNC != 0:
			return nil, unix.EMSGSIZE
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 { // other processes may send to us as well
			return in[:n], nil
		}
	}
}

// get sends the request that build encodes and calls visit with the answer, if there is one message. It returns the kernel's refusal as a reply.
func (s *socket) get(typ uint16, build func(*encoder), visit func(message)) (reply, error) {
	seq := s.nextSeq()
	s.out.buf = s.out.buf[:0]
	s.out.begin(typ, unix.NLM_F_REQUEST, seq)
	build(&s.out)
	s.out.end()
	if err := s.send(s.out.buf); err != nil {
		return reply{}, err
	}
	for {
		in, err := s.receive()
		if err != nil {
			return reply{}, err
		}
		for m := range messages(in) {
			if m.seq != seq {
				continue
			}
			if m.typ == unix.NLMSG_ERROR {
				return decodeReply(m), nil
			}
			visit(m)
			return reply{}, nil
		}
	}
}

// dump sends the request that build encodes and calls visit with every message of the answer. If the table changed meanwhile it calls
// restart and begins anew, so that what visit collects is never partial.
func (s *socket) dump(ctx context.Context, typ uint16, build func(*encoder), restart func(), visit func(message)) (reply, error) {
	return repeatDump(ctx, func() (reply, bool, error) {
		restart()
		return s.dumpOnce(typ, build, visit)
	})
}

// repeatDump calls once until it is not interrupted.
func repeatDump(ctx context.Context, once func() (r reply, interrupted bool, err error)) (reply, error) {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return reply{}, err
		}
		r, interrupted, err := once()
		if err != nil || !interrupted {
			return r, err
		}
		if try == dumpTries {
			return reply{errno: unix.EINTR, detail: fmt.Sprintf("the table changed during each of %d dumps", dumpTries)}, nil
		}
		if try > dumpTries/3 { // a busy neighbour: leave it some time
			pause(ctx, time.Duration(try)*time.Millisecond)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (s *socket) dumpOnce(typ uint16, build func(*encoder), visit func(message)) (r reply, interrupted bool, err error) {
	seq := s.nextSeq()
	s.out.buf = s.out.buf[:0]
	s.out.begin(typ, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq)
	build(&s.out)
	s.out.end()
	if err := s.send(s.out.buf); err != nil {
		return reply{}, false, err
	}
	for {
		in, err := s.receive()
		if err != nil {
			return reply{}, false, err
		}
		for m := range messages(in) {
			if m.seq != seq {
				continue
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				r = decodeReply(m)
				return r, interrupted || r.errno == unix.EINTR, nil
			}
			visit(m)
		}
	}
}

// decodeReply reads the errno and the kernel's words from an NLMSG_ERROR or NLMSG_DONE.
func decodeReply(m message) reply {
	code := int32(decode32(m.body))
	if code > 0 { // NLMSG_DONE with a count
		code = 0
	}
	r := reply{errno: syscall.Errno(-code)}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 || len(m.body) < 4 {
		return r
	}
	rest := m.body[4:]
	if m.typ == unix.NLMSG_ERROR {
		if len(rest) < headerLen {
			return r
		}
		skip := headerLen
		if m.flags&unix.NLM_F_CAPPED == 0 { // the whole request stands before the attributes
			skip = aligned(int(native.Uint32(rest)))
		}
		if skip < headerLen || skip > len(rest) {
			return r
		}
		rest = rest[skip:]
	}
	for typ, v := range attributes(rest) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			r.detail = decodeText(v)
		}
	}
	return r
}
