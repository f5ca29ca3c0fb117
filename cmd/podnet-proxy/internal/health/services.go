package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podnet/podnet/service"
)

// Services are the servers of healthCheckNodePorts. Make one with NewServices.
type Services struct {
	o    ServicesOptions
	mu   sync.Mutex
	open map[service.Name]*instance
}

// ServicesOptions are the settings of Services.
type ServicesOptions struct {
	Healthy func() bool                                         // is the proxy well? nil: always
	Addrs   func() []netip.Addr                                 // addresses to listen on: nil, or none returned: all
	Failed  func(of service.Name, port uint16, err error)       // told once per failure; nil: nobody
	Listen  func(network, address string) (net.Listener, error) // nil: net.Listen
}

// instance is the server of one Service.
type instance struct {
	name    service.Name
	port    uint16
	local   atomic.Int64
	servers map[netip.Addr]*http.Server // by address; the zero Addr: all
	done    sync.WaitGroup
	failure string // what was told last
}

// NewServices returns Services that serve nothing.
func NewServices(o ServicesOptions) *Services {
	if o.Healthy == nil {
		o.Healthy = func() bool { return true }
	}
	if o.Addrs == nil {
		o.Addrs = func() []netip.Addr { return nil }
	}
	if o.Failed == nil {
		o.Failed = func(service.Name, uint16, error) {}
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	return &Services{o: o, open: map[service.Name]*instance{}}
}

// Set opens, changes or closes the server of a Service: port 0 closes it. local is the number of its ready endpoints on this node.
func (s *Services) Set(name service.Name, port uint16, local int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.open[name]
	if i != nil && i.port != port {
		i.close()
		delete(s.open, name)
		i = nil
	}
	if port == 0 {
		return
	}
	if i == nil {
		i = &instance{name: name, port: port, servers: map[netip.Addr]*http.Server{}}
		s.open[name] = i
		i.local.Store(int64(local))
		s.listen(i)
		return
	}
	i.local.Store(int64(local))
}

// Tick opens what could not be opened, and follows the node's addresses.
func (s *Services) Tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.open {
		s.listen(i)
	}
}

// Run calls Tick every so often until ctx ends, and then closes everything.
func (s *Services) Run(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			s.Close()
			return ctx.Err()
		case <-t.C:
			s.Tick()
		}
	}
}

// Len returns the number of ports that are open.
func (s *Services) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, i := range s.open {
		if len(i.servers) > 0 {
			n++
		}
	}
	return n
}

// Close closes all servers.
func (s *Services) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, i := range s.open {
		i.close()
		delete(s.open, name)
	}
}

// listen makes an instance listen on the addresses of now.
func (s *Services) listen(i *instance) {
	want := s.o.Addrs()
	if len(want) == 0 {
		want = []netip.Addr{{}}
	}
	for a, server := range i.servers {
		if !slices.Contains(want, a) {
			_ = server.Close()
			delete(i.servers, a)
		}
	}
	var faults []error
	for _, a := range want {
		if i.servers[a] != nil {
			continue
		}
		host := ""
		if a.IsValid() {
			host = a.String()
		}
		l, err := s.o.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(i.port))))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		server := &http.Server{Handler: s.handler(i), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		i.servers[a] = server
		i.done.Go(func() { _ = server.Serve(l) }) // ends with Close
	}
	failure := ""
	if err := errors.Join(faults...); err != nil {
		failure = err.Error()
		if failure != i.failure {
			s.o.Failed(i.name, i.port, err)
		}
	}
	i.failure = failure
}

func (i *instance) close() {
	for _, server := range i.servers {
		_ = server.Close()
	}
	i.done.Wait()
}

func (s *Services) handler(i *instance) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, healthy := i.local.Load(), s.o.Healthy()
		header(w)
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
		if n == 0 || !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}",
			i.name.Namespace, i.name.Name, n, healthy)
	})
}
