package main

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFlush: somebody flushes the rules while clients talk. The kernel decides where a flow goes at its first packet, so one that began in between would lead to nobody for as long as its
// client tries, also after the repair. A UDP client that keeps its port is answered again, and a connection comes through when its SYN is sent again.
func TestFlush(t *testing.T) {
	eachMode(t, []string{"nftables", "ipvs"}, flush)
}

func flush(t *testing.T, mode string) {
	b := newBed(t)
	b.describeWeb(2, 3, 4)
	b.start("--mode", mode)
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
				if _, _, err := askWithin(b.client, "tcp", "10.96.0.10:80", max(6*time.Second, answerTime())); err != nil {
					failed.Add(1)
					t.Log(err)
				} else if time.Since(start) > 500*time.Millisecond {
					resent.Add(1)
				}
			}
		})
	}
	for range 5 {
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 20 {
			clients.Go(func() {
				if answered, err := b.changesPorts("10.96.0.10:80", stop); err != nil {
					t.Error(err)
				} else if !answered {
					silent.Add(1)
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

// changesPorts is a UDP client that takes a new port as soon as it was answered, until stop: so that some first packets come while nothing stands. It reports whether it is still answered
// on the last one.
func (b *bed) changesPorts(to string, stop <-chan struct{}) (answered bool, err error) {
	answers := func(c net.Conn, wait time.Duration) bool {
		_, _ = c.Write([]byte("x\n")) // refused: as good as silent
		_ = c.SetReadDeadline(time.Now().Add(wait))
		var buf [100]byte
		_, err := c.Read(buf[:])
		return err == nil
	}
	for {
		var c net.Conn
		if err := b.client.Do(func() (err error) { c, err = net.Dial("udp", to); return err }); err != nil {
			return false, err
		}
		for !answers(c, time.Millisecond) {
			select {
			case <-stop:
				defer c.Close()
				deadline := time.Now().Add(answerTime())
				for time.Now().Before(deadline) {
					if answers(c, 20*time.Millisecond) {
						return true, nil
					}
				}
				return false, nil
			default:
			}
		}
		c.Close()
		select {
		case <-stop:
			return true, nil
		default:
		}
	}
}
