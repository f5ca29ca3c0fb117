package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

// flow is a steady stream of numbered UDP datagrams, each of which the far end sends back. What does not come back is an outage.
type flow struct {
	interval time.Duration
	stop     chan struct{}
	done     sync.WaitGroup
	before   noise

	mu   sync.Mutex
	sent []time.Time
	back []bool
	by   map[string]int // the first word of the answers
}

// startFlow sends one datagram per interval from one namespace to the server at to.
// With fresh set, every datagram comes from a new socket: a new connection for conntrack and NAT.
func startFlow(from string, to netip.Addr, interval time.Duration, fresh bool) (*flow, error) {
	return startFlowTo(from, netip.AddrPortFrom(to, whoamiPort), interval, fresh)
}

// startFlowTo is startFlow to any server that sends datagrams back behind a word and a blank.
func startFlowTo(from string, to netip.AddrPort, interval time.Duration, fresh bool) (*flow, error) {
	f := &flow{interval: interval, stop: make(chan struct{}), before: machineNoise(), by: map[string]int{}}
	send := func() (net.Conn, error) { return dialFrom(from, "udp", to.String()) }
	if fresh {
		f.done.Go(func() {
			// All sockets of this loop are opened by the one thread inside the namespace.
			_ = netns.Do(from, func() error {
				f.run(func(message []byte) {
					c, err := net.Dial("udp", to.String())
					if err != nil {
						return // no route: the datagram counts as lost
					}
					_, _ = c.Write(message)
					f.done.Go(func() {
						defer c.Close()
						_ = c.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
						f.receive(c, 1)
					})
				})
				return nil
			})
		})
		return f, nil
	}
	conn, err := send()
	if err != nil {
		return nil, err
	}
	if err := largeBuffer(conn.(*net.UDPConn)); err != nil {
		conn.Close()
		return nil, err
	}
	f.done.Go(func() { f.receive(conn, -1) })
	f.done.Go(func() {
		f.run(func(message []byte) { _, _ = conn.Write(message) }) // a refused send counts as lost
		f.lastAnswers()
		conn.Close()
	})
	return f, nil
}

// lastAnswers waits until every datagram is back, or nothing more comes.
func (f *flow) lastAnswers() {
	const most = 300 * time.Millisecond
	for last, since := -1, time.Now(); time.Since(since) < most; time.Sleep(5 * time.Millisecond) {
		now := f.result().lost
		if now == 0 {
			return
		}
		if now != last {
			last, since = now, time.Now()
		}
	}
}

// run calls send with numbered messages at the flow's rate until stop is closed.
func (f *flow) run(send func([]byte)) {
	ticker := time.NewTicker(f.interval)
	defer ticker.Stop()
	start := time.Now()
	message := make([]byte, 8)
	for n := 0; ; {
		select {
		case <-f.stop:
			return
		case <-ticker.C:
		}
		// A ticker drops ticks when the machine is busy: catch up, so that the rate holds.
		for due := int(time.Since(start)/f.interval) + 1; n < due; n++ {
			binary.BigEndian.PutUint64(message, uint64(n))
			f.mu.Lock()
			f.sent, f.back = append(f.sent, time.Now()), append(f.back, false)
			f.mu.Unlock()
			send(message)
		}
	}
}

// receive notes up to most answers (-1: until the socket is closed).
func (f *flow) receive(c net.Conn, most int) {
	buf := make([]byte, 128)
	for i := 0; most < 0 || i < most; i++ {
		n, err := c.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if n < 8 {
			if most > 0 {
				return
			}
			continue // ICMP errors show up as read errors
		}
		seq := binary.BigEndian.Uint64(buf[n-8 : n])
		f.mu.Lock()
		if seq < uint64(len(f.back)) {
			f.back[seq] = true
			word, _, _ := bytes.Cut(buf[:n-8], []byte(" "))
			f.by[string(word)]++
		}
		f.mu.Unlock()
	}
}

// finish stops sending, waits for the last answers and returns the figures.
func (f *flow) finish() flowResult {
	close(f.stop)
	f.done.Wait()
	r := f.result()
	r.noise = machineNoise().since(f.before)
	return r
}

// healed reports whether the last n datagrams that have had time to come back did so.
func (f *flow) healed(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := len(f.back) - int(50*time.Millisecond/f.interval) - 1
	if end < n {
		return false
	}
	for _, ok := range f.back[end-n : end] {
		if !ok {
			return false
		}
	}
	return true
}

// sinceFirstAnswer returns when the first datagram that came back was sent, and what was lost after it; the zero Time if none came back. The flow must be finished.
func (f *flow) sinceFirstAnswer() (time.Time, flowResult) {
	i := slices.Index(f.back, true)
	if i < 0 {
		return time.Time{}, flowResult{}
	}
	rest := flow{interval: f.interval, sent: f.sent[i:], back: f.back[i:]}
	r := rest.result()
	r.noise = machineNoise().since(f.before)
	return f.sent[i], r
}

// flowResult says what a flow lost.
type flowResult struct {
	sent, lost int
	outage     time.Duration // the longest time from a lost datagram to the next one that came back
	noise      noise         // of the machine meanwhile
}

// hiccup bounds what may be the fault of noise.
const hiccup = 50 * time.Millisecond

// excused reports whether a loss is no finding: other programs keep the machine so busy that it drops packets by itself.
func (r flowResult) excused() bool {
	return r.lost > 0 && (r.lost <= r.noise.queues || r.noise.neighbours > 0) && r.outage < hiccup
}

// loss is the error of a flow that may not lose anything.
func (r flowResult) loss() error {
	if r.lost == 0 || r.excused() {
		return nil
	}
	return fmt.Errorf("%d of %d packets lost, %s; meanwhile %v", r.lost, r.sent, ms(r.outage), r.noise)
}

func (r flowResult) String() string {
	s := fmt.Sprintf("%d of %d lost", r.lost, r.sent)
	if r.excused() {
		s += fmt.Sprintf(", not counted: meanwhile %v", r.noise)
	}
	return s
}

func (f *flow) result() flowResult {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := flowResult{sent: len(f.sent)}
	var since time.Time
	for i, ok := range f.back {
		switch {
		case !ok:
			r.lost++
			if since.IsZero() {
				since = f.sent[i]
			}
		case !since.IsZero():
			r.outage = max(r.outage, f.sent[i].Sub(since))
			since = time.Time{}
		}
	}
	if !since.IsZero() {
		r.outage = max(r.outage, f.sent[len(f.sent)-1].Sub(since)+f.interval)
	}
	return r
}
