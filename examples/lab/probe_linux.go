package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"golang.org/x/sys/unix"
)

const probeTimeout = 5 * time.Second

// dialFrom dials from inside a namespace; the connection works from anywhere.
func dialFrom(path, network, address string) (conn net.Conn, err error) {
	return dialWithin(probeTimeout, path, network, address)
}

func dialWithin(limit time.Duration, path, network, address string) (conn net.Conn, err error) {
	err = netns.Do(path, func() error {
		conn, err = net.DialTimeout(network, address, limit)
		return err
	})
	return conn, err
}

// tcpProbe connects and returns the address under which the server saw the client.
func tcpProbe(from string, to netip.Addr) (netip.Addr, error) {
	conn, err := dialFrom(from, "tcp", hostPort(to, whoamiPort))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(strings.TrimSpace(line))
}

// udpProbe sends one datagram and returns the address under which the server saw it.
func udpProbe(from string, to netip.Addr) (netip.Addr, error) {
	conn, err := dialFrom(from, "udp", hostPort(to, whoamiPort))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	if _, err := conn.Write([]byte("hello")); err != nil {
		return netip.Addr{}, err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		return netip.Addr{}, err
	}
	seen, _, _ := strings.Cut(string(buf[:n]), " ")
	return netip.ParseAddr(seen)
}

// icmpProbe sends one echo request (RFC 792, RFC 4443) and waits for its reply.
func icmpProbe(from string, to netip.Addr) error {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := dialFrom(from, network, to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	message := echo(request, uint16(time.Now().UnixNano()))
	if _, err := conn.Write(message); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.(*net.IPConn).ReadFromIP(buf) // unlike Read it takes the IPv4 header off
		if err != nil {
			return err
		}
		if n >= len(message) && buf[0] == reply && bytes.Equal(buf[4:n], message[4:]) {
			return nil
		}
	}
}

// echo builds an echo request. The kernel computes the checksum of ICMPv6 by itself.
func echo(kind byte, id uint16) []byte {
	m := append([]byte{kind, 0, 0, 0, 0, 0, 0, 1}, "podnet lab"...)
	binary.BigEndian.PutUint16(m[4:], id)
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	return m
}

// dfProbe sends a UDP datagram in one IP packet of exactly size bytes that must not be fragmented, and reports whether it arrived whole.
func dfProbe(from string, to netip.Addr, size int) error {
	headers, level, option := 20+8, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if to.Is6() {
		headers, level, option = 40+8, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	conn, err := dialFrom(from, "udp", hostPort(to, whoamiPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	// IP_PMTUDISC_DO and IPV6_PMTUDISC_DO have the same value.
	if err := raw.Control(func(fd uintptr) { optErr = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO) }); err != nil {
		return err
	}
	if optErr != nil {
		return optErr
	}
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	if _, err := conn.Write(make([]byte, size-headers)); err != nil {
		return err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	_, got, _ := strings.Cut(string(buf[:n]), " ")
	if got != strconv.Itoa(size-headers) {
		return fmt.Errorf("%s of %d bytes arrived", got, size-headers)
	}
	return nil
}

// tooBig reports whether err is the refusal of an oversized packet.
func tooBig(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }

// throughput sends over one TCP connection for the given time and returns bits per second.
func throughput(from string, to netip.Addr, length time.Duration) (float64, error) {
	conn, err := dialFrom(from, "tcp", hostPort(to, sinkPort))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	start := time.Now()
	_ = conn.SetDeadline(start.Add(length + probeTimeout))
	buf := make([]byte, 256<<10)
	sent := 0
	for time.Since(start) < length {
		n, err := conn.Write(buf)
		sent += n
		if err != nil {
			return 0, err
		}
	}
	// The receiver's close says that it has read everything.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	if _, err := conn.Read(buf); err == nil {
		return 0, errors.New("the sink answered")
	}
	return float64(sent) * 8 / time.Since(start).Seconds(), nil
}
