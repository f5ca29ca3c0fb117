package rtnl

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// encoded returns the body of the message that f encodes.
func encoded(t testing.TB, f func(*encoder)) []byte {
	t.Helper()
	var e encoder
	e.begin(0x1234, 0x0001, 7)
	f(&e)
	e.end()
	e.addFlags(0x0004)
	n := 0
	var body []byte
	for m := range messages(e.buf) {
		n++
		if m.typ != 0x1234 || m.flags != 0x0005 || m.seq != 7 {
			t.Errorf("header is %+v", m)
		}
		body = m.body
	}
	if n != 1 || len(e.buf)%align != 0 {
		t.Errorf("%d messages in %d bytes", n, len(e.buf))
	}
	return body
}

func TestEncodeRoute(t *testing.T) {
	prefix, ip := netip.MustParsePrefix, netip.MustParseAddr
	for _, r := range []Route{
		{Dst: prefix("0.0.0.0/0"), Gateway: ip("10.0.0.1")},
		{Dst: prefix("10.1.0.0/24"), Gateway: ip("10.0.0.1"), Link: "a", Protocol: 112, Onlink: true, MTU: 1400, AdvMSS: 1300, Priority: 7},
		{Dst: prefix("10.1.0.0/24"), Scope: ScopeAuto, Link: "a", Src: ip("10.0.0.9"), Table: 100},
		{Dst: prefix("10.1.0.0/24"), Gateway: ip("fe80::1"), Link: "a", Table: 1000},
		{Dst: prefix("10.1.0.0/24"), Nexthop: 5, Protocol: 112},
		{Dst: prefix("10.1.0.0/24"), Type: Blackhole},
		{Dst: prefix("fd00::/64"), Type: Unreachable, Protocol: 112},
		{Dst: prefix("::/0"), Gateway: ip("fd00::1"), Link: "a", Src: ip("fd00::2")},
		{Dst: prefix("fd00::/64"), Nexthop: 5},
	} {
		want := r.Canonical()
		var index int32
		if r.Link != "" {
			index = 3
		}
		o, ok := decodeRoute(encoded(t, func(e *encoder) { encodeRoute(e, want, index, Add) }))
		if !ok || o.out != index || !o.writable() {
			t.Errorf("%v: decoded as %+v", r, o)
		}
		if have := o.named(r.Link); have != want {
			t.Errorf("have %+v\nwant %+v", have, want)
		}
	}
}

func TestEncodeOthers(t *testing.T) {
	ip := netip.MustParseAddr
	mac := MAC{2, 0, 0, 0, 0, 9}
	for _, want := range []Addr{
		{Prefix: netip.MustParsePrefix("10.0.0.1/24")},
		{Prefix: netip.MustParsePrefix("10.0.0.1/32"), NoPrefixRoute: true},
		{Prefix: netip.MustParsePrefix("fd00::1/64"), NoDAD: true, NoPrefixRoute: true},
	} {
		have, index, ok := decodeAddr(encoded(t, func(e *encoder) { encodeAddr(e, want, 3) }))
		if !ok || index != 3 || have != want {
			t.Errorf("have %+v of device %d, want %+v", have, index, want)
		}
	}
	for _, want := range []Neigh{{IP: ip("10.0.0.1"), MAC: mac, Permanent: true}, {IP: ip("fd00::1"), MAC: mac}} {
		have, ok := decodeNeigh(encoded(t, func(e *encoder) { encodeNeigh(e, want, 3, Add) }))
		if !ok || have.index != 3 || have.Neigh != want {
			t.Errorf("have %+v, want %+v", have, want)
		}
	}
	for _, want := range []FDB{{MAC: mac, Dst: ip("10.0.0.1")}, {MAC: mac, Dst: ip("fd00::1")}} {
		have, ok := decodeNeigh(encoded(t, func(e *encoder) { encodeFDB(e, want, 3) }))
		if !ok || have.index != 3 || have.family != unix.AF_BRIDGE || have.flags != unix.NTF_SELF || (FDB{MAC: have.MAC, Dst: have.IP}) != want {
			t.Errorf("have %+v, want %+v", have, want)
		}
	}
	for _, want := range []Nexthop{
		{ID: 1, Gateway: ip("10.0.0.1"), Protocol: 112, Onlink: true},
		{ID: 1<<32 - 1, Gateway: ip("fd00::1")},
		{ID: 3},
	} {
		have, index, ok := decodeNexthop(encoded(t, func(e *encoder) { encodeNexthop(e, want, 3, Add) }))
		if !ok || index != 3 || have != want {
			t.Errorf("have %+v of device %d, want %+v", have, index, want)
		}
	}
}

func TestDecodeReply(t *testing.T) {
	tlv := func(skip string) string { return skip + "0a000100" + hex.EncodeToString([]byte("sorry\x00")) + "0000" }
	header := "1400000010000500" + "0000000000000000"
	for _, tt := range []struct {
		name string
		m    message
		hex  string
		want reply
	}{
		{"acknowledged", message{typ: unix.NLMSG_ERROR}, "00000000" + header, reply{}},
		{"refused", message{typ: unix.NLMSG_ERROR}, "efffffff" + header, reply{errno: syscall.EEXIST}},
		{"with words", message{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED}, "efffffff" + tlv(header), reply{syscall.EEXIST, "sorry"}},
		{"with words behind the request", message{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS}, "efffffff" + tlv(header+"00000000"), reply{syscall.EEXIST, "sorry"}},
		{"end of a dump", message{typ: unix.NLMSG_DONE}, "00000000", reply{}},
		{"end of a dump with a count", message{typ: unix.NLMSG_DONE}, "07000000", reply{}},
		{"end of a dump that failed", message{typ: unix.NLMSG_DONE, flags: unix.NLM_F_ACK_TLVS}, tlv("efffffff"), reply{syscall.EEXIST, "sorry"}},
		{"truncated", message{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS}, "efff", reply{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if native.Uint16([]byte{1, 0}) != 1 {
				t.Skip("the bytes are written down for little-endian machines")
			}
			var err error
			if tt.m.body, err = hex.DecodeString(tt.hex); err != nil {
				t.Fatal(err)
			}
			if tt.name == "with words behind the request" {
				tt.m.body[4] = 20
			}
			if have := decodeReply(tt.m); have != tt.want {
				t.Errorf("have %+v, want %+v", have, tt.want)
			}
		})
	}
}

func TestRepeatDump(t *testing.T) {
	calls := 0
	after := func(n int) func() (reply, bool, error) {
		calls = 0
		return func() (reply, bool, error) {
			calls++
			return reply{}, calls <= n, nil
		}
	}
	if r, err := repeatDump(t.Context(), after(3)); r.errno != 0 || err != nil || calls != 4 {
		t.Errorf("after 3 interruptions: %+v, %v, %d calls", r, err, calls)
	}
	if r, err := repeatDump(t.Context(), after(dumpTries)); r.errno != syscall.EINTR || err != nil || calls != dumpTries {
		t.Errorf("always interrupted: %+v, %v, %d calls, want EINTR after %d", r, err, calls, dumpTries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := repeatDump(ctx, after(0)); !errors.Is(err, context.Canceled) || calls != 0 {
		t.Errorf("context ended: %v, %d calls", err, calls)
	}
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]syscall.Errno{
		"cni0": 0, "a23456789012345": 0, "br.1-x_y@z": 0, "ä": 0,
		"": syscall.EINVAL, ".": syscall.EINVAL, "..": syscall.EINVAL, "a/b": syscall.EINVAL, "a:b": syscall.EINVAL, "a b": syscall.EINVAL,
		"a%d": syscall.EINVAL, "a\n": syscall.EINVAL, "a\x7f": syscall.EINVAL, "a\x00b": syscall.EINVAL, "a234567890123456": syscall.ERANGE,
	} {
		if have := checkName(name); have != want {
			t.Errorf("%q: have %v, want %v", name, have, want)
		}
	}
}

// FuzzDecode feeds what the kernel never sends to every decoder: no panic, and no walk without end.
func FuzzDecode(f *testing.F) {
	seed := func(build func(*encoder)) {
		var e encoder
		e.begin(unix.RTM_NEWLINK, 0, 1)
		build(&e)
		e.end()
		f.Add(e.buf)
	}
	prefix, ip := netip.MustParsePrefix, netip.MustParseAddr
	seed(func(e *encoder) {
		encodeLink(e, Link{Name: "a", MTU: 1500, MAC: MAC{2}}, links{master: 2})
		encodeHairpin(e, On)
	})
	seed(func(e *encoder) {
		encodeLink(e, Link{Name: "v"}, links{})
		info := e.nest(unix.IFLA_LINKINFO)
		e.text(unix.IFLA_INFO_KIND, "vxlan")
		data := e.nest(unix.IFLA_INFO_DATA)
		encodeVXLAN(e, VXLAN{VNI: 1, Port: 8472, Local: ip("fd00::1"), Learning: Off}, links{underlay: 2})
		e.endNest(data)
		e.endNest(info)
	})
	seed(func(e *encoder) {
		encodeRoute(e, Route{Dst: prefix("10.0.0.0/24"), Gateway: ip("fe80::1"), MTU: 1400}.Canonical(), 2, Add)
	})
	seed(func(e *encoder) { encodeAddr(e, Addr{Prefix: prefix("fd00::1/64"), NoDAD: true}, 2) })
	seed(func(e *encoder) { encodeFDB(e, FDB{MAC: MAC{2}, Dst: ip("10.0.0.1")}, 2) })
	seed(func(e *encoder) { encodeNexthop(e, Nexthop{ID: 1, Gateway: ip("10.0.0.1")}, 2, Add) })
	f.Fuzz(func(t *testing.T, b []byte) {
		names := map[int32]string{2: "a"}
		for m := range messages(b) {
			if l, ok := decodeLink(m.body); ok {
				if err := l.resolve(func(i int32) (string, error) { return names[i], nil }); err != nil {
					t.Error(err)
				}
				_ = l.String()
			}
			if a, _, ok := decodeAddr(m.body); ok && !a.Prefix.IsValid() {
				t.Errorf("address %v", a)
			}
			if r, ok := decodeRoute(m.body); ok {
				if !r.Dst.IsValid() {
					t.Errorf("route %v", r)
				}
				_ = r.named("a").String()
			}
			_, _ = decodeNeigh(m.body)
			_, _, _ = decodeNexthop(m.body)
			_ = decodeReply(m)
			for _, typ := range []uint16{unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELROUTE, unix.RTM_NEWNEIGH, unix.RTM_NEWNEXTHOP} {
				m.typ = typ
				_, _ = decodeEvent(m, names)
			}
		}
	})
}
