package conntrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket for one call.
type socket struct {
	fd  int
	seq uint32
	in  []byte
	out encoder
}

// openSocket opens a socket with a buffer of so many bytes for one datagram.
func openSocket(protocol, buffer int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, fmt.Errorf("open netlink: %w: the kernel has no netfilter netlink: load the module nfnetlink (CONFIG_NETFILTER_NETLINK)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// Headers of refused requests are not needed, and a batch of refusals has to fit into the receive buffer.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// Rtnetlink filters routes only for those who ask strictly (4.20).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return &socket{fd: fd, in: make([]byte, buffer)}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

func (s *socket) send() error {
	for {
		err := unix.Sendto(s.fd, s.out.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// receive returns the next datagram. It is valid until the next call. Only the kernel can send here: the socket has no port that others know,
// and netfilter and route sockets take messages from users with CAP_NET_ADMIN only.
func (s *socket) receive() ([]byte, error) {
	for {
		n, err := unix.Read(s.fd, s.in) // recvfrom allocates the sender's address
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		}
		return s.in[:n], nil
	}
}

// message is one netlink message.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// messages walks over the messages of a datagram.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= headerLen {
			n := int(native.Uint32(b))
			if n < headerLen || n > len(b) {
				return
			}
			if !yield(message{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), b[headerLen:n]}) {
				return
			}
			b = b[min(aligned(n), len(b)):]
		}
	}
}

// errno of an NLMSG_ERROR or NLMSG_DONE; 0 is success.
func (m message) errno() unix.Errno {
	if len(m.body) < 4 {
		return 0
	}
	if code := int32(native.Uint32(m.body)); code < 0 {
		return unix.Errno(-code)
	}
	return 0
}

// refusal is the kernel's answer to a dump, as opposed to an error of the visitor.
type refusal struct {
	what  string
	errno unix.Errno
}

func (r *refusal) Error() string {
	if r.errno == unix.EPERM {
		return fmt.Sprintf("%s: %v: CAP_NET_ADMIN is needed", r.what, r.errno)
	}
	return fmt.Sprintf("%s: %v", r.what, r.errno)
}

func (r *refusal) Unwrap() error { return r.errno }

// dump sends a request and calls visit with every message of the answer. An interrupted dump is done again: what visit does has to bear that.
func (s *socket) dump(ctx context.Context, what string, request func(e *encoder, seq uint32), visit func(message) error) error {
	for try := 1; ; try++ {
		interrupted, errno, err := s.dumpOnce(ctx, request, visit)
		switch {
		case err != nil:
			return err
		case errno != 0 && errno != unix.EINTR:
			return &refusal{what, errno}
		case errno == 0 && !interrupted:
			return nil
		case try == dumpTries:
			return fmt.Errorf("%s: the table changed during each of %d tries: %w", what, dumpTries, unix.EINTR)
		}
		pause(ctx, time.Duration(try)*time.Millisecond)
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

func (s *socket) dumpOnce(ctx context.Context, request func(e *encoder, seq uint32), visit func(message) error) (interrupted bool, errno unix.Errno, err error) {
	s.seq++
	s.out.buf = s.out.buf[:0]
	request(&s.out, s.seq)
	if err := s.send(); err != nil {
		return false, 0, fmt.Errorf("ask the kernel: %w", err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return false, 0, err
		}
		in, err := s.receive()
		if err != nil {
			return false, 0, fmt.Errorf("read the kernel's answer: %w", err)
		}
		for m := range messages(in) {
			if m.seq != s.seq {
				continue
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
				return interrupted, m.errno(), nil
			}
			if err := visit(m); err != nil {
				return interrupted, 0, err
			}
		}
	}
}
