package vxlan

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// stream sends numbered datagrams from a pod to an echo server, one per millisecond, until stop is called; that returns how many were
// sent and how many were answered.
func stream(t *testing.T, from *rtnltest.Netns, to netip.AddrPort) (stop func() (sent, answered int)) {
	t.Helper()
	var conn *net.UDPConn
	err := from.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	end, sentAll, answeredAll := make(chan struct{}), make(chan int), make(chan int)
	go func() {
		n := 0
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				sentAll <- n
				return
			case <-tick.C:
				_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) // one that is refused is lost, too
				n++
			}
		}
	}()
	go func() {
		n := 0
		buf := make([]byte, 100)
		for {
			if _, err := conn.Read(buf); err != nil {
				answeredAll <- n
				return
			}
			n++
		}
	}()
	return func() (int, int) {
		close(end)
		sent := <-sentAll
		conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // for those that are under way
		return sent, <-answeredAll
	}
}

// TestNoPacketIsLost while a node changes how it reaches another one: through the tunnel, directly, through nexthop objects, with another
// MTU, with peers that come and go, and with a node that takes over another's pod range.
func TestNoPacketIsLost(t *testing.T) {
	nodes := threeNodes(t)
	base := configs(nodes)
	for i := range base {
		apply(t, nodes[i].conn, base[i], Options{})
	}
	stops := map[rtnl.Family]func() (int, int){}
	for _, family := range families {
		to := echo(t, nodes[1], family)
		wantAnswer(t, nodes[0].pod, to, nodes[0].podAddr[family])
		stops[family] = stream(t, nodes[0].pod, to)
	}
	with := func(change func(*Config)) Config {
		c := configs(nodes)[0]
		change(&c)
		return c
	}
	for range 20 {
		for _, step := range []struct {
			Config
			Options
		}{
			{with(func(c *Config) { c.DirectRouting = true }), Options{}},
			{base[0], Options{}},
			{base[0], Options{NexthopsAbove: 1}},
			{with(func(c *Config) { c.DirectRouting = true }), Options{NexthopsAbove: 1}},
			{base[0], Options{NexthopsAbove: 1}},
			{with(func(c *Config) { c.Peers = c.Peers[:2] }), Options{NexthopsAbove: 4}},
			{with(func(c *Config) { c.Endpoints[0].MTU, c.Endpoints[1].MTU = 1400, 1400 }), Options{}},
			{with(func(c *Config) { c.Peers[0].Name, c.Peers[1].Name = "renamed", "renamed" }), Options{}},
		} {
			apply(t, nodes[0].conn, step.Config, step.Options)
		}
	}
	for family, stop := range stops {
		sent, answered := stop()
		t.Logf("IPv%d: %d sent, %d answered", family, sent, answered)
		if sent == 0 || answered != sent {
			t.Errorf("IPv%d: %d of %d packets lost", family, sent-answered, sent)
		}
	}
}
