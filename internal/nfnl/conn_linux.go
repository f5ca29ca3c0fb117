package nfnl

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
)

// Options are a Conn's. The zero value is the network namespace of the caller.
type Options struct {
	Netns string // path of the network namespace
}

// Conn is a connection to the nf_tables of one network namespace. Its sockets were opened in that namespace and stay there.
type Conn struct {
	o Options

	mu sync.Mutex
	s  *socket // nil when closed

	watch watch
}

var errClosed = fmt.Errorf("nfnl: connection is closed: %w", fs.ErrClosed)

// Open opens a connection. Close it when done. It does not ask for nf_tables yet: see Probe.
func Open(o Options) (*Conn, error) {
	c := &Conn{o: o}
	err := c.in(func() (err error) {
		c.s, err = openSocket()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("nfnl: %w", err)
	}
	return c, nil
}

// Close closes the socket. A Watch goes on until its context ends.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return nil
	}
	s := c.s
	c.s = nil
	return s.close()
}

// in runs f in the namespace.
func (c *Conn) in(f func() error) error {
	if c.o.Netns == "" {
		return f()
	}
	return netns.Do(c.o.Netns, f)
}

// Genid returns the number of transactions that were committed in the namespace, whoever made them, as a number that wraps around.
func (c *Conn) Genid(ctx context.Context) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return 0, errClosed
	}
	return c.s.genid()
}

func (s *socket) genid() (uint32, error) {
	var e encoder
	e.begin(unix.NFT_MSG_GETGEN, 0, 0)
	e.end()
	var id uint32
	k, err := s.ask(e.buf, func(m message) { id = be32(attr(m.body, unix.NFTA_GEN_ID)) })
	if err == nil && k.errno != 0 {
		err = k.errno
	}
	return id, err
}

// ask sends a question that is no dump and calls f for the answer.
func (s *socket) ask(question []byte, f func(message)) (nack, error) {
	s.drain()
	if err := s.send(question); err != nil {
		return nack{}, err
	}
	for {
		in, err := s.receive()
		if err != nil || in == nil {
			return nack{}, err
		}
		for m := range messages(in) {
			if m.typ == unix.NLMSG_ERROR {
				return decodeNack(m), nil
			}
			f(m)
			return nack{}, nil
		}
	}
}

// Commit makes all changes of the transaction or none. The kernel's refusal is a Refused; what it cannot take at once is ErrTooLarge. An empty transaction does nothing.
func (c *Conn) Commit(ctx context.Context, t *Transaction) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.err != nil {
		return t.err
	}
	if t.changes == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return errClosed
	}
	leave, err := c.watch.leave()
	if err != nil {
		return err
	}
	id, err := c.s.exchange(t, true)
	t.committed = id
	if back := leave(id); back != nil && err == nil {
		err = back
	}
	return err
}

// Try has the kernel check a transaction, and forget it: the message that ends a batch is left out. What is only checked at commit (loops of chains) is not checked.
func (c *Conn) Try(ctx context.Context, t *Transaction) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.err != nil || t.changes == 0 {
		return t.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return errClosed
	}
	_, err := c.s.exchange(t, false)
	return err
}

// exchange sends a transaction, and the end that makes it count. It returns the number (genid) of the commit, 0 if there was nothing to commit because all was so already.
func (s *socket) exchange(t *Transaction, end bool) (id uint32, err error) {
	buffers, n := t.finish()
	buffers = append([][]byte{batch(unix.NFNL_MSG_BATCH_BEGIN, 0, 0), echo(buffers[0])}, buffers...)
	if end {
		buffers = append(buffers, batch(unix.NFNL_MSG_BATCH_END, 0, uint32(n)+1))
	}
	s.drain()
	if err := s.send(buffers...); err != nil {
		if err == unix.EMSGSIZE {
			return 0, fmt.Errorf("nftables: %d changes, %d bytes: %w", t.changes, t.Size(), ErrTooLarge)
		}
		return 0, fmt.Errorf("nftables: send %d changes: %w", t.changes, err)
	}
	return s.verdict(t, n)
}

// echo has the kernel tell us the number of the commit. nf_tables_gen_notify (6.1, 6.18) looks for NLM_F_ECHO in the first message after the batch's beginning, and what that
// message is about is echoed too. Elements are many: before them goes an addition of their table, which stays as it is if it is there; if not, the elements fail, and all with them.
func echo(first []byte) []byte {
	if kind := native.Uint16(first[4:]) & 0xff; kind != unix.NFT_MSG_NEWSETELEM && kind != unix.NFT_MSG_DELSETELEM {
		native.PutUint16(first[6:], native.Uint16(first[6:])|unix.NLM_F_ECHO)
		return nil
	}
	n := headerLen + genLen
	n += (int(native.Uint16(first[n:])) + 3) &^ 3 // the first attribute of every message is the table's name
	m := slices.Clone(first[:n])
	native.PutUint32(m, uint32(n))
	native.PutUint16(m[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE)
	native.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ECHO)
	native.PutUint32(m[8:], 0) // as the batch
	return m
}

// verdict reads the answers to a transaction of n messages: one for each that was refused and one for the last. The batch's own number, 0, stands for the transaction as a whole.
func (s *socket) verdict(t *Transaction, n int) (id uint32, err error) {
	var refused Refused
	acknowledged := false
	for {
		in, err := s.receive()
		if err == unix.ENOBUFS { // answers are missing, but there were too many of them for a success
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("nftables: read the answer to a transaction: %w", err)
		}
		if in == nil {
			break
		}
		for m := range messages(in) {
			if m.kind() == unix.NFT_MSG_NEWGEN { // the echo of the batch's beginning
				id = be32(attr(m.body, unix.NFTA_GEN_ID))
			}
			if m.typ != unix.NLMSG_ERROR {
				continue
			}
			k := decodeNack(m)
			if k.errno != 0 {
				refused = append(refused, t.refusal(int(m.seq), k))
			}
			acknowledged = acknowledged || m.seq == uint32(n)
		}
	}
	switch {
	case len(refused) > 0:
		return 0, refused
	case !acknowledged:
		return 0, fmt.Errorf("nftables: no answer to a transaction of %d changes: %w", t.changes, unix.ENOBUFS)
	}
	return id, nil
}
