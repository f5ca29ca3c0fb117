package main

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestFlush: somebody flushes the rules while clients talk. The kernel decides where a flow goes at its first packet, so one that began in between would lead to nobody for as long as its
// client tries, also after the repair. A UDP client that keeps its port is answered again, and a connection takes a second SYN at most.
func TestFlush(t *testing.T) {
	rtnltest.RequireKernel(t, "a node in a network namespace")
	b := newBed(t)
	b.describeWeb(2, 3, 4)
	b.start("--mode", "nftables")
	b.servers(b.client, "udp", "10.96.0.10:80", pod(false, 2), pod(false, 3), pod(false, 4))
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3), pod(false, 4))

	var all sync.WaitGroup
	var quit atomic.Bool
	var tries, resent, failed, silent atomic.Int64
	for range 4 {
		all.Go(func() {
			for !quit.Load() {
				start := time.Now()
				tries.Add(1)
				if _, _, err := askWithin(b.client, "tcp", "10.96.0.10:80", 6*time.Second); err != nil {
					failed.Add(1)
					t.Log(err)
				} else if time.Since(start) > 500*time.Millisecond {
					resent.Add(1)
				}
			}
		})
	}
	// Clients that send the whole time, each flush with fresh ports, so that some of their first packets come while nothing stands.
	for range 5 {
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 20 {
			clients.Go(func() {
				var c net.Conn
				for { // what is sent before its flow is recorded makes no difference: the flow begins with the flush
					if c == nil {
						if err := b.client.Do(func() (err error) { c, err = net.Dial("udp", "10.96.0.10:80"); return err }); err != nil {
							t.Error(err)
							return
						}
					}
					select {
					case <-stop: // keeps its port from here on
						defer c.Close()
						deadline := time.Now().Add(answerTime())
						for time.Now().Before(deadline) {
							if _, err := c.Write([]byte("x\n")); err != nil {
								continue
							}
							_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
							var buf [100]byte
							if _, err := c.Read(buf[:]); err == nil {
								return
							}
						}
						silent.Add(1)
						return
					default:
						_, _ = c.Write([]byte("x\n"))
						_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
						var buf [100]byte
						if _, err := c.Read(buf[:]); err == nil {
							c.Close()
							c = nil
						}
					}
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		b.run("nft", "flush", "ruleset")
		time.Sleep(300 * time.Millisecond)
		close(stop)
		clients.Wait()
	}
	quit.Store(true)
	all.Wait()
	if failed.Load() > 0 || silent.Load() > 0 {
		t.Errorf("%d of %d connections failed, %d UDP clients got no answer any more", failed.Load(), tries.Load(), silent.Load())
	}
	t.Logf("%d connections, %d needed a second SYN", tries.Load(), resent.Load())
}
