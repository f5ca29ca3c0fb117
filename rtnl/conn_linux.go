package rtnl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

var errClosed = fmt.Errorf("rtnl: connection is closed: %w", fs.ErrClosed)

// writeBuffer is the receive buffer of the socket that writes: it holds the answers when each message of a chunk fails.
const writeBuffer = 1 << 20

// Conn is a connection to the kernel of one network namespace. Its sockets were opened in that namespace and stay there.
type Conn struct {
	ns        netns
	sysctlDir string
	read      *socket
	write     *socket

	chunk, watchBuffer int // bytes per sendmsg; bytes of unread notifications

	mu    sync.Mutex
	ioctl int // AF_INET socket for ethtool, -1 until needed
	done  bool
}

// Open opens a connection. Close it when done.
func Open(o Options) (*Conn, error) {
	ns, err := openNetns(o.Netns)
	if err != nil {
		return nil, fmt.Errorf("rtnl: %w", err)
	}
	c := &Conn{ns: ns, sysctlDir: cmp.Or(o.SysctlDir, "/proc/sys"), chunk: chunkBytes, watchBuffer: watchBuffer, ioctl: -1}
	err = ns.do(func() error {
		if c.read, err = openSocket(0); err != nil {
			return err
		}
		c.write, err = openSocket(writeBuffer)
		return err
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("rtnl: %w", err)
	}
	return c, nil
}

// Close closes the sockets. Calls that run then finish first; later ones fail with an error that matches fs.ErrClosed. A Watch has a
// socket of its own and goes on until its context ends.
func (c *Conn) Close() error {
	errs := c.closeNetns()
	for _, s := range []*socket{c.read, c.write} { // not under mu: Write holds a socket while it waits for mu
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}

func (c *Conn) closeNetns() (errs []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil
	}
	c.done = true
	if c.ioctl >= 0 {
		errs = append(errs, unix.Close(c.ioctl))
	}
	return append(errs, unix.Close(c.ns.fd))
}

// inNetns calls f on a thread in the Conn's namespace, unless the Conn is closed.
func (c *Conn) inNetns(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return errClosed
	}
	return c.ns.do(f)
}

// index returns the index of a device.
func (s *socket) index(name string) (int32, error) {
	var index int32
	r, err := s.get(unix.RTM_GETLINK, func(e *encoder) { encodeGetLink(e, 0, name) }, func(m message) {
		if h, ok := decodeLinkHeader(m.body); ok && h.name == name { // the kernel looks among alternative names too
			index = h.index
		}
	})
	switch {
	case err != nil:
		return 0, err
	case r.errno != 0:
		return 0, &Error{Op: "link get", Object: name, Errno: r.errno, Detail: r.detail, Missing: r.errno == unix.ENODEV}
	case index == 0:
		return 0, &Error{Op: "link get", Object: name, Errno: unix.ENODEV, Missing: true}
	}
	return index, nil
}

// linkName returns the name of a device, "" if there is none with that index.
func (s *socket) linkName(index int32) (string, error) {
	var name string
	_, err := s.get(unix.RTM_GETLINK, func(e *encoder) { encodeGetLink(e, index, "") }, func(m message) {
		if h, ok := decodeLinkHeader(m.body); ok {
			name = h.name
		}
	})
	return name, err
}

// linkNames returns the names of all devices by index.
func (s *socket) linkNames(ctx context.Context) (map[int32]string, error) {
	names := make(map[int32]string)
	r, err := s.dump(ctx, unix.RTM_GETLINK, func(e *encoder) { encodeGetLink(e, 0, "") }, func() { clear(names) }, func(m message) {
		if h, ok := decodeLinkHeader(m.body); ok {
			names[h.index] = h.name
		}
	})
	if err == nil {
		err = r.error("link dump", "")
	}
	return names, err
}

// error turns a refusal of a dump or get into an *Error; nil if there was none.
func (r reply) error(op, object string) error {
	if r.errno == 0 {
		return nil
	}
	return &Error{Op: op, Object: object, Errno: r.errno, Detail: r.detail, Missing: r.errno == syscall.ENODEV}
}
