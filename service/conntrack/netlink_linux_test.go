package conntrack

import (
	"net/netip"
	"testing"
)

func encoded(f Flow) []byte {
	var e encoder
	e.tuple(ctaTupleOrig, f.Protocol, f.Src, f.Dst)
	e.tuple(ctaTupleReply, f.Protocol, f.ReplySrc, f.ReplyDst)
	if f.Replied {
		e.attr(ctaStatus, 0, 0, 0, statusSeenReply)
	}
	e.attr(ctaID, byte(f.ID>>24), byte(f.ID>>16), byte(f.ID>>8), byte(f.ID))
	return e.buf
}

func flowOf(src, dst, to string) Flow {
	s := netip.MustParseAddrPort(src)
	return Flow{Protocol: UDP, Src: s, Dst: netip.MustParseAddrPort(dst), ReplySrc: netip.MustParseAddrPort(to), ReplyDst: s, ID: 0xfedcba98}
}

func TestDecode(t *testing.T) {
	zone := func(b []byte, z byte) []byte {
		e := encoder{buf: b}
		e.attr(ctaZone, 0, z)
		return e.buf
	}
	v4 := flowOf("10.0.0.1:1000", "10.96.0.10:53", "10.0.0.2:5353")
	v6 := flowOf("[fd00::1]:1000", "[fd00::2]:53", "[fd00::3]:5353")
	tcp := v4
	tcp.Protocol, tcp.Replied = TCP, true
	for _, tt := range []struct {
		name string
		b    []byte
		want Flow
		ok   bool
	}{
		{"IPv4", encoded(v4), v4, true},
		{"IPv6", encoded(v6), v6, true},
		{"zone 0", zone(encoded(v4), 0), v4, true},
		{"zone 1", zone(encoded(v4), 1), Flow{}, false},
		{"TCP, with a reply", encoded(tcp), tcp, true},
		{"nothing", nil, Flow{}, false},
		{"cut", encoded(v4)[:60], Flow{}, false},
	} {
		var f Flow
		if ok := f.decode(tt.b); ok != tt.ok || ok && f != tt.want {
			t.Errorf("%s: %v %v, want %v %v", tt.name, f, ok, tt.want, tt.ok)
		}
	}
	b := encoded(v6)
	var f Flow
	if n := testing.AllocsPerRun(100, func() { f.decode(b) }); n > 0 {
		t.Errorf("decoding allocates %v times", n)
	}
}

// FuzzDecode: whatever comes, no panic, and what is accepted survives a round trip.
func FuzzDecode(f *testing.F) {
	f.Add(encoded(flowOf("10.0.0.1:1000", "10.96.0.10:53", "10.0.0.2:5353")))
	f.Add(encoded(flowOf("[fd00::1]:1000", "[fd00::2]:53", "[fd00::3]:5353")))
	f.Add([]byte{4, 0, 1, 0, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for m := range messages(b) {
			_ = m.errno()
			_, _ = decodeLocal(m, IPv4)
		}
		var flow, again Flow
		if flow.decode(b) && (!again.decode(encoded(flow)) || again != flow) {
			t.Errorf("%v came back as %v", flow, again)
		}
	})
}
