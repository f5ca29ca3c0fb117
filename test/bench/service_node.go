package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
)

const (
	nodeIP     = "192.168.10.1"
	clientCIDR = "10.128.0.0/24"
)

// serviceHost is a node: a namespace in which a proxy runs, one with a client, which is a pod of it, and one in which all endpoints are. Whatever address in endpointRange a connection goes to, it is
// answered there, with that address.
type serviceHost struct {
	host, client, pods string // netns paths
	stop               func()
}

func (b *bench) serviceHost() (*serviceHost, error) {
	var n serviceHost
	for _, path := range []*string{&n.host, &n.client, &n.pods} {
		var err error
		if *path, err = b.netns(); err != nil {
			return nil, err
		}
	}
	client, pods := netns.Name(n.client), netns.Name(n.pods)
	err := errors.Join(
		inNetns(n.host, "link set lo up", "addr add "+nodeIP+"/32 dev lo",
			"link add c0 type veth peer name eth0 netns "+client, "addr add 10.128.0.1/24 dev c0", "link set c0 up",
			"link add p0 type veth peer name eth0 netns "+pods, "addr add 10.128.1.1/24 dev p0", "link set p0 up"),
		inNetns(n.client, "link set lo up", "addr add 10.128.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.128.0.1"),
		inNetns(n.pods, "link set lo up", "addr add 10.128.1.2/24 dev eth0", "link set eth0 up", "route add default via 10.128.1.1",
			"route add local "+endpointRange+" dev lo"),
		inNetns(n.host, "route add "+endpointRange+" via 10.128.1.2"),
		netns.Do(n.host, func() error {
			return errors.Join(sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv4/conf/all/rp_filter", "0"), sysctl("net/ipv4/icmp_ratelimit", "0"))
		}),
		netns.Do(n.client, func() error { return sysctl("net/ipv4/ip_local_port_range", "1024 65000") }),
	)
	if err != nil {
		return nil, err
	}
	n.stop, err = answer(n.pods)
	return &n, err
}

func sysctl(key, value string) error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) }

func inNetns(path string, commands ...string) error {
	return netns.Do(path, func() error {
		for _, argv := range commands {
			if out, err := exec.Command("ip", strings.Fields(argv)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", argv, err, out)
			}
		}
		return nil
	})
}

// answer is the server behind all endpoints: to one byte it answers with the four of the address that it was reached at, and closes. Two threads with plain system calls, so that
// it costs little beside what is measured.
func answer(path string) (stop func(), err error) {
	var listener int
	err = netns.Do(path, func() (err error) {
		if listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1),
			unix.Bind(listener, &unix.SockaddrInet4{Port: targetPort}), unix.Listen(listener, 4096))
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", path, err)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
					continue
				}
				if err != nil {
					return // shut down
				}
				reply(conn)
			}
		})
	}
	return func() {
		_ = unix.Shutdown(listener, unix.SHUT_RDWR)
		wg.Wait()
		_ = unix.Close(listener)
	}, nil
}

func reply(conn int) {
	defer unix.Close(conn)
	var one [1]byte
	if n, err := unix.Read(conn, one[:]); n != 1 || err != nil {
		return
	}
	local, err := unix.Getsockname(conn)
	if v4, ok := local.(*unix.SockaddrInet4); ok && err == nil {
		_, _ = unix.Write(conn, v4.Addr[:])
	}
}

// ask makes one connection to an address, from the namespace of the calling thread, and returns the endpoint that answered and how long the handshake took.
func ask(to netip.Addr, port uint16, patience time.Duration) (endpoint netip.Addr, handshake time.Duration, err error) {
	conn, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return endpoint, 0, err
	}
	defer unix.Close(conn)
	limit := unix.NsecToTimeval(int64(patience))
	// No TIME_WAIT: the client has few addresses.
	err = errors.Join(unix.SetsockoptLinger(conn, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	if err != nil {
		return endpoint, 0, err
	}
	start := time.Now()
	// With a time limit, the kernel does not go on by itself after a signal.
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Connect(conn, &unix.SockaddrInet4{Port: int(port), Addr: to.As4()})
	}
	if err != nil {
		return endpoint, 0, err
	}
	handshake = time.Since(start)
	if _, err := unix.Write(conn, []byte{1}); err != nil {
		return endpoint, 0, err
	}
	var from [4]byte
	n, err := unix.Read(conn, from[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(conn, from[:])
	}
	if n != 4 || err != nil {
		return endpoint, 0, fmt.Errorf("answer of %d bytes: %w", n, err)
	}
	return netip.AddrFrom4(from), handshake, nil
}

// listen makes a listener in a namespace.
func listen(path, address string) (l net.Listener, err error) {
	err = netns.Do(path, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}
