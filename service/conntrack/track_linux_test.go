package conntrack

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// track makes the kernel of a namespace record flows as if packets had passed. Several in one system call.
func track(t testing.TB, path string, flows ...Flow) {
	t.Helper()
	s, err := (&Conn{Netns: path}).open(unix.NETLINK_NETFILTER, answerSize)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for len(flows) > 0 {
		n := min(len(flows), 200)
		s.out.buf = s.out.buf[:0]
		for i, f := range flows[:n] {
			flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
			if i == n-1 {
				flags |= unix.NLM_F_ACK
			}
			s.seq++
			s.out.begin(msgNew, flags, s.seq)
			s.out.netfilter(familyOf(f.Dst.Addr()))
			s.out.tuple(ctaTupleOrig, f.Protocol, f.Src, f.Dst)
			s.out.tuple(ctaTupleReply, f.Protocol, f.ReplySrc, f.ReplyDst)
			if f.Replied {
				const confirmed = 1 << 3 // the kernel has set it already, and refuses to take it away
				s.out.attr(ctaStatus, 0, 0, 0, statusSeenReply|confirmed)
			}
			const ctaTimeout = 7
			s.out.attr(ctaTimeout, 0, 0, 2, 0) // 512 s
			s.out.end()
		}
		if err := s.send(); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			in, err := s.receive()
			if err != nil {
				t.Fatal(err)
			}
			for m := range messages(in) {
				if errno := m.errno(); errno != 0 {
					t.Fatalf("track %s: %v", flows[n-1-int(s.seq-m.seq)], errno)
				}
				done = done || m.seq == s.seq
			}
		}
		flows = flows[n:]
	}
}

// Track is track for the tests outside the package.
var Track = track

// TestUnfiltered: a kernel before 5.8 sends flows of all protocols, addresses and ports.
func TestUnfiltered(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	for _, f := range []Flow{flowOf("10.0.0.1:1", "10.96.0.10:53", "10.0.0.2:53"), flowOf("10.0.0.1:1", "10.96.0.10:54", "10.0.0.2:54"), flowOf("[fd00::1]:1", "[fd00::2]:53", "[fd00::3]:53")} {
		track(t, ns.Path(), f)
	}
	s, err := (&Conn{Netns: ns.Path()}).open(unix.NETLINK_NETFILTER, dumpSize)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, filtered := range []bool{false, true} {
		n := 0
		err := s.flows(t.Context(), Filter{Family: IPv4, Protocol: UDP, Dst: netip.MustParseAddr("10.96.0.10"), Port: 53}, filtered, func(*Flow) error {
			n++
			return nil
		})
		if err != nil || n != 1 {
			t.Errorf("filtered %t: %d flows, %v", filtered, n, err)
		}
	}
}
