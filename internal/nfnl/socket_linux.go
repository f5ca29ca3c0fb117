package nfnl

import (
	"errors"
	"fmt"
	"iter"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	receiveSize = 64 << 10 // the kernel fills up to 32 KiB of it per part of a dump (net/netlink/af_netlink.c, 6.18)
	// receiveBuffer holds the answers to a transaction of which every message is refused: 1,000 of them and more.
	receiveBuffer = 4 << 20
	sendBuffer    = 1 << 20 // grows with the transactions
)

// socket is a NETLINK_NETFILTER socket. nf_tables answers before sendmsg returns, so it never has to wait for an answer.
type socket struct {
	fd  int
	in  []byte
	snd int // the send buffer's size
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netfilter netlink socket (CONFIG_NETFILTER_NETLINK): %w", err)
	}
	s := &socket{fd: fd}
	if err := s.configure(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) configure() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	for _, o := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, o, 1); err != nil {
			return fmt.Errorf("netlink option %d: %w", o, errors.Join(err, errors.ErrUnsupported))
		}
	}
	setBuffer(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	s.growSend(sendBuffer)
	return nil
}

// setBuffer asks for a socket buffer beyond the limit for ordinary users, or else for what they may have.
func setBuffer(fd, force, plain, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
	}
}

// growSend makes room for n bytes in one sendmsg. The kernel doubles the size that it is asked for; that is its own overhead.
func (s *socket) growSend(n int) {
	if n <= s.snd {
		return
	}
	setBuffer(s.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, n)
	if got, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err == nil {
		s.snd = got - 64
	}
}

func (s *socket) close() error { return unix.Close(s.fd) }

// send sends the buffers in one sendmsg.
func (s *socket) send(buffers ...[]byte) error {
	n := 0
	for _, b := range buffers {
		n += len(b)
	}
	s.growSend(n)
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for {
		_, err := unix.SendmsgBuffers(s.fd, buffers, nil, to, 0)
		if err != unix.EINTR {
			return err
		}
	}
}

// receive returns what is there; nil if nothing is.
func (s *socket) receive() ([]byte, error) {
	if s.in == nil {
		s.in = make([]byte, receiveSize)
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.in, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return nil, nil
		case err != nil:
			return nil, err
		case n > len(s.in):
			return nil, fmt.Errorf("message of %d bytes: %w", n, unix.EMSGSIZE)
		default:
			return s.in[:n], nil
		}
	}
}

// drain throws away what an earlier call left.
func (s *socket) drain() {
	for {
		b, err := s.receive()
		if err == nil && b == nil {
			return
		}
		if err != nil && err != unix.ENOBUFS {
			return
		}
	}
}

// message is a received netlink message.
type message struct {
	typ, flags uint16
	seq, port  uint32
	body       []byte // without struct nfgenmsg, if it is one of nf_tables
	family     Family
}

// kind returns the NFT_MSG_ kind, -1 if the message is not one of nf_tables.
func (m message) kind() int {
	if m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return -1
	}
	return int(m.typ & 0xff)
}

// messages walks over the messages in b; a truncated one ends the walk.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= headerLen {
			n := int(native.Uint32(b))
			if n < headerLen || n > len(b) {
				return
			}
			m := message{typ: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:]), port: native.Uint32(b[12:]), body: b[headerLen:n]}
			if m.kind() >= 0 && len(m.body) >= genLen {
				m.family, m.body = Family(m.body[0]), m.body[genLen:]
			}
			if !yield(m) {
				return
			}
			b = b[min(aligned(n), len(b)):]
		}
	}
}

// cut splits the first attribute off. A truncated one ends a walk: ok is false.
func cut(b []byte) (typ uint16, v, rest []byte, ok bool) {
	if len(b) < attrHeaderLen {
		return 0, nil, nil, false
	}
	n := int(native.Uint16(b))
	if n < attrHeaderLen || n > len(b) {
		return 0, nil, nil, false
	}
	return native.Uint16(b[2:]) & attrTypeMask, b[attrHeaderLen:n], b[min(aligned(n), len(b)):], true
}

// attrs walks over attributes; a truncated one ends the walk.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for {
			t, v, rest, ok := cut(b)
			if !ok || !yield(t, v) {
				return
			}
			b = rest
		}
	}
}

// attr returns the first attribute of a type, nil if there is none.
func attr(b []byte, typ uint16) []byte {
	for {
		t, v, rest, ok := cut(b)
		if !ok || t == typ {
			return v
		}
		b = rest
	}
}

// nack is a refusal, or with errno 0 an acknowledgement.
type nack struct {
	errno  syscall.Errno
	detail string
	offset int // of the attribute that the kernel complains about, from the message's start; 0 if it did not say
}

const nlmFAckTLVs = 0x200

func decodeNack(m message) nack {
	var k nack
	if len(m.body) < 4 {
		return k
	}
	k.errno = syscall.Errno(-int32(native.Uint32(m.body)))
	if m.flags&nlmFAckTLVs == 0 || len(m.body) < 4+headerLen {
		return k
	}
	for t, v := range attrs(m.body[4+headerLen:]) { // NETLINK_CAP_ACK: the header of the request only
		switch {
		case t == unix.NLMSGERR_ATTR_MSG:
			k.detail = text(v)
		case t == unix.NLMSGERR_ATTR_OFFS && len(v) == 4:
			k.offset = int(native.Uint32(v))
		}
	}
	return k
}

func text(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}
