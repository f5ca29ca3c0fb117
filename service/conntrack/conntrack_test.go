package conntrack_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

func front(addr string, serving ...string) conntrack.Frontend {
	f := conntrack.Frontend{Addr: netip.MustParseAddrPort(addr)}
	for _, s := range serving {
		f.Serving = append(f.Serving, netip.MustParseAddrPort(s))
	}
	return f
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var udp, as = conntracktest.UDP, conntracktest.As

func answered(f conntrack.Flow) conntrack.Flow {
	f.Replied = true
	return f
}

// many are endpoints enough that they are not compared one by one.
func many(also ...string) []string {
	for i := range 20 {
		also = append(also, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 9, byte(i)}), 53).String())
	}
	return also
}

// TestStale: which of the flows are deleted. The flows stand in the order of the fake's Dump.
func TestStale(t *testing.T) {
	const vip, gone, there = "10.96.0.10:53", "10.244.2.3:53", "10.244.2.4:53"
	for _, tt := range []struct {
		name    string
		config  conntrack.Config
		local   []string
		deleted []conntrack.Flow
		kept    []conntrack.Flow
	}{
		{
			name:    "endpoint removed",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, there)}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", vip, there), udp("10.244.1.3:1000", "10.96.0.11:53", gone), udp("10.244.1.4:1000", "10.96.0.10:54", gone)},
		},
		{
			name:    "endpoint listens on another port",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, "10.244.2.3:5353")}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", vip, "10.244.2.3:5353")},
		},
		{
			name:    "last endpoint removed",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip)}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone), udp("10.244.1.2:1000", vip, there)},
		},
		{
			name:    "first endpoint added: flows without translation",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, there)}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, vip)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", vip, there)},
		},
		{
			name:    "clusterIP reused: what both Services say is taken together",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip), front(vip, there)}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", vip, there)},
		},
		{
			name:    "two claimants",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, there), front(vip, many()...)}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", vip, there), udp("10.244.1.2:1001", vip, "10.244.9.3:53")},
		},
		{
			name:    "many endpoints",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, many(there)...)}},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", vip, there), udp("10.244.1.2:1001", vip, "10.244.9.3:53")},
		},
		{
			name:    "masqueraded flow",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, there)}},
			deleted: []conntrack.Flow{{Protocol: conntrack.UDP, Src: netip.MustParseAddrPort("192.0.2.9:1000"), Dst: netip.MustParseAddrPort(vip), ReplySrc: netip.MustParseAddrPort(gone), ReplyDst: netip.MustParseAddrPort("10.244.1.0:33")}},
			kept:    []conntrack.Flow{{Protocol: conntrack.UDP, Src: netip.MustParseAddrPort("192.0.2.9:1001"), Dst: netip.MustParseAddrPort(vip), ReplySrc: netip.MustParseAddrPort(there), ReplyDst: netip.MustParseAddrPort("10.244.1.0:34")}},
		},
		{
			name:    "node port: every local address, no foreign one",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front("0.0.0.0:30053", there)}},
			local:   []string{"127.0.0.0/8", "192.0.2.1/32", "10.244.1.1/32"},
			deleted: []conntrack.Flow{udp("10.244.1.2:1000", "192.0.2.1:30053", gone), udp("10.244.1.2:1001", "10.244.1.1:30053", gone), udp("127.0.0.1:1000", "127.0.0.1:30053", "127.0.0.1:30053")},
			kept:    []conntrack.Flow{udp("10.244.1.2:1002", "192.0.2.1:30053", there), udp("10.244.1.3:1000", "198.51.100.1:30053", "198.51.100.1:30053"), udp("10.244.1.4:1000", "192.0.2.1:30054", gone)},
		},
		{
			name:    "node port on some addresses",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front("0.0.0.0:30053", there)}, NodePortAddrs: prefixes("192.0.2.0/24", "127.0.0.1/32")},
			local:   []string{"127.0.0.0/8", "192.0.2.1/32", "10.244.1.1/32"},
			deleted: []conntrack.Flow{udp("10.244.1.2:1000", "192.0.2.1:30053", gone), udp("127.0.0.1:1000", "127.0.0.1:30053", gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1001", "10.244.1.1:30053", gone), udp("127.0.0.1:1000", "127.0.0.2:30053", gone)},
		},
		{
			name:    "ClusterIP with the port of a node port", // kube-proxy 1.36 deletes it
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.9:30053", gone), front("0.0.0.0:30053", there)}},
			local:   []string{"10.96.0.9/32", "192.0.2.1/32"},
			deleted: []conntrack.Flow{udp("10.244.1.2:1001", "192.0.2.1:30053", gone)},
			kept:    []conntrack.Flow{udp("10.244.1.2:1000", "10.96.0.9:30053", gone)},
		},
		{
			name:    "unknown ClusterIP",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front(vip, there)}, ServiceCIDRs: prefixes("10.96.0.0/12")},
			deleted: []conntrack.Flow{udp("10.244.1.1:1000", "10.96.0.99:5000", gone), udp("10.244.1.2:1000", "10.96.0.10:54", there)},
			kept:    []conntrack.Flow{udp("10.244.1.3:1000", vip, there), udp("10.244.1.3:1001", "192.0.2.1:53", there), udp("[fd00::1]:1", "[fd00::2]:53", "[fd00::3]:53")},
		},
		{
			name:    "IPv6, and the same port in IPv4",
			config:  conntrack.Config{Frontends: []conntrack.Frontend{front("[fd00:96::10]:53", "[fd00:1::3]:53"), front("[::]:30053", "[fd00:1::3]:53")}},
			local:   []string{"192.0.2.1/32", "2001:db8::1/128"},
			deleted: []conntrack.Flow{udp("[fd00:1::2]:1000", "[fd00:96::10]:53", "[fd00:1::4]:53"), udp("[fd00:1::2]:1001", "[2001:db8::1]:30053", "[fd00:1::4]:53")},
			kept: []conntrack.Flow{
				udp("[fd00:1::2]:1002", "[fd00:96::10]:53", "[fd00:1::3]:53"), udp("[fd00:1::2]:1003", "[2001:db8::1]:30053", "[fd00:1::3]:53"),
				udp("10.244.1.1:1000", "192.0.2.1:30053", gone), udp("10.244.1.1:1000", vip, gone),
			},
		},
		{
			name: "after a flush: TCP and SCTP that began in between",
			config: conntrack.Config{Restored: []conntrack.Restored{
				{Protocol: conntrack.TCP, Addr: netip.MustParseAddrPort(vip)}, {Protocol: conntrack.SCTP, Addr: netip.MustParseAddrPort(vip)}, {Protocol: conntrack.TCP, Addr: netip.MustParseAddrPort("[fd00:96::10]:53")},
			}},
			deleted: []conntrack.Flow{
				as(conntrack.TCP, udp("10.244.1.1:1000", vip, vip)), as(conntrack.SCTP, udp("10.244.1.1:1000", vip, vip)), as(conntrack.TCP, udp("[fd00:1::2]:1000", "[fd00:96::10]:53", "[fd00:96::10]:53")),
			},
			kept: []conntrack.Flow{
				udp("10.244.1.1:1000", vip, vip), as(conntrack.TCP, udp("10.244.1.1:1001", vip, gone)), answered(as(conntrack.TCP, udp("10.244.1.1:1002", vip, vip))),
				as(conntrack.TCP, udp("10.244.1.1:1003", "10.96.0.10:54", "10.96.0.10:54")), as(conntrack.TCP, udp("10.244.1.1:1004", "192.0.2.1:53", "192.0.2.1:53")),
			},
		},
		{name: "nothing is wanted", kept: []conntrack.Flow{udp("10.244.1.1:1000", vip, gone)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, rest := &conntracktest.Kernel{}, &conntracktest.Kernel{}
			k.SetLocal(prefixes(tt.local...)...)
			k.Track(tt.deleted...)
			k.Track(tt.kept...)
			rest.Track(tt.kept...)
			r := conntrack.New(k, conntrack.Options{Batch: 1})
			p, err := r.Plan(t.Context(), tt.config)
			if err != nil || p.Stale != len(tt.deleted) {
				t.Errorf("Plan: %v, %d stale, want %d\n%s", err, p.Stale, len(tt.deleted), p)
			}
			done, err := r.Apply(t.Context(), tt.config)
			if err != nil || done.Stale != len(tt.deleted) {
				t.Errorf("Apply: %v, deleted %d, want %d", err, done.Stale, len(tt.deleted))
			}
			if n := done.StaleOf(conntrack.IPv4) + done.StaleOf(conntrack.IPv6); n != done.Stale || slices.ContainsFunc(tt.deleted, func(f conntrack.Flow) bool { return f.Dst.Addr().Is6() }) != (done.StaleOf(conntrack.IPv6) > 0) {
				t.Errorf("%d by family, %d in all", n, done.Stale)
			}
			if p.String() != done.String() {
				t.Errorf("Plan said %q, Apply did %q", p, done)
			}
			if diff := cmp.Diff(rest.Dump(), k.Dump()); diff != "" {
				t.Errorf("flows (-want +have):\n%s", diff)
			}
			if p, err := r.Apply(t.Context(), tt.config); err != nil || !p.Empty() {
				t.Errorf("second Apply: %v\n%s", err, p)
			}
		})
	}
}

// TestFilter: what the kernel is asked for. Whatever frontends have in common, it filters by.
func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		fronts []string
		want   string
	}{
		{[]string{"10.96.0.10:53"}, "4 10.96.0.10 53"},
		{[]string{"10.96.0.10:53", "10.96.0.10:54"}, "4 10.96.0.10 0"},
		{[]string{"10.96.0.10:53", "10.96.0.11:53"}, "4 invalid IP 53"},
		{[]string{"10.96.0.10:53", "10.96.0.11:54"}, "4 invalid IP 0"},
		{[]string{"10.96.0.10:53", "0.0.0.0:30053"}, "4 invalid IP 0"},
		{[]string{"0.0.0.0:30053"}, "4 invalid IP 30053"},
		{[]string{"[fd00::1]:53", "[fd00::1]:53"}, "6 fd00::1 53"},
		{[]string{"[fd00::1]:53", "10.96.0.10:54"}, "4 10.96.0.10 54, 6 fd00::1 53"},
	} {
		k := &conntracktest.Kernel{}
		var asked []string
		k.Fault(func(c conntracktest.Call) error {
			if c.Method == "Flows" {
				asked = append(asked, strings.Join([]string{c.Filter.Family.String()[3:], c.Filter.Dst.String(), itoa(c.Filter.Port)}, " "))
			}
			return nil
		})
		var c conntrack.Config
		for _, f := range tt.fronts {
			c.Frontends = append(c.Frontends, front(f))
		}
		if _, err := conntrack.New(k, conntrack.Options{}).Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if have := strings.Join(asked, ", "); have != tt.want {
			t.Errorf("%v: asked for %s, want %s", tt.fronts, have, tt.want)
		}
	}
}

func itoa(p uint16) string {
	_, port, _ := strings.Cut(netip.AddrPortFrom(netip.IPv4Unspecified(), p).String(), ":")
	return port
}

// TestFaults: each call fails once. The other family is done all the same, and the next Apply does the rest.
func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	config := conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.10:53"), front("0.0.0.0:30053"), front("[fd00:96::10]:53"), front("[::]:30053")}}
	for fail := 1; ; fail++ {
		k := &conntracktest.Kernel{}
		k.SetLocal(prefixes("192.0.2.1/32", "2001:db8::1/128")...)
		k.Track(udp("10.244.1.1:1000", "10.96.0.10:53", "10.244.1.3:53"), udp("10.244.1.1:1000", "192.0.2.1:30053", "10.244.1.3:53"))
		k.Track(udp("[fd00::1]:1000", "[fd00:96::10]:53", "[fd00::3]:53"), udp("[fd00::1]:1000", "[2001:db8::1]:30053", "[fd00::3]:53"))
		calls := 0
		k.Fault(func(conntracktest.Call) error {
			if calls++; calls == fail {
				return broken
			}
			return nil
		})
		r := conntrack.New(k, conntrack.Options{Batch: 1})
		p, err := r.Apply(t.Context(), config)
		if calls < fail {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, broken) {
			t.Errorf("call %d fails: Apply = %v", fail, err)
		}
		if p.Stale < 2 || p.Stale != 4-len(slices.Collect(strings.Lines(k.Dump()))) {
			t.Errorf("call %d fails: deleted %d, left:\n%s", fail, p.Stale, k.Dump())
		}
		k.Fault(nil)
		if _, err := r.Apply(t.Context(), config); err != nil || k.Dump() != "" {
			t.Errorf("call %d failed: next Apply: %v, left:\n%s", fail, err, k.Dump())
		}
	}
}

// TestPlanIsBounded: a Plan tells how many, and shows some.
func TestPlanIsBounded(t *testing.T) {
	k := &conntracktest.Kernel{}
	for i := range 1000 {
		k.Track(udp(netip.AddrPortFrom(netip.MustParseAddr("10.244.1.1"), uint16(1000+i)).String(), "10.96.0.10:53", "10.244.1.3:53"))
	}
	p, err := conntrack.New(k, conntrack.Options{}).Apply(t.Context(), conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.10:53")}})
	if err != nil || p.Stale != 1000 || p.Seen != 1000 || len(p.Examples) != 10 || !strings.HasSuffix(p.String(), "and 990 more\n") {
		t.Errorf("%v, %d of %d, %d examples:\n%s", err, p.Stale, p.Seen, len(p.Examples), p)
	}
	if k.Dump() != "" {
		t.Errorf("left: %s", k.Dump())
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config conntrack.Config
		want   []string // parts of the error; none: valid
	}{
		{"zero", conntrack.Config{}, nil},
		{"zero frontend", conntrack.Config{Frontends: []conntrack.Frontend{{}}}, []string{"Frontends[0].Addr"}},
		{"no port", conntrack.Config{Frontends: []conntrack.Frontend{{Addr: netip.MustParseAddrPort("10.0.0.1:0")}}}, []string{"Frontends[0].Addr 10.0.0.1:0"}},
		{"mapped", conntrack.Config{Frontends: []conntrack.Frontend{front("[::ffff:10.0.0.1]:53")}}, []string{"Frontends[0].Addr"}},
		{"zone", conntrack.Config{Frontends: []conntrack.Frontend{front("[fe80::1%eth0]:53")}}, []string{"zone"}},
		{"families", conntrack.Config{Frontends: []conntrack.Frontend{front("10.0.0.1:53"), front("10.0.0.1:53", "10.0.0.2:53", "[fd00::1]:53")}}, []string{"Frontends[1].Serving[1]", "family"}},
		{"all", conntrack.Config{ServiceCIDRs: prefixes("0.0.0.0/0")}, []string{"ServiceCIDRs[0] 0.0.0.0/0"}},
		{"ranges", conntrack.Config{ServiceCIDRs: []netip.Prefix{{}}, NodePortAddrs: []netip.Prefix{{}}}, []string{"ServiceCIDRs[0]", "NodePortAddrs[0]"}},
		{"UDP restored", conntrack.Config{Restored: []conntrack.Restored{{Protocol: conntrack.UDP, Addr: netip.MustParseAddrPort("10.0.0.1:53")}}}, []string{"Restored[0].Protocol udp", "TCP or SCTP"}},
		{"node port restored", conntrack.Config{Restored: []conntrack.Restored{{Protocol: conntrack.TCP, Addr: netip.MustParseAddrPort("0.0.0.0:30080")}}}, []string{"Restored[0].Addr 0.0.0.0:30080"}},
		{"good", conntrack.Config{Frontends: []conntrack.Frontend{front("0.0.0.0:30053", "10.0.0.2:53"), front("[::]:1", "[fd00::1]:53")}, NodePortAddrs: prefixes("0.0.0.0/0", "::/0")}, nil},
	} {
		err := tt.config.Validate()
		if (err != nil) != (tt.want != nil) {
			t.Errorf("%s: %v", tt.name, err)
		}
		for _, w := range tt.want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", tt.name, err, w)
			}
		}
		if _, err := conntrack.New(&conntracktest.Kernel{}, conntrack.Options{}).Apply(t.Context(), tt.config); (err != nil) != (tt.want != nil) {
			t.Errorf("%s: Apply: %v", tt.name, err)
		}
	}
}
