package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Servers returns all virtual servers with their real servers, sorted. It asks for IPVS anew: a kernel without it is ErrNoIPVS.
func (c *Conn) Servers(ctx context.Context) ([]Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.probe(); err != nil {
		return nil, err
	}
	var all []Server
	err := c.dump(ctx, cmdGetService, nil, func() { all = all[:0] }, func(body []byte) {
		attributes(body, func(typ uint16, v []byte) {
			if s, ok := decodeServer(v); ok && typ == attrService {
				all = append(all, s)
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("ipvs: list virtual servers: %w", err)
	}
	if err := c.reals(ctx, all); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Server) int { return a.Key.compare(b.Key) })
	for i := range all {
		slices.SortFunc(all[i].Reals, func(a, b Real) int { return a.Addr.Compare(b.Addr) })
	}
	return all, nil
}

// reals fills in the real servers, by one read of a file. Where other network namespaces have virtual servers too, that leaves out some of ours at the border of each page
// (seq_file counts those of all namespaces, Linux 6.1): these are asked for one by one.
func (c *Conn) reals(ctx context.Context, all []Server) error {
	index := make(map[Key]int, len(all))
	marks := map[uint32]int{}
	for i := range all {
		index[all[i].Key] = i
		if all[i].Mark != 0 {
			marks[all[i].Mark]++
		}
	}
	seen := make([]bool, len(all))
	at := func(k Key) (int, bool) {
		i, ok := index[k]
		return i, ok && marks[k.Mark] < 2 // the file does not tell the family of a mark
	}
	err := c.walk(func(k Key) {
		if i, ok := at(k); ok {
			all[i].Reals, seen[i] = all[i].Reals[:0], true
		}
	}, func(k Key, r Real) {
		if i, ok := at(k); ok {
			all[i].Reals, seen[i] = append(all[i].Reals, r), true
		}
	})
	if err != nil {
		return err
	}
	for i := range all {
		if seen[i] {
			continue
		}
		if all[i].Reals, err = c.realsOf(ctx, all[i].Key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Walk calls server for each virtual server and real for each of its real servers, by one read of a file. The key of a mark without real servers has the family IPv4.
func (c *Conn) Walk(ctx context.Context, server func(Key), real func(Key, Real)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.walk(server, real)
}

func (c *Conn) walk(server func(Key), real func(Key, Real)) error {
	var f *os.File
	err := c.within(func() (err error) {
		f, err = os.Open("/proc/thread-self/net/ip_vs") // it stays that of the namespace
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNoIPVS, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return parseProc(f, server, real)
}

// Reals returns the real servers of one virtual server, sorted. A missing one is fs.ErrNotExist.
func (c *Conn) Reals(ctx context.Context, k Key) ([]Real, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.family == 0 {
		if err := c.probe(); err != nil {
			return nil, err
		}
	}
	return c.realsOf(ctx, k)
}

func (c *Conn) realsOf(ctx context.Context, k Key) ([]Real, error) {
	var all []Real
	err := c.dump(ctx, cmdGetDest, func() { c.out.endNest(c.out.key(k)) }, func() { all = all[:0] }, func(body []byte) {
		attributes(body, func(typ uint16, v []byte) {
			if r, ok := decodeReal(k.Family, v); ok && typ == attrDest {
				all = append(all, r)
			}
		})
	})
	if err == nil && len(all) == 0 {
		err = c.exists(k) // the list of nobody is empty too
	}
	if err != nil {
		return nil, fmt.Errorf("ipvs: list real servers of %s: %w", k, err)
	}
	slices.SortFunc(all, func(a, b Real) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

// exists asks for one virtual server.
func (c *Conn) exists(k Key) error {
	c.seq++
	c.out.buf = c.out.buf[:0]
	c.out.begin(c.family, cmdGetService, unix.NLM_F_ACK, c.seq)
	c.out.endNest(c.out.key(k))
	c.out.end()
	return c.ask(func(_ uint32, errno syscall.Errno) error {
		switch errno {
		case 0:
			return nil
		case unix.ESRCH:
			return fmt.Errorf("%w: %w", errno, fs.ErrNotExist)
		}
		return errno
	}, func([]byte) {})
}

// dump asks for a list. One that was interrupted starts over after reset.
func (c *Conn) dump(ctx context.Context, cmd uint8, body, reset func(), data func([]byte)) error {
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.fd < 0 {
			return errClosed
		}
		reset()
		c.seq++
		c.out.buf = c.out.buf[:0]
		c.out.begin(c.family, cmd, unix.NLM_F_DUMP, c.seq)
		if body != nil {
			body()
		}
		c.out.end()
		err := c.ask(func(_ uint32, errno syscall.Errno) error {
			if errno != 0 {
				return errno
			}
			return nil
		}, data)
		if err != unix.EINTR {
			return err
		}
	}
	return fmt.Errorf("it changed during %d reads: %w", dumpTries, unix.EINTR)
}
