package main

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// talk is a TCP connection that carries a line each millisecond and back.
type talk struct {
	conn, peer net.Conn
	done       sync.WaitGroup
	stop       chan struct{}
	err        error
	lines      int
	longest    time.Duration
}

func startTalk(t *testing.T, from, to endpoint) *talk {
	t.Helper()
	var l net.Listener
	err := to.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to.addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := &talk{stop: make(chan struct{})}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if err := from.ns.Do(func() (err error) {
		k.conn, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	k.peer = <-accepted
	k.done.Go(func() { _, _ = io.Copy(k.peer, k.peer) })
	k.done.Go(func() {
		defer k.conn.Close()
		buf := make([]byte, 8)
		for {
			select {
			case <-k.stop:
				return
			case <-time.After(time.Millisecond):
			}
			start := time.Now()
			_ = k.conn.SetDeadline(start.Add(10 * time.Second))
			if _, k.err = k.conn.Write([]byte("12345678")); k.err == nil {
				_, k.err = io.ReadFull(k.conn, buf)
			}
			if k.err != nil {
				return
			}
			k.longest = max(k.longest, time.Since(start))
			k.lines++
		}
	})
	return k
}

func (k *talk) finish() (lines int, longest time.Duration, err error) {
	close(k.stop)
	k.done.Wait()
	k.peer.Close()
	return k.lines, k.longest, k.err
}

// traffic is between the pods of two nodes, both ways and both families.
type traffic struct {
	t      *testing.T
	probes []*probe
	talks  []*talk
}

func startTraffic(t *testing.T, a, b *flannelNode) *traffic {
	t.Helper()
	tr := &traffic{t: t}
	for _, to := range a.outside {
		tr.talks = append(tr.talks, startTalk(t, a.endpoint(to.addr.Is6()), to)) // masqueraded: there is no way back to pods from there
	}
	for _, v6 := range []bool{false, true} {
		p := startProbeBetween(t, a.endpoint(v6), b.endpoint(v6))
		if !p.answers(1) {
			t.Fatalf("%s does not reach %s (IPv6: %v)", a.endpoint(v6).addr, b.endpoint(v6).addr, v6)
		}
		tr.probes = append(tr.probes, p)
		tr.talks = append(tr.talks, startTalk(t, a.endpoint(v6), b.endpoint(v6)), startTalk(t, b.endpoint(v6), a.endpoint(v6)))
	}
	return tr
}

// wantNoLoss ends the traffic.
func (tr *traffic) wantNoLoss(what string) {
	tr.t.Helper()
	for i, p := range tr.probes {
		p.answers(200)
		sent, lost, outage := p.finish()
		tr.t.Logf("%s, IPv%d: %d packets sent, %d lost", what, 4+2*i, sent, lost)
		if lost > 0 || sent < 200 {
			tr.t.Errorf("%s, IPv%d: %d of %d packets lost, %v without an answer", what, 4+2*i, lost, sent, outage)
		}
	}
	for _, k := range tr.talks {
		lines, longest, err := k.finish()
		if err != nil || lines < 20 {
			tr.t.Errorf("%s: a TCP connection ended after %d lines: %v", what, lines, err)
		}
		tr.t.Logf("%s: TCP %v: %d lines, at most %v for one", what, k.conn.RemoteAddr(), lines, longest.Round(time.Microsecond))
	}
}
