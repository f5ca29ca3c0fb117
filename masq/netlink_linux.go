package masq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// question is one message to nf_tables.
type question struct {
	kind  uint16
	dump  bool
	attrs []netlink.Attribute
}

// answer is what came back: the messages' attributes, and the kernel's refusal.
type answer struct {
	messages [][]byte
	err      error
}

// socket is a netlink socket for questions. It is a plain one because every pod's start pays for it: package netlink, which polls and peeks,
// needs four times as long. It hardly waits: the kernel has answered before it returns from the question.
type socket struct {
	fd  int
	buf []byte
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	// A kernel that does not answer must not hold up a pod for ever.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	return &socket{fd, make([]byte, 1<<15)}, nil // the kernel makes no larger pieces of a dump
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// ask sends all questions about a family in one system call and reads the answers. Only the last may be a dump.
func (s *socket) ask(f Family, questions ...question) ([]answer, error) {
	var request []byte
	for i, q := range questions {
		m, err := q.encode(f, uint32(i)+1)
		if err != nil {
			return nil, err
		}
		request = append(request, m...)
	}
	for range 10 {
		answers, interrupted, err := s.exchange(request, len(questions))
		if err != nil || !interrupted {
			return answers, err
		}
	}
	return nil, fmt.Errorf("the ruleset changed during 10 reads: %w", unix.EINTR)
}

func (q question) encode(f Family, sequence uint32) ([]byte, error) {
	attrs, err := netlink.MarshalAttributes(q.attrs)
	if err != nil {
		return nil, err
	}
	m := make([]byte, unix.NLMSG_HDRLEN+4, unix.NLMSG_HDRLEN+4+len(attrs))
	m = append(m, attrs...) // their length is a multiple of four
	flags := uint16(unix.NLM_F_REQUEST)
	if q.dump {
		flags |= unix.NLM_F_DUMP
	}
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_NFTABLES<<8|q.kind)
	binary.NativeEndian.PutUint16(m[6:], flags)
	binary.NativeEndian.PutUint32(m[8:], sequence)
	m[unix.NLMSG_HDRLEN] = nfproto(f)
	return m, nil
}

// exchange sends the request and collects answers until the last question has its own. Interrupted means that the ruleset
// changed while it was dumped: part of the rules is no answer.
func (s *socket) exchange(request []byte, questions int) (answers []answer, interrupted bool, err error) {
	if err := unix.Sendto(s.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, false, fmt.Errorf("ask nf_tables: %w", err)
	}
	answers = make([]answer, questions)
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n > len(s.buf) {
			return nil, false, fmt.Errorf("read the answer of nf_tables, %d bytes: %w", n, err)
		}
		parts, err := syscall.ParseNetlinkMessage(s.buf[:n])
		if err != nil {
			return nil, false, fmt.Errorf("parse the answer of nf_tables: %w", err)
		}
		for _, m := range parts {
			i := int(m.Header.Seq) - 1
			if i < 0 || i >= questions {
				continue
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			ended := true
			switch {
			case m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
						answers[i].err = unix.Errno(errno)
					}
				}
			case len(m.Data) >= 4:
				answers[i].messages = append(answers[i].messages, bytes.Clone(m.Data[4:]))
				ended = m.Header.Flags&unix.NLM_F_MULTI == 0
			}
			// Without the privilege the kernel refuses the first question and drops the others.
			if answers[i].err == unix.EPERM || ended && i == questions-1 {
				return answers, interrupted, answers[i].denied()
			}
		}
	}
}

// denied returns the refusal of everything.
func (a answer) denied() error {
	if a.err == unix.EPERM {
		return fmt.Errorf("%w: CAP_NET_ADMIN is needed", a.err)
	}
	return nil
}
