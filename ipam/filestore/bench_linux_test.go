package filestore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/ipam"
)

// fillStore makes a store with so many leases, in few syncs.
func fillStore(b *testing.B, leases int) (dir string, s *Store) {
	b.Helper()
	dir = filepath.Join(b.TempDir(), "state")
	s = mustOpen(b, dir, Options{})
	must(b, s.Update(bg, func(tx ipam.Tx) error {
		for i := range leases {
			r := ipam.Record{Owner: ownerN(i), Addrs: []prefix{v4(i + 2), v6(i + 2)}, Seq: uint64(i) + 1}
			if _, err := tx.Put(-1, r); err != nil {
				return err
			}
		}
		return nil
	}))
	return dir, s
}

// BenchmarkDurable compares one acknowledged step of the store (an allocation or a release) with the least that a disk needs for
// 256 durable bytes: an append, or a write in place, each with fdatasync.
func BenchmarkDurable(b *testing.B) {
	for _, leases := range []int{1000, 65000} {
		b.Run(fmt.Sprintf("Store/%d", leases), func(b *testing.B) {
			_, s := fillStore(b, leases)
			p := mustAllocator(b, s, podConfig)
			o, held := ipam.Owner{ContainerID: "bench", Ifname: "eth0"}, false
			if _, err := p.Stats(bg); err != nil { // build the index
				b.Fatal(err)
			}
			for b.Loop() {
				var err error
				if held {
					err = p.Release(bg, o)
				} else {
					_, err = p.Allocate(bg, o, ipam.Request{})
				}
				if held = !held; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, inPlace := range []bool{false, true} {
		name := map[bool]string{false: "bare append", true: "bare write in place"}[inPlace]
		b.Run(name, func(b *testing.B) {
			f, err := os.OpenFile(filepath.Join(b.TempDir(), "file"), os.O_CREATE|os.O_RDWR, 0o600)
			must(b, err)
			b.Cleanup(func() { f.Close() })
			_, err = f.Write(make([]byte, 1<<20))
			must(b, err)
			must(b, f.Sync())
			record := make([]byte, slotSize)
			off := int64(1 << 20)
			if inPlace {
				off = 8192
			}
			for b.Loop() {
				_, err := unix.Pwrite(int(f.Fd()), record, off)
				must(b, err)
				must(b, unix.Fdatasync(int(f.Fd())))
				if !inPlace {
					off += slotSize
				}
			}
		})
	}
}

// BenchmarkColdAllocate is what a process does that lives for one ADD: open, read all, allocate, close. What it costs beside BenchmarkDurable is
// the reading.
func BenchmarkColdAllocate(b *testing.B) {
	for _, leases := range []int{1, 1000, 65000} {
		b.Run(fmt.Sprint(leases), func(b *testing.B) {
			dir, s := fillStore(b, leases)
			must(b, s.Close())
			o := ipam.Owner{ContainerID: "bench", Ifname: "eth0"}
			for b.Loop() {
				s, err := Open(dir, Options{})
				must(b, err)
				p := mustAllocator(b, s, podConfig)
				_, err = p.Allocate(bg, o, ipam.Request{})
				must(b, err)
				b.StopTimer()
				must(b, p.Release(bg, o))
				b.StartTimer()
				must(b, s.Close())
			}
		})
	}
}

// BenchmarkColdLookup is the reading alone.
func BenchmarkColdLookup(b *testing.B) {
	for _, leases := range []int{1, 1000, 65000} {
		b.Run(fmt.Sprint(leases), func(b *testing.B) {
			dir, s := fillStore(b, leases)
			must(b, s.Close())
			for b.Loop() {
				s, err := Open(dir, Options{})
				must(b, err)
				_, err = mustAllocator(b, s, podConfig).Lookup(bg, ownerN(0))
				must(b, err)
				must(b, s.Close())
			}
		})
	}
}
