package nfnl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Event tells of a change by somebody else.
type Event struct {
	Table Table // where; the zero Table: anywhere, because notifications were lost

	// Genid is the number of the last transaction before the subscription, in an event without a Table: who looked after that one has missed nothing.
	Genid uint32
}

// watchBuffer holds some thousand notifications that nobody has read yet.
const watchBuffer = 8 << 20

// watch is the subscription of a Conn. While the Conn itself commits it leaves the group, or else the kernel would build a notification for each element; the number of
// the last transaction that it knows of (genid) tells afterwards whether somebody else committed meanwhile.
type watch struct {
	mu     sync.Mutex
	s      *socket // nil if nobody watches
	ask    *socket // for questions: answers do not mix with notifications
	known  uint32  // the last transaction whose notifications were read, or that was our own
	notify func(Event)
}

// Watch calls notify for changes in the namespace's tables that were not made with this Conn, until ctx ends (then it returns ctx.Err()). What changed before is not
// announced: look after the first call, which comes at once and names no table. notify must not block nor call the Conn. Only one Watch per Conn.
func (c *Conn) Watch(ctx context.Context, notify func(Event)) error {
	var s, ask *socket
	err := c.in(func() (err error) {
		if s, err = openSocket(); err != nil {
			return err
		}
		if ask, err = openSocket(); err != nil {
			s.close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("nfnl: %w", err)
	}
	defer ask.close()
	setBuffer(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, watchBuffer)
	if err := unix.SetNonblock(s.fd, true); err != nil {
		s.close()
		return err
	}
	file := os.NewFile(uintptr(s.fd), "nfnl watch")
	defer file.Close()
	if err := c.watch.start(s, ask, notify); err != nil {
		return err
	}
	defer c.watch.stop()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var failed error
		err := raw.Read(func(uintptr) bool {
			read, err := c.watch.read()
			failed = err
			return read || err != nil
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case failed != nil:
			return fmt.Errorf("receive nftables changes: %w", failed)
		case err != nil:
			return fmt.Errorf("receive nftables changes: %w", err)
		}
	}
}

func (w *watch) start(s, ask *socket, notify func(Event)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.s != nil {
		return errors.New("nfnl: two watches on one connection")
	}
	if err := group(s, unix.NETLINK_ADD_MEMBERSHIP); err != nil {
		return err
	}
	w.s, w.ask, w.notify = s, ask, notify
	return w.lost()
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s, w.ask, w.notify = nil, nil, nil
}

func group(s *socket, option int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, option, unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribe to nftables: %w", err)
	}
	return nil
}

// lost takes the state of now as known and tells that anything may have changed.
func (w *watch) lost() error {
	w.s.drain()
	id, err := w.ask.genid()
	if err != nil {
		return err
	}
	w.known = id
	w.notify(Event{Genid: id})
	return nil
}

// read takes in the notifications that are there. It reports whether there were any.
func (w *watch) read() (any bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drain()
}

// drain is read with the lock held.
func (w *watch) drain() (any bool, err error) {
	if w.s == nil {
		return false, nil
	}
	var last Table
	for {
		in, err := w.s.receive()
		if err == unix.ENOBUFS { // until the queue is empty, the kernel drops what comes
			return true, w.lost()
		}
		if err != nil || in == nil {
			return any, err
		}
		any = true
		for m := range messages(in) {
			switch m.kind() {
			case -1:
			case unix.NFT_MSG_NEWGEN:
				w.known = be32(attr(m.body, unix.NFTA_GEN_ID))
			default:
				t := Table{m.family, text(attr(m.body, unix.NFTA_TABLE_NAME))} // the first attribute of every object is its table
				if t != last {
					w.notify(Event{Table: t})
					last = t
				}
			}
		}
	}
}

// leave leaves the group for a commit. The function that it returns comes back to it, with the commit's number if there was one, and finds out what was missed.
func (w *watch) leave() (back func(id uint32) error, err error) {
	w.mu.Lock()
	if w.s == nil {
		w.mu.Unlock()
		return func(uint32) error { return nil }, nil
	}
	defer func() {
		if err != nil {
			w.mu.Unlock()
		}
	}()
	if err := group(w.s, unix.NETLINK_DROP_MEMBERSHIP); err != nil {
		return nil, err
	}
	if _, err := w.drain(); err != nil {
		return nil, err
	}
	return func(own uint32) error {
		defer w.mu.Unlock()
		if err := group(w.s, unix.NETLINK_ADD_MEMBERSHIP); err != nil {
			return err
		}
		id, err := w.ask.genid()
		if err != nil {
			return err
		}
		if own != 0 && own == next(w.known) {
			w.known = own
		}
		if id != w.known {
			return w.lost()
		}
		return nil
	}, nil
}

// next is the number after n: 0 is left out (nf_tables_commit, 6.18).
func next(n uint32) uint32 {
	if n+1 == 0 {
		return 1
	}
	return n + 1
}
