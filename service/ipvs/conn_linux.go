package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
)

const (
	// chunk is how many messages go with one sendmsg: if all are refused, the answers fit the receive buffer (1 KiB each, as the kernel counts).
	chunk         = 512
	receiveBuffer = 2 << 20
	receiveSize   = 64 << 10
	dumpTries     = 10
)

// Conn is a connection to the IPVS of one network namespace: its socket was opened there and stays there. It may be used by several goroutines.
type Conn struct {
	netns string

	mu     sync.Mutex
	fd     int // -1 when closed
	family uint16
	seq    uint32
	in     []byte
	out    encoder
}

// OpenConn opens a connection to the IPVS of the network namespace at a path; "" is the caller's. It does not ask for IPVS yet: Servers does.
func OpenConn(path string) (*Conn, error) {
	c := &Conn{netns: path, in: make([]byte, receiveSize)}
	err := c.within(func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ipvs: generic netlink socket: %w", err)
	}
	if err := c.configure(); err != nil {
		unix.Close(c.fd)
		return nil, fmt.Errorf("ipvs: generic netlink socket: %w", err)
	}
	return c, nil
}

func (c *Conn) configure() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err != nil {
		return err
	}
	if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	timeout := unix.Timeval{Sec: 10} // only bounds the wait for an answer that was lost: the kernel answers before sendmsg returns
	return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
}

func (c *Conn) within(f func() error) error {
	if c.netns == "" {
		return f()
	}
	return netns.Do(c.netns, f)
}

// Close closes the socket.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

var errClosed = fmt.Errorf("ipvs: connection is closed: %w", fs.ErrClosed)

// probe asks for the family IPVS: the module may have come, gone, or come again with another number.
func (c *Conn) probe() error {
	if c.fd < 0 {
		return errClosed
	}
	c.out.buf = c.out.buf[:0]
	c.seq++
	c.out.begin(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, unix.NLM_F_ACK, c.seq)
	c.out.text(unix.CTRL_ATTR_FAMILY_NAME, "IPVS")
	c.out.end()
	c.family = 0
	err := c.ask(func(_ uint32, errno syscall.Errno) error {
		if errno != 0 {
			return errno
		}
		return nil
	}, func(body []byte) {
		attributes(body, func(typ uint16, v []byte) {
			if typ == unix.CTRL_ATTR_FAMILY_ID {
				c.family = uint16(number(v))
			}
		})
	})
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", ErrNoIPVS, err)
	}
	return err
}

// ask sends what is in the buffer and reads the answers until the acknowledgement, or the end of a dump, of the last message. verdict is called for each message that
// the kernel refused and for the last; its error ends the reading, and is returned. data gets all else.
func (c *Conn) ask(verdict func(seq uint32, errno syscall.Errno) error, data func(body []byte)) error {
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for {
		err := unix.Sendto(c.fd, c.out.buf, 0, to)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return fmt.Errorf("ipvs: send: %w", err)
		}
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.in, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("ipvs: receive: %w", err)
		}
		done, err := c.read(c.in[:n], verdict, data)
		if done || err != nil {
			return err
		}
	}
}

// read takes one datagram apart. What belongs to earlier requests is left out.
func (c *Conn) read(b []byte, verdict func(uint32, syscall.Errno) error, data func([]byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(native.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			break
		}
		typ, flags, seq, body := native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), b[unix.NLMSG_HDRLEN:n]
		b = b[min((n+3)&^3, len(b)):]
		if int32(seq-c.seq) > 0 {
			continue
		}
		switch typ {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			var errno syscall.Errno
			if len(body) >= 4 {
				errno = syscall.Errno(-int32(native.Uint32(body)))
			}
			if err := verdict(seq, errno); err != nil || seq == c.seq {
				return seq == c.seq, err
			}
		default:
			if flags&unix.NLM_F_DUMP_INTR != 0 {
				return false, unix.EINTR
			}
			if seq == c.seq && len(body) >= unix.GENL_HDRLEN {
				data(body[unix.GENL_HDRLEN:])
			}
		}
	}
	return false, nil
}

// Write makes changes in order, many with one system call, and does not stop at a failure. It returns nil if all succeeded, else one element per change, nil for
// those that did. When ctx ends, changes not yet sent fail with its error.
func (c *Conn) Write(ctx context.Context, changes []Change) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	fail := func(i int, err error) {
		if errs == nil {
			errs = make([]error, len(changes))
		}
		errs[i] = err
	}
	if c.fd >= 0 && c.family == 0 && len(changes) > 0 {
		if err := c.probe(); err != nil {
			for i := range changes {
				fail(i, err)
			}
			return errs
		}
	}
	for first := 0; first < len(changes); first += chunk {
		part := changes[first:min(first+chunk, len(changes))]
		err := ctx.Err()
		if err == nil && c.fd < 0 {
			err = errClosed
		}
		if err == nil {
			err = c.write(part, func(i int, err error) { fail(first+i, err) })
		}
		if err != nil {
			for i := range part {
				fail(first+i, err)
			}
		}
	}
	return errs
}

func (c *Conn) write(part []Change, fail func(int, error)) error {
	c.out.buf = c.out.buf[:0]
	start := c.seq + 1
	for i, one := range part {
		var flags uint16
		if i == len(part)-1 {
			flags = unix.NLM_F_ACK // what is refused is answered anyway
		}
		c.seq++
		c.out.change(c.family, one, flags, c.seq)
	}
	return c.ask(func(seq uint32, errno syscall.Errno) error {
		if i := int(seq - start); errno != 0 && i >= 0 && i < len(part) {
			fail(i, &Error{part[i], errno})
		}
		return nil
	}, func([]byte) {})
}

// Release is that of the kernel that runs.
func (c *Conn) Release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// SetTimeouts changes the timeouts.
func (c *Conn) SetTimeouts(ctx context.Context, t Timeouts) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.probe(); err != nil {
		return err
	}
	c.seq++
	c.out.buf = c.out.buf[:0]
	c.out.begin(c.family, cmdSetConfig, unix.NLM_F_ACK, c.seq)
	for i, seconds := range []uint32{t.TCP, t.TCPFin, t.UDP} {
		c.out.u32(attrTimeoutTCP+uint16(i), seconds)
	}
	c.out.end()
	return c.ask(func(_ uint32, errno syscall.Errno) error {
		if errno != 0 {
			return fmt.Errorf("ipvs: set timeouts: %w", errno)
		}
		return nil
	}, func([]byte) {})
}
