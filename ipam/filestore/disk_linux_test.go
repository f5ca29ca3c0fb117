package filestore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/ipam"
)

// needRoot skips what only root can try.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_KERNEL") == "1" {
		t.Fatal("needs root to mount, and REQUIRE_KERNEL is set")
	}
	t.Skip("needs root to mount")
}

// TestFullDisk fills a small tmpfs: the next growth fails, no lease is lost, a release works and makes room.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	mnt := t.TempDir()
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=512k,mode=0700"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) })
	dir := filepath.Join(mnt, "state")
	p := mustAllocator(t, mustOpen(t, dir, Options{}), podConfig)
	mustAllocate(t, p, ownerN(0))
	fill(t, filepath.Join(mnt, "filler"))
	n := 1
	var err error
	for ; n <= growSlots; n++ {
		if _, err = p.Allocate(bg, ownerN(n), ipam.Request{}); err != nil {
			break
		}
	}
	if n != growSlots || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("allocation %d of %d: %v, want no space after all slots", n, growSlots, err)
	}
	if got := leasesOf(t, dir, Options{}); len(got) != growSlots {
		t.Errorf("%d leases, want %d", len(got), growSlots)
	}
	must(t, p.Release(bg, ownerN(7)))
	must(t, mustAllocator(t, mustOpen(t, dir, Options{}), podConfig).Release(bg, ownerN(8)))
	mustAllocate(t, p, ownerN(1000))
	mustAllocate(t, p, ownerN(1001))
	if _, err := p.Allocate(bg, ownerN(1002), ipam.Request{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("allocation with no slot free: %v", err)
	}
	// Somebody dies in the midst of a write: no room for a new file, and a release has to work all the same.
	s := mustOpen(t, dir, Options{})
	must(t, s.Update(bg, func(ipam.Tx) error { return s.publish(s.shared.version+1, stateWriting) }))
	must(t, p.Release(bg, ownerN(9)))
	must(t, os.Remove(filepath.Join(mnt, "filler")))
	mustAllocate(t, p, ownerN(1002))
	mustAllocate(t, p, ownerN(1003))
	mustBeEmptyAfterRelease(t, dir, Options{})
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			must(t, err)
		}
	}
}

// extShutdown is EXT4_IOC_SHUTDOWN; with flag 2 (NOLOGFLUSH) nothing that is not on the disk gets there: a power cut.
const (
	extShutdown   = 0x8004587d
	extNoLogFlush = 2
)

// TestPowerCut cuts the power of an ext4 under four writers, several times.
func TestPowerCut(t *testing.T) {
	needRoot(t)
	work := t.TempDir()
	image, mnt := filepath.Join(work, "image"), filepath.Join(work, "mnt")
	must(t, os.Mkdir(mnt, 0o700))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("cannot make an ext4: %v: %s", err, out)
	}
	mount := func() {
		if out, err := exec.Command("mount", "-o", "loop", image, mnt).CombinedOutput(); err != nil {
			t.Skipf("cannot mount a loop image: %v: %s", err, out)
		}
	}
	mounted := false
	t.Cleanup(func() {
		if mounted {
			must(t, unix.Unmount(mnt, unix.MNT_DETACH))
		}
	})
	dir := filepath.Join(mnt, "state")
	l := newLedger()
	cuts := 10
	if testing.Short() {
		cuts = 3
	}
	const writers = 4
	for cut := range cuts {
		mount()
		mounted = true
		l.check(t, dir, cut*writers)
		churnUntilCut(t, l, mnt, dir, cut, writers)
		must(t, unix.Unmount(mnt, 0))
		mounted = false
	}
	mount()
	mounted = true
	l.check(t, dir, cuts*writers)
	t.Logf("%d cuts: %d leases held, %d releases acknowledged", cuts, len(l.held), len(l.gone))
	if st := stats(t, mustOpen(t, dir, Options{})); st.Bad > 0 {
		t.Errorf("bad records: %+v", st)
	}
	mustBeEmptyAfterRelease(t, dir, Options{})
}

func churnUntilCut(t *testing.T, l *ledger, mnt, dir string, cut, writers int) {
	t.Helper()
	var wg sync.WaitGroup
	steps, stop := make(chan struct{}, 1000), make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			s, err := Open(dir, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			p, err := ipam.NewPodAllocator(s, podConfig)
			for i := 0; err == nil; i++ {
				err = churnOnce(p, l, fmt.Sprintf("cut%d-w%d-%d", cut, w, i), i%3 == 0)
				select {
				case <-stop:
					return
				case steps <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 20 + 17*cut { // let them work, then cut in the midst of it
		select {
		case <-steps:
		case <-time.After(10 * time.Second):
			t.Error("the writers do not work")
		}
	}
	fd, err := unix.Open(mnt, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	err = unix.IoctlSetPointerInt(fd, extShutdown, extNoLogFlush)
	must(t, unix.Close(fd))
	if err != nil {
		close(stop)
	}
	wg.Wait()
	if err != nil {
		t.Fatalf("EXT4_IOC_SHUTDOWN: %v", err)
	}
}

func churnOnce(p *ipam.PodAllocator, l *ledger, id string, release bool) error {
	o := ipam.Owner{ContainerID: id, Ifname: "eth0"}
	got, err := p.Allocate(bg, o, ipam.Request{})
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.held[id] = got[0].Prefix.Addr().String()
	l.mu.Unlock()
	if !release {
		return nil
	}
	l.mu.Lock()
	delete(l.held, id)
	l.maybe[id] = true
	l.mu.Unlock()
	if err := p.Release(bg, o); err != nil {
		return err
	}
	l.mu.Lock()
	delete(l.maybe, id)
	l.gone[id] = true
	l.mu.Unlock()
	return nil
}
