package filestore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/ipamtest"
)

func TestContract(t *testing.T) {
	ipamtest.TestStore(t, func(t *testing.T) (ipam.Store, func() ipam.Store) {
		dir := stateDir(t)
		return mustOpen(t, dir, Options{}), func() ipam.Store { return mustOpen(t, dir, Options{}) }
	})
}

func TestModes(t *testing.T) {
	dir := stateDir(t)
	mustAllocate(t, mustAllocator(t, mustOpen(t, dir, Options{}), podConfig), ownerN(1))
	for path, want := range map[string]fs.FileMode{".": fs.ModeDir | 0o700, dataName: 0o600, lockName: 0o600} {
		st, err := os.Lstat(filepath.Join(dir, path))
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("directory holds %v, %v", entries, err)
	}
}

func TestNewBootDropsLeases(t *testing.T) {
	dir := stateDir(t)
	first, second := Options{BootIDPath: bootFile(t, boot1)}, Options{BootIDPath: bootFile(t, boot2)}
	p := mustAllocator(t, mustOpen(t, dir, first), podConfig)
	for i := range 10 {
		mustAllocate(t, p, ownerN(i))
	}
	damage(t, dir, 3)
	s := mustOpen(t, dir, second)
	if got := stats(t, s); got != (Stats{Slots: growSlots}) {
		t.Errorf("after the boot: %+v", got)
	}
	if got := leasesOf(t, dir, second); len(got) != 0 {
		t.Errorf("leases of the last boot: %v", got)
	}
	mustAllocate(t, mustAllocator(t, s, podConfig), ownerN(1))
	if got := stats(t, s); got != (Stats{Slots: growSlots, Records: 1}) {
		t.Errorf("one lease after the boot: %+v", got)
	}
}

// damage turns the middle of a slot around.
func damage(t testing.TB, dir string, slot int) {
	t.Helper()
	edit(t, dir, func(b []byte) []byte {
		for i := range 8 {
			b[headerSize+slot*slotSize+50+i] ^= 0xff
		}
		return b
	})
}

// edit changes the file as somebody with an editor would who keeps the inode.
func edit(t testing.TB, dir string, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, dataName)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamagedFile(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func([]byte) []byte
		left   int // of 5 leases
		bad    int
		aside  bool // the old file is kept for a look
	}{
		{"bit flip in one slot", func(b []byte) []byte { b[headerSize+100] ^= 1; return b }, 4, 1, false},
		{"torn slot", func(b []byte) []byte { clear(b[headerSize+slotSize+128 : headerSize+2*slotSize]); return b }, 4, 1, false},
		{"slot in the wrong place", func(b []byte) []byte {
			copy(b[headerSize+7*slotSize:], b[headerSize:headerSize+slotSize])
			return b
		}, 5, 1, false},
		{"part of a slot at the end", func(b []byte) []byte { return append(b, 1, 2, 3) }, 5, 0, false},
		{"cut off after two slots", func(b []byte) []byte { return b[:headerSize+2*slotSize+10] }, 2, 0, false},
		{"zero length", func([]byte) []byte { return nil }, 0, 1, true},
		{"cut off in the header", func(b []byte) []byte { return b[:20] }, 0, 1, true},
		{"header lost", func(b []byte) []byte { clear(b[:headerSize]); return b }, 5, 1, true},
		{"all zeros", func(b []byte) []byte { clear(b); return b }, 0, 1, true},
		{"foreign", func([]byte) []byte { return bytes.Repeat([]byte("not a store "), 1000) }, 0, 31, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := stateDir(t)
			live := mustAllocator(t, mustOpen(t, dir, Options{}), podConfig)
			for i := range 5 {
				mustAllocate(t, live, ownerN(i))
			}
			edit(t, dir, test.change)
			s := mustOpen(t, dir, Options{})
			p := mustAllocator(t, s, podConfig)
			leases, err := p.Leases(bg)
			if err != nil || len(leases) != test.left {
				t.Fatalf("%d leases left (%v), want %d", len(leases), err, test.left)
			}
			if got := stats(t, s); got.Bad != test.bad {
				t.Errorf("%d bad, want %d", got.Bad, test.bad)
			}
			for i := range 300 {
				mustAllocate(t, p, ownerN(i))
			}
			if got := leasesOf(t, dir, Options{}); len(got) != 300 {
				t.Errorf("%d leases, want 300", len(got))
			}
			if got := stats(t, s); got.Bad != test.bad {
				t.Errorf("%d bad after use, want %d", got.Bad, test.bad)
			}
			if _, err := os.Stat(filepath.Join(dir, asideName)); (err == nil) != test.aside {
				t.Errorf("file set aside: %v", err)
			}
			mustBeEmptyAfterRelease(t, dir, Options{})
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, dir string) Options
		want string
	}{
		{"directory in place of the file", func(t *testing.T, dir string) Options {
			must(t, os.MkdirAll(filepath.Join(dir, dataName), 0o700))
			return Options{}
		}, "is a directory"},
		{"fifo in place of the file", func(t *testing.T, dir string) Options {
			must(t, os.Mkdir(dir, 0o700))
			must(t, syscall.Mkfifo(filepath.Join(dir, dataName), 0o600))
			return Options{}
		}, "want a regular file"},
		{"symbolic link in place of the file", func(t *testing.T, dir string) Options {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, dataName)))
			return Options{}
		}, "too many levels of symbolic links"},
		{"file in place of the directory", func(t *testing.T, dir string) Options {
			must(t, os.WriteFile(dir, nil, 0o600))
			return Options{}
		}, "not a directory"},
		{"symbolic link in place of the directory", func(t *testing.T, dir string) Options {
			must(t, os.Symlink(t.TempDir(), dir))
			return Options{}
		}, "not a directory"},
		{"group-writable directory", func(t *testing.T, dir string) Options {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.Chmod(dir, 0o770))
			return Options{}
		}, "mode 0770"},
		{"world-writable file", func(t *testing.T, dir string) Options {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, dataName), nil, 0o600))
			must(t, os.Chmod(filepath.Join(dir, dataName), 0o602))
			return Options{}
		}, "mode 0602"},
		{"newer schema", func(t *testing.T, dir string) Options {
			must(t, os.Mkdir(dir, 0o700))
			h := header{schema: 3, minReader: 2}
			must(t, os.WriteFile(filepath.Join(dir, dataName), h.encode(), 0o600))
			return Options{}
		}, "schema 3 needs a reader of schema 2 or newer, this is 1"},
		{"no boot id", func(t *testing.T, dir string) Options {
			return Options{BootIDPath: filepath.Join(dir, "none")}
		}, "read boot id"},
		{"boot id of zeros", func(t *testing.T, dir string) Options {
			return Options{BootIDPath: bootFile(t, "00000000-0000-0000-0000-000000000000\n")}
		}, "want a UUID"},
		{"negative timeout", func(t *testing.T, dir string) Options { return Options{LockTimeout: -1} }, "want more than 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := stateDir(t)
			s, err := Open(dir, test.make(t, dir))
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("open: %v, want %q", err, test.want)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNewerSchemaStillReadable: a later podnet says in the header that this one may read and write its file.
func TestNewerSchemaStillReadable(t *testing.T) {
	dir := stateDir(t)
	must(t, os.Mkdir(dir, 0o700))
	h := header{schema: 2, minReader: 1}
	must(t, os.WriteFile(filepath.Join(dir, dataName), h.encode(), 0o600))
	mustAllocate(t, mustAllocator(t, mustOpen(t, dir, Options{}), podConfig), ownerN(1))
	s := mustOpen(t, dir, Options{})
	if stats(t, s).Records != 1 || s.header.schema != 2 || s.header.minReader != 1 {
		t.Errorf("%+v, header %+v", stats(t, s), s.header)
	}
}

func TestLockTimeout(t *testing.T) {
	dir := stateDir(t)
	holder, waiter := mustOpen(t, dir, Options{}), mustOpen(t, dir, Options{LockTimeout: 20 * time.Millisecond})
	must(t, holder.Update(bg, func(ipam.Tx) error {
		var e *LockTimeoutError
		err := waiter.Update(bg, func(ipam.Tx) error { return nil })
		if !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("update while another holds the lock: %v", err)
		}
		ctx, cancel := context.WithTimeout(bg, time.Millisecond)
		defer cancel()
		if err := waiter.Update(ctx, func(ipam.Tx) error { return nil }); errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("update with a context that ends while another holds the lock: %v", err)
		}
		return nil
	}))
	must(t, waiter.Update(bg, func(ipam.Tx) error { return nil }))
}

// TestStolenLock deletes the lock file while it is held: the holder must not write beside the second one that gets in.
func TestStolenLock(t *testing.T) {
	dir := stateDir(t)
	first, second := mustOpen(t, dir, Options{}), mustOpen(t, dir, Options{})
	err := first.Update(bg, func(tx ipam.Tx) error {
		must(t, os.Remove(filepath.Join(dir, lockName)))
		must(t, second.Update(bg, func(tx ipam.Tx) error {
			_, err := tx.Put(-1, ipamtest.Record(2))
			return err
		}))
		_, err := tx.Put(-1, ipamtest.Record(1))
		return err
	})
	if err == nil {
		t.Error("the holder of a deleted lock wrote")
	}
	must(t, first.Update(bg, func(tx ipam.Tx) error {
		_, err := tx.Put(-1, ipamtest.Record(1))
		return err
	}))
	if got := ipamtest.Records(t, second); len(got) != 2 {
		t.Errorf("records %v", got)
	}
}

// TestReplaced puts another file or directory in the place of the one that a long-lived process has open.
func TestReplaced(t *testing.T) {
	for _, test := range []struct {
		name    string
		replace func(t *testing.T, dir string)
	}{
		{"file deleted", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, dataName))) }},
		{"both files deleted", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, dataName)))
			must(t, os.Remove(filepath.Join(dir, lockName)))
		}},
		{"directory deleted", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) }},
		{"directory moved away", func(t *testing.T, dir string) { must(t, os.Rename(dir, dir+".old")) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := stateDir(t)
			live := mustAllocator(t, mustOpen(t, dir, Options{}), podConfig)
			mustAllocate(t, live, ownerN(1))
			test.replace(t, dir)
			a := mustAllocate(t, mustAllocator(t, mustOpen(t, dir, Options{}), podConfig), ownerN(2))
			if b := mustAllocate(t, live, ownerN(3)); a == b {
				t.Errorf("both got %s", a)
			}
			if got := leasesOf(t, dir, Options{}); len(got) != 2 {
				t.Errorf("leases %v", got)
			}
		})
	}
}

// TestRoundRobinAcrossProcesses: neither the place in the round nor the reuse delay is lost when the process ends.
func TestRoundRobinAcrossProcesses(t *testing.T) {
	dir := stateDir(t)
	cfg := podConfig
	cfg.ReuseDelay = time.Hour
	last := mustAllocate(t, mustAllocator(t, mustOpen(t, dir, Options{}), cfg), ownerN(0))
	for i := range 5 {
		s := mustOpen(t, dir, Options{})
		p := mustAllocator(t, s, cfg)
		must(t, p.Release(bg, ownerN(i)))
		must(t, s.Close())
		a := mustAllocate(t, mustAllocator(t, mustOpen(t, dir, Options{}), cfg), ownerN(i+1))
		if a != last.Next() {
			t.Errorf("after %s came %s", last, a)
		}
		last = a
	}
	st, err := mustAllocator(t, mustOpen(t, dir, Options{}), cfg).Stats(bg)
	if err != nil || st.RangeSets[0].Resting != 5 || st.RangeSets[1].Resting != 5 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, stateDir(t), Options{})
	must(t, s.Close())
	if err := s.Update(bg, func(ipam.Tx) error { return nil }); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("update of a closed store: %v", err)
	}
	must(t, s.Close())
}
