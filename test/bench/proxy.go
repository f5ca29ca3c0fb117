package main

import (
	"context"
	"io"
	"net"
	"sync/atomic"

	"github.com/podnet/podnet/internal/netns"
)

// countingProxy passes TCP through and counts.
type countingProxy struct {
	address  string
	received atomic.Int64 // from the API server
	sent     atomic.Int64
}

type counter struct {
	io.Reader
	n *atomic.Int64
}

func (c counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// startProxy listens on the loopback of a namespace. TLS goes through it untouched, so that what is counted is what is on the wire.
func startProxy(ctx context.Context, host, target string) (*countingProxy, error) {
	p := &countingProxy{}
	var l net.Listener
	err := netns.Do(host, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	p.address = l.Addr().String()
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			var far net.Conn
			if err := netns.Do(host, func() (err error) {
				far, err = net.Dial("tcp", target)
				return err
			}); err != nil {
				near.Close()
				continue
			}
			context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			pass := func(to, from net.Conn, n *atomic.Int64) {
				_, _ = io.Copy(to, counter{from, n})
				to.Close()
				from.Close()
			}
			go pass(far, near, &p.sent)
			go pass(near, far, &p.received)
		}
	}()
	return p, nil
}
