package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/podnet/podnet/internal/netns"
	"golang.org/x/sys/unix"
)

const (
	whoamiPort = 7000 // TCP and UDP: answers with the address it saw the client under
	sinkPort   = 7001 // TCP: discards
)

// serve answers on the given addresses inside a namespace until the returned function is called. Each address has
// a socket of its own, so that a datagram's answer comes from the address that was asked.
func serve(path string, addrs ...netip.Addr) (stop func(), err error) {
	var closers []io.Closer
	stop = func() {
		for _, c := range closers {
			c.Close()
		}
	}
	err = netns.Do(path, func() error {
		for _, a := range addrs {
			whoami, err := net.Listen("tcp", hostPort(a, whoamiPort))
			if err != nil {
				return err
			}
			closers = append(closers, whoami)
			sink, err := net.Listen("tcp", hostPort(a, sinkPort))
			if err != nil {
				return err
			}
			closers = append(closers, sink)
			datagrams, err := net.ListenPacket("udp", hostPort(a, whoamiPort))
			if err != nil {
				return err
			}
			closers = append(closers, datagrams)
			if err := largeBuffer(datagrams.(*net.UDPConn)); err != nil {
				return err
			}
			go accept(whoami, func(c net.Conn) { fmt.Fprintln(c, peerAddr(c.RemoteAddr())) })
			go accept(sink, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
			go answer(datagrams)
		}
		return nil
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("serve in %s: %w", netns.Name(path), err)
	}
	return stop, nil
}

// largeBuffer gives a socket room for some seconds of a flow. On a busy machine a process sleeps for longer than the usual buffer lasts, and packets that the network
// delivered would count as lost.
func largeBuffer(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) { optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	return errors.Join(err, optErr)
}

func accept(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

// answer sends every datagram back behind the address that it came from: "10.244.0.2 payload".
func answer(pc net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		// A large datagram is answered with its size, so that only one direction is measured.
		payload := buf[:n]
		if n > 64 {
			payload = []byte(strconv.Itoa(n))
		}
		_, _ = pc.WriteTo(append([]byte(peerAddr(from).String()+" "), payload...), from) // a lost answer is the client's finding
	}
}

func peerAddr(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func hostPort(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
