package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"

	"github.com/podnet/podnet/internal/netns"
)

// clusterDomain ends the names of Services, as in a cluster.
const clusterDomain = serviceNamespace + ".svc.cluster.local"

// startNames starts the name service in its pods.
func (l *lab) startNames() error {
	names := map[string]*labService{}
	for _, s := range l.services.all() {
		names[s.name+"."+clusterDomain+"."] = s
	}
	for _, p := range l.services.names.members {
		err := netns.Do(p.netns, func() error {
			for _, v6 := range l.families() {
				c, err := net.ListenPacket("udp", hostPort(p.addr(v6), namePort))
				if err != nil {
					return err
				}
				l.stopServers = append(l.stopServers, func() { c.Close() })
				go func() {
					buf := make([]byte, 4096)
					for {
						n, from, err := c.ReadFrom(buf)
						if err != nil {
							return // closed
						}
						if reply := answerDNS(buf[:n], names, l.families()); reply != nil {
							l.resolved.add(p.name)
							_, _ = c.WriteTo(reply, from)
						}
					}
				}()
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("name service in %s: %w", p.name, err)
		}
	}
	return nil
}

// Of DNS (RFC 1035, RFC 3596).
const (
	dnsHeader = 12
	dnsA      = 1
	dnsAAAA   = 28
)

// answerDNS returns the answer to a query for the address of a Service; nil to what is no query.
func answerDNS(query []byte, names map[string]*labService, families []bool) []byte {
	if len(query) < dnsHeader || query[2]&0x80 != 0 || binary.BigEndian.Uint16(query[4:]) != 1 {
		return nil
	}
	var name strings.Builder
	at := dnsHeader
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if query[at] > 63 || end >= len(query) {
			return nil
		}
		name.Write(query[at+1 : end])
		name.WriteByte('.')
		at = end
	}
	if at+5 > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[at+1:])
	reply := append([]byte{}, query[:at+5]...)
	reply[2], reply[3] = 0x84|query[2]&1, 0 // an answer, authoritative; recursion desired is sent back
	for i := 6; i < dnsHeader; i++ {
		reply[i] = 0
	}
	s, ok := names[strings.ToLower(name.String())]
	if !ok {
		reply[3] = 3 // no such name
		return reply
	}
	for _, v6 := range families {
		if v6 && kind == dnsAAAA || !v6 && kind == dnsA {
			reply[7] = 1
			data := s.clusterIP(v6).Addr().AsSlice()
			reply = append(reply, 0xc0, dnsHeader, 0, byte(kind), 0, 1, 0, 0, 0, 5, 0, byte(len(data))) // the name of the question, class IN, 5 s
			reply = append(reply, data...)
		}
	}
	return reply
}

// lookup asks the name service, through its ClusterIP, from inside a namespace.
func (l *lab) lookup(ctx context.Context, from, name string, v6 bool) (netip.Addr, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return dialFrom(from, network, l.services.names.clusterIP(v6).String())
	}}
	ctx, cancel := context.WithTimeout(ctx, 2*probeTimeout)
	defer cancel()
	network := "ip4"
	if v6 {
		network = "ip6"
	}
	addrs, err := resolver.LookupNetIP(ctx, network, name+".") // the dot: no search list
	if err != nil {
		return netip.Addr{}, err
	}
	return addrs[0], nil
}

// startIngress starts the reverse proxy in its pod. It finds the Service web as programs in a cluster do, by its name, and connects anew for every request.
func (l *lab) startIngress() error {
	for _, p := range l.services.ingress.members {
		for _, v6 := range l.families() {
			var listener net.Listener
			err := netns.Do(p.netns, func() (err error) {
				listener, err = net.Listen("tcp", hostPort(p.addr(v6), ingressPort))
				return err
			})
			if err != nil {
				return fmt.Errorf("ingress in %s: %w", p.name, err)
			}
			web := &url.URL{Scheme: "http", Host: l.services.web.name + "." + clusterDomain}
			s := &podServer{}
			s.serveHTTP(listener, &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(web); r.SetXForwarded() },
				Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					host, port, err := net.SplitHostPort(address)
					if err != nil {
						return nil, err
					}
					addr, err := l.lookup(ctx, p.netns, host, v6)
					if err != nil {
						return nil, err
					}
					return dialFrom(p.netns, network, net.JoinHostPort(addr.String(), port))
				}},
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
					http.Error(w, "ingress: "+err.Error(), http.StatusBadGateway)
				},
			})
			l.stopServers = append(l.stopServers, func() { _ = s.stop() })
		}
	}
	return nil
}
