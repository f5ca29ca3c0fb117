package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reply is the answer of a pod.
type reply struct {
	pod  string
	seen netip.Addr // the client as the pod saw it
}

func parseReply(line string) (reply, error) {
	pod, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	seen, _, _ := strings.Cut(rest, " ")
	addr, err := netip.ParseAddr(seen)
	if err != nil {
		return reply{}, fmt.Errorf("answer %q: want a pod and an address", line)
	}
	return reply{pod, addr}, nil
}

// requestTimeout is longer than TCP's first retransmissions, after 1 and 3 s: on a busy machine a packet may be lost for reasons of its own.
const requestTimeout = 15 * time.Second

// get sends one HTTP request over a connection of its own.
func get(from string, to netip.AddrPort) (reply, error) {
	c, err := dialWithin(requestTimeout, from, "tcp", to.String())
	if err != nil {
		return reply{}, err
	}
	defer c.Close()
	return exchange(c, "close")
}

// exchange sends a request over a connection that stands.
func exchange(c net.Conn, connection string) (reply, error) {
	_ = c.SetDeadline(time.Now().Add(requestTimeout))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: lab\r\nConnection: "+connection+"\r\n\r\n"); err != nil {
		return reply{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return reply{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return reply{}, fmt.Errorf("HTTP %d: %s", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return parseReply(string(body))
}

// echoOnce sends one datagram and waits for the answer.
func echoOnce(limit time.Duration, from string, to netip.AddrPort) (reply, error) {
	c, err := dialFrom(from, "udp", to.String())
	if err != nil {
		return reply{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write([]byte("hello")); err != nil {
		return reply{}, err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if err != nil {
		return reply{}, err
	}
	return parseReply(string(buf[:n]))
}

// atOnce bounds how long a refusal may take, and silence is how long nothing has to happen for a drop. Refusals would be faster, but Linux sends a neighbour only one ICMPv6 error
// or redirect per second after the first six (net.ipv6.icmp.ratelimit), and its TCP over IPv6 overlooks an error that is back before connect() sleeps, as from a neighbour
// namespace, and takes the one for its second SYN, 1 s later (6.18).
const (
	atOnce  = 2900 * time.Millisecond
	silence = 250 * time.Millisecond
)

// refused returns an error unless a TCP connection and a datagram are refused within limit.
func refused(limit time.Duration, from string, to netip.AddrPort) error {
	return errors.Join(together(
		func() error {
			start := time.Now()
			c, err := dialWithin(limit, from, "tcp", to.String())
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("TCP to %s: %v after %s, want connection refused", to, err, ms(time.Since(start)))
			}
			return nil
		},
		func() error {
			var err error
			for start := time.Now(); time.Since(start) < limit; {
				// What a node itself sends is refused by the system call, before there is a packet.
				if _, err = echoOnce(limit/10, from, to); errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPERM) {
					return nil
				}
			}
			return fmt.Errorf("UDP to %s: %v, want connection refused", to, err)
		},
	)...)
}

// dropped returns an error unless packets vanish: nothing comes back within limit.
func dropped(limit time.Duration, from string, to netip.AddrPort) error {
	silent := func(protocol string, err error) error {
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
			return fmt.Errorf("%s to %s: %v, want no answer", protocol, to, err)
		}
		return nil
	}
	return errors.Join(together(
		func() error {
			c, err := dialWithin(limit, from, "tcp", to.String())
			if err == nil {
				c.Close()
			}
			return silent("TCP", err)
		},
		func() error {
			_, err := echoOnce(limit, from, to)
			return silent("UDP", err)
		},
	)...)
}

// together does several things at the same time and returns their errors.
func together(do ...func() error) []error {
	errs := make([]error, len(do))
	var all sync.WaitGroup
	for i, one := range do {
		all.Go(func() { errs[i] = one() })
	}
	all.Wait()
	return errs
}
