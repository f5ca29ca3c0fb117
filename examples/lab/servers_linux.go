package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

// tally counts who did something.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (t *tally) add(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[who]++
}

// counts returns a copy.
func (t *tally) counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := map[string]int{}
	for who, n := range t.n {
		counts[who] = n
	}
	return counts
}

// podServer is what runs in a pod that is an endpoint: an HTTP server, and one that sends datagrams back. Both say which pod they are.
type podServer struct {
	http      []*http.Server
	datagrams []net.PacketConn
	serving   sync.WaitGroup
}

// startPod starts a pod's server.
func (l *lab) startPod(p *pod) error {
	s := &podServer{}
	err := netns.Do(p.netns, func() error {
		for _, v6 := range l.families() {
			address := hostPort(p.addr(v6), webPort)
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			s.serveHTTP(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s %s\n", p.name, peer(r.RemoteAddr))
			}))
			datagrams, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			s.datagrams = append(s.datagrams, datagrams)
			if err := largeBuffer(datagrams.(*net.UDPConn)); err != nil {
				return err
			}
			s.serving.Go(func() { sendBack(datagrams, p.name) })
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("serve in %s: %w", p.name, err), s.stop())
	}
	p.server = s
	return nil
}

func (s *podServer) serveHTTP(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.http = append(s.http, server)
	s.serving.Go(func() { _ = server.Serve(listener) }) // ends with ErrServerClosed
}

// stop ends as a well-behaved server does on SIGTERM: it takes nothing new and finishes what it has.
func (s *podServer) stop() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var errs []error
	for _, server := range s.http {
		errs = append(errs, server.Shutdown(ctx))
	}
	for _, c := range s.datagrams {
		c.Close()
	}
	s.serving.Wait()
	return errors.Join(errs...)
}

// sendBack answers every datagram with "pod-a1 10.244.0.2 " before what came.
func sendBack(c net.PacketConn, name string) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		_, _ = c.WriteTo(fmt.Appendf(nil, "%s %s %s", name, peerAddr(from), buf[:n]), from) // a lost answer is the client's finding
	}
}

// peer returns the address of http.Request.RemoteAddr.
func peer(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// balancer is the load balancer in front of the cluster: it takes connections on its port 80 and leads each to the next node's NodePort, as a cloud's does. It hides nothing:
// a connection that fails is not tried elsewhere.
type balancer struct {
	chosen  tally
	mu      sync.Mutex
	next    int
	targets []*node
}

// startBalancer starts it on its machine, for the NodePort of a Service.
func (l *lab) startBalancer(s *labService) error {
	l.front = &balancer{targets: l.nodes}
	return netns.Do(l.balancer.netns, func() error {
		for _, v6 := range l.families() {
			listener, err := net.Listen("tcp", hostPort(l.balancer.addr(v6), 80))
			if err != nil {
				return fmt.Errorf("load balancer: %w", err)
			}
			l.stopServers = append(l.stopServers, func() { listener.Close() })
			go accept(listener, func(c net.Conn) {
				n := l.front.choose()
				to, err := dialFrom(l.balancer.netns, "tcp", s.nodePortOf(n, v6).String())
				if err != nil {
					return // the client sees a closed connection
				}
				defer to.Close()
				splice(c.(*net.TCPConn), to.(*net.TCPConn))
			})
		}
		return nil
	})
}

func (b *balancer) choose() *node {
	b.mu.Lock()
	n := b.targets[b.next%len(b.targets)]
	b.next++
	b.mu.Unlock()
	b.chosen.add(n.name)
	return n
}

// splice copies both ways until both ends have closed.
func splice(a, b *net.TCPConn) {
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}
