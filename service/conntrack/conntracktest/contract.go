package conntracktest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podnet/podnet/service/conntrack"
)

// Harness is a kernel, real or fake, under the contract. It must track no flow, and have loopback as its only device, up.
type Harness struct {
	conntrack.Kernel
	Track func(t testing.TB, flows ...conntrack.Flow) // records flows
}

// UDP makes a flow from src to dst, translated to the endpoint to; all are "address:port".
func UDP(src, dst, to string) conntrack.Flow {
	s, d, e := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), netip.MustParseAddrPort(to)
	return conntrack.Flow{Protocol: conntrack.UDP, Src: s, Dst: d, ReplySrc: e, ReplyDst: s}
}

// As returns the flow as one of another protocol.
func As(p conntrack.Protocol, f conntrack.Flow) conntrack.Flow {
	f.Protocol = p
	return f
}

// Contract checks what conntrack relies on in a kernel.
func Contract(t *testing.T, h Harness) {
	for _, f := range []struct {
		name                           string
		family                         conntrack.Family
		dns, web, untranslated, single conntrack.Flow
		loopback                       netip.Addr
	}{
		{
			"IPv4", conntrack.IPv4, UDP("10.244.1.2:5000", "10.96.0.10:53", "10.244.2.3:5353"), UDP("10.244.1.2:5000", "10.96.0.10:80", "10.244.2.4:8080"),
			UDP("10.244.1.3:5000", "10.96.0.11:53", "10.96.0.11:53"), UDP("10.244.1.4:5001", "192.0.2.1:30053", "10.244.2.3:5353"), netip.MustParseAddr("127.0.0.1"),
		},
		{
			"IPv6", conntrack.IPv6, UDP("[fd00:1::2]:5000", "[fd00:96::10]:53", "[fd00:2::3]:5353"), UDP("[fd00:1::2]:5000", "[fd00:96::10]:80", "[fd00:2::4]:8080"),
			UDP("[fd00:1::3]:5000", "[fd00:96::11]:53", "[fd00:96::11]:53"), UDP("[fd00:1::4]:5001", "[2001:db8::1]:30053", "[fd00:2::3]:5353"), netip.MustParseAddr("::1"),
		},
	} {
		t.Run(f.name, func(t *testing.T) {
			all := []conntrack.Flow{f.dns, f.web, f.untranslated, f.single}
			h.Track(t, all...)
			for _, tt := range []struct {
				name   string
				filter conntrack.Filter
				want   []conntrack.Flow
			}{
				{"family", conntrack.Filter{Family: f.family, Protocol: conntrack.UDP}, all},
				{"port", conntrack.Filter{Family: f.family, Protocol: conntrack.UDP, Port: 53}, []conntrack.Flow{f.dns, f.untranslated}},
				{"address", conntrack.Filter{Family: f.family, Protocol: conntrack.UDP, Dst: f.dns.Dst.Addr()}, []conntrack.Flow{f.dns, f.web}},
				{"address and port", conntrack.Filter{Family: f.family, Protocol: conntrack.UDP, Dst: f.dns.Dst.Addr(), Port: 80}, []conntrack.Flow{f.web}},
				{"nothing", conntrack.Filter{Family: f.family, Protocol: conntrack.UDP, Port: 9}, nil},
				{"other family", conntrack.Filter{Family: conntrack.IPv4 + conntrack.IPv6 - f.family, Protocol: conntrack.UDP}, nil},
			} {
				if diff := cmp.Diff(tt.want, flows(t, h, tt.filter), equal...); diff != "" {
					t.Errorf("Flows by %s (-want +have):\n%s", tt.name, diff)
				}
			}
			contractProtocols(t, h, f.dns)
			contractDelete(t, h, f.family)
			contractLocal(t, h, f.loopback)
		})
	}
}

var equal = []cmp.Option{cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.IgnoreFields(conntrack.Flow{}, "ID"), cmpopts.EquateEmpty()}

// flows returns what Flows visits, sorted, each once.
func flows(t *testing.T, k conntrack.Kernel, f conntrack.Filter) []conntrack.Flow {
	t.Helper()
	var list []conntrack.Flow
	if err := k.Flows(t.Context(), f, func(flow *conntrack.Flow) error {
		list = append(list, *flow)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b conntrack.Flow) int {
		if c := a.Src.Compare(b.Src); c != 0 {
			return c
		}
		return a.Dst.Compare(b.Dst)
	})
	return slices.Compact(list)
}

// contractProtocols tracks flows of the other protocols at the addresses and ports of one of UDP, with and without a reply, and removes them; that of UDP stays.
func contractProtocols(t *testing.T, h Harness, same conntrack.Flow) {
	family := conntrack.IPv6
	if same.Dst.Addr().Is4() {
		family = conntrack.IPv4
	}
	for _, p := range []conntrack.Protocol{conntrack.TCP, conntrack.SCTP} {
		silent, answered := As(p, same), As(p, same)
		answered.Src = netip.AddrPortFrom(same.Src.Addr(), same.Src.Port()+1)
		answered.ReplyDst, answered.Replied = answered.Src, true
		h.Track(t, silent, answered)
		filter := conntrack.Filter{Family: family, Protocol: p, Dst: same.Dst.Addr(), Port: same.Dst.Port()}
		have := flows(t, h, filter)
		if diff := cmp.Diff([]conntrack.Flow{silent, answered}, have, equal...); diff != "" {
			t.Errorf("Flows of %s (-want +have):\n%s", p, diff)
		}
		if n, err := h.Delete(t.Context(), have); n != 2 || err != nil {
			t.Errorf("Delete of %s = %d, %v, want 2", p, n, err)
		}
		filter.Protocol = conntrack.UDP
		if have := flows(t, h, filter); len(have) != 1 {
			t.Errorf("after flows of %s were deleted, there are %v", p, have)
		}
	}
}

// contractDelete removes all flows of a family, and leaves nothing.
func contractDelete(t *testing.T, h Harness, family conntrack.Family) {
	ctx := t.Context()
	any := conntrack.Filter{Family: family, Protocol: conntrack.UDP}
	list := flows(t, h, any)
	remove := func(want int, f ...conntrack.Flow) {
		t.Helper()
		if n, err := h.Delete(ctx, f); n != want || err != nil {
			t.Errorf("Delete = %d, %v, want %d", n, err, want)
		}
	}
	remove(0)
	other := list[0]
	other.ID++
	remove(0, other) // the same addresses and ports, but another flow
	if have := flows(t, h, any); len(have) != len(list) {
		t.Errorf("%d flows after deleting one with another id, want %d", len(have), len(list))
	}
	remove(1, list[0])
	remove(0, list[0])
	remove(1, list[0], list[1]) // one is gone

	stop := errors.New("stop")
	visits := 0
	err := h.Flows(ctx, any, func(f *conntrack.Flow) error {
		visits++
		remove(1, *f) // while the table is read
		return stop
	})
	if !errors.Is(err, stop) || visits != 1 {
		t.Errorf("Flows ended with %v after %d visits, want the visitor's error after 1", err, visits)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.Flows(cancelled, any, func(*conntrack.Flow) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Flows with a cancelled context: %v", err)
	}
	if n, err := h.Delete(cancelled, list); !errors.Is(err, context.Canceled) || n != 0 {
		t.Errorf("Delete with a cancelled context: %d, %v", n, err)
	}
	remove(1, flows(t, h, any)...)
	if have := flows(t, h, any); len(have) > 0 {
		t.Errorf("left: %v", have)
	}
}

func contractLocal(t *testing.T, h Harness, loopback netip.Addr) {
	local, err := h.Local(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Contains(loopback) }) {
		t.Errorf("Local = %v without %s", local, loopback)
	}
	for _, p := range local {
		if !p.Addr().IsLoopback() {
			t.Errorf("Local = %v: %s is nobody's", local, p)
		}
	}
}
