// Service-controller is somebody's own controller on podnet's library: a virtual address whose connections go to those backends only that answer. The dataplane is nftables;
// the test runs on the fake, without root.
//
//	ip netns exec demo go run ./examples/service-controller 192.168.1.100:80 10.244.1.2:8080 10.244.2.2:8080
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/nft"
)

func main() {
	var addrs []netip.AddrPort
	for _, arg := range os.Args[1:] {
		addr, err := netip.ParseAddrPort(arg)
		check(err)
		addrs = append(addrs, addr)
	}
	if len(addrs) < 2 {
		log.Fatal("usage: service-controller ADDRESS:PORT BACKEND:PORT...")
	}
	kernel, err := nft.Open("")
	check(err)
	defer kernel.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	c := newController(nft.New(kernel, nft.Options{}), addrs[0], addrs[1:], answers)
	for ctx.Err() == nil {
		if err := c.look(ctx); err != nil {
			log.Print(err) // what was there before stays, and is tried again
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// controller leads an address to the backends that are alive.
type controller struct {
	services *service.Reconciler
	vip      service.Name
	backends []netip.AddrPort
	alive    func(context.Context, netip.AddrPort) bool
}

func newController(d service.Dataplane, vip netip.AddrPort, backends []netip.AddrPort, alive func(context.Context, netip.AddrPort) bool) *controller {
	c := &controller{service.New(d, service.Options{}), service.Name{Name: "vip"}, backends, alive}
	c.services.SetService(service.Service{Name: c.vip, ClusterIPs: []netip.Addr{vip.Addr()}, Ports: []service.Port{{Protocol: service.TCP, Port: vip.Port()}}})
	return c
}

// look asks every backend, and leads new connections to those that answer. Open connections stay where they are. It writes nothing if nothing changed.
func (c *controller) look(ctx context.Context) error {
	for _, b := range c.backends {
		c.services.SetSlice(c.vip, b.String(), service.Slice{
			Ports:     []service.EndpointPort{{Protocol: service.TCP, Port: b.Port()}},
			Endpoints: []service.Endpoint{{Addr: b.Addr(), NotReady: !c.alive(ctx, b)}},
		})
	}
	report, err := c.services.Sync(ctx)
	if err != nil {
		return err
	}
	if err := report.Failed[c.vip]; err != nil {
		return fmt.Errorf("%s: %w", c.vip, err)
	}
	return nil
}

// answers reports whether a backend takes a connection.
func answers(ctx context.Context, addr netip.AddrPort) bool {
	d := net.Dialer{Timeout: 500 * time.Millisecond}
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
