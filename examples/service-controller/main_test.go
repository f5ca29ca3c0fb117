package main

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

var (
	vip  = netip.MustParseAddrPort("192.168.1.100:80")
	one  = netip.MustParseAddrPort("10.244.1.2:8080")
	two  = netip.MustParseAddrPort("10.244.2.2:8080")
	user = netip.MustParseAddr("203.0.113.10")
)

// TestController sends packets through the state that the controller leaves, without a kernel.
func TestController(t *testing.T) {
	alive := map[netip.AddrPort]bool{}
	kernel := &servicetest.Dataplane{}
	c := newController(kernel, vip, []netip.AddrPort{one, two}, func(_ context.Context, a netip.AddrPort) bool { return alive[a] })
	for _, step := range []struct {
		name   string
		alive  []netip.AddrPort
		writes int
		want   string // what becomes of a connection to the address
	}{
		{"both answer", []netip.AddrPort{one, two}, 1, "10.244.1.2:8080 10.244.2.2:8080"},
		{"nothing changed", []netip.AddrPort{one, two}, 0, "10.244.1.2:8080 10.244.2.2:8080"},
		{"one is silent", []netip.AddrPort{two}, 1, "10.244.2.2:8080"},
		{"all are", nil, 1, "REJECT"},
		{"one is back", []netip.AddrPort{one}, 1, "10.244.1.2:8080"},
	} {
		clear(alive)
		for _, a := range step.alive {
			alive[a] = true
		}
		before := kernel.Writes()
		if err := c.look(t.Context()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := kernel.Writes() - before; got != step.writes {
			t.Errorf("%s: %d writes, want %d", step.name, got, step.writes)
		}
		got, err := kernel.Lookup(servicetest.Packet{From: user, To: vip.Addr(), Port: vip.Port(), Protocol: service.TCP})
		if err != nil || got.String() != step.want {
			t.Errorf("%s: %v, %v, want %s", step.name, got, err, step.want)
		}
	}
}

// TestRefused has the kernel refuse a change: what was there stays, and the next look brings it in.
func TestRefused(t *testing.T) {
	refuse := false
	full := errors.New("no space left on device")
	kernel := &servicetest.Dataplane{Fault: func(call servicetest.Call) error {
		if refuse && call.Op == "set" {
			return full
		}
		return nil
	}}
	both := true
	c := newController(kernel, vip, []netip.AddrPort{one, two}, func(_ context.Context, a netip.AddrPort) bool { return both || a == one })
	for _, step := range []struct {
		both, refuse bool
		err          error
		want         string
	}{
		{true, false, nil, "10.244.1.2:8080 10.244.2.2:8080"},
		{false, true, full, "10.244.1.2:8080 10.244.2.2:8080"},
		{false, false, nil, "10.244.1.2:8080"},
	} {
		both, refuse = step.both, step.refuse
		if err := c.look(t.Context()); !errors.Is(err, step.err) {
			t.Fatalf("%+v: %v", step, err)
		}
		got, err := kernel.Lookup(servicetest.Packet{From: user, To: vip.Addr(), Port: vip.Port(), Protocol: service.TCP})
		if err != nil || got.String() != step.want {
			t.Errorf("%+v: %v, %v", step, got, err)
		}
	}
}
