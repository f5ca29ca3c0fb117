package rtnl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchBuffer holds some thousand notifications that nobody has read yet. A burst beyond it ends in Event.Overflow.
const watchBuffer = 8 << 20

// Watch calls notify for every notification of the selected groups until ctx ends (then it returns ctx.Err()). If
// notifications are lost it subscribes again and calls notify with Overflow. notify must not block.
func (c *Conn) Watch(ctx context.Context, g Groups, notify func(Event)) error {
	for overflow := false; ; overflow = true {
		err := c.watchOnce(ctx, g, overflow, notify)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// After ENOBUFS the kernel drops what comes until the queue is empty, without saying so again: only a subscription
		// that is made before the reader looks at the kernel anew misses nothing.
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

// watchOnce subscribes and reads until ctx ends or notifications are lost (ENOBUFS).
func (c *Conn) watchOnce(ctx context.Context, g Groups, overflow bool, notify func(Event)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := c.subscribe(g)
	if err != nil {
		return err
	}
	defer file.Close()
	names, err := c.watchedNames(ctx)
	if err != nil {
		return err
	}
	if overflow {
		notify(Event{Overflow: true})
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("rtnl: watch: %w", err)
	}
	in := make([]byte, receiveSize)
	for {
		var got []byte
		var failure error
		err := raw.Read(func(fd uintptr) bool {
			got, failure = receiveFrom(int(fd), in)
			return failure != unix.EAGAIN
		})
		if err = errors.Join(err, failure); err != nil {
			return fmt.Errorf("rtnl: watch: %w", err)
		}
		for m := range messages(got) {
			if e, ok := decodeEvent(m, names); ok && g.want(e) {
				notify(e)
			}
		}
	}
}

func (c *Conn) watchedNames(ctx context.Context) (map[int32]string, error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	return c.read.linkNames(ctx)
}

// subscribe opens a socket that gets the notifications of g and those of devices, which tell their names.
func (c *Conn) subscribe(g Groups) (*os.File, error) {
	var fd int
	err := c.inNetns(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rtnl: watch: %w", err)
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, c.watchBuffer)
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, group := range g.numbers() {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("rtnl: watch: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil // non-blocking: the runtime polls it
}

// numbers returns the multicast groups to join.
func (g Groups) numbers() []int {
	numbers := []int{unix.RTNLGRP_LINK}
	if g.Addrs {
		numbers = append(numbers, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	}
	if g.Routes { // a deleted nexthop object takes IPv4 routes with it that have no notification of their own
		numbers = append(numbers, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP)
	}
	if g.Neighs {
		numbers = append(numbers, unix.RTNLGRP_NEIGH)
	}
	return numbers
}

func (g Groups) want(e Event) bool { return e.Object != "link" || g.Links }

// decodeEvent turns a notification into an Event, and keeps names up to date. It skips the kernel's own routes (table local) and
// cached ones.
func decodeEvent(m message, names map[int32]string) (Event, bool) {
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		h, ok := decodeLinkHeader(m.body)
		if !ok {
			return Event{}, false
		}
		// A port that leaves its bridge is an RTM_DELLINK too, of family AF_BRIDGE: the device lives on.
		gone := m.typ == unix.RTM_DELLINK && h.family == unix.AF_UNSPEC
		if gone {
			delete(names, h.index)
		} else {
			names[h.index] = h.name
		}
		return Event{Object: "link", Deleted: gone, Link: h.name}, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		_, index, ok := decodeAddr(m.body)
		return Event{Object: "addr", Deleted: m.typ == unix.RTM_DELADDR, Link: names[index]}, ok
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		o, ok := decodeRoute(m.body)
		ok = ok && o.writable() && o.Table != unix.RT_TABLE_LOCAL
		return Event{Object: "route", Deleted: m.typ == unix.RTM_DELROUTE, Link: names[o.out], Protocol: o.Protocol}, ok
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		n, index, ok := decodeNexthop(m.body)
		return Event{Object: "nexthop", Deleted: m.typ == unix.RTM_DELNEXTHOP, Link: names[index], Protocol: n.Protocol}, ok
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, ok := decodeNeigh(m.body)
		return Event{Object: "neigh", Deleted: m.typ == unix.RTM_DELNEIGH, Link: names[n.index]}, ok
	}
	return Event{}, false
}
