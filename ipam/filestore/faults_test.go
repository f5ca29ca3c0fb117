package filestore

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/podnet/podnet/ipam"
)

// faulty is fileOps with faults: fail is asked before each call, and the call fails with what it returns.
type faulty struct {
	fileOps
	fail  func(op string) error
	short bool // pwrite writes only a part before it fails
	calls []string
}

func (f *faulty) call(op string) error {
	f.calls = append(f.calls, op)
	if f.fail == nil {
		return nil
	}
	return f.fail(op)
}

func (f *faulty) open(dir int, name string, flags int) (int, error) {
	if err := f.call("open " + name); err != nil {
		return -1, err
	}
	return f.fileOps.open(dir, name, flags)
}

func (f *faulty) pread(fd int, b []byte, off int64) (int, error) {
	if err := f.call("pread"); err != nil {
		return 0, err
	}
	return f.fileOps.pread(fd, b, off)
}

func (f *faulty) pwrite(fd int, b []byte, off int64) (int, error) {
	if err := f.call("pwrite"); err != nil {
		if f.short && len(b) > 1 {
			_, _ = f.fileOps.pwrite(fd, b[:len(b)/2], off)
		}
		return 0, err
	}
	if f.short && len(b) > 1 {
		b = b[:len(b)/2]
	}
	return f.fileOps.pwrite(fd, b, off)
}

func (f *faulty) fallocate(fd int, off, n int64) error {
	if err := f.call("fallocate"); err != nil {
		return err
	}
	return f.fileOps.fallocate(fd, off, n)
}

func (f *faulty) ftruncate(fd int, size int64) error {
	if err := f.call("ftruncate"); err != nil {
		return err
	}
	return f.fileOps.ftruncate(fd, size)
}

func (f *faulty) fdatasync(fd int) error {
	if err := f.call("fdatasync"); err != nil {
		return err
	}
	return f.fileOps.fdatasync(fd)
}

func (f *faulty) fsync(fd int) error {
	if err := f.call("fsync"); err != nil {
		return err
	}
	return f.fileOps.fsync(fd)
}

func (f *faulty) stat(fd int) (fileStat, error) {
	if err := f.call("fstat"); err != nil {
		return fileStat{}, err
	}
	return f.fileOps.stat(fd)
}

func (f *faulty) statAt(dir int, name string) (fileStat, error) {
	if err := f.call("fstatat " + name); err != nil {
		return fileStat{}, err
	}
	return f.fileOps.statAt(dir, name)
}

func (f *faulty) rename(dir int, from, to string) error {
	if err := f.call("rename"); err != nil {
		return err
	}
	return f.fileOps.rename(dir, from, to)
}

func (f *faulty) unlink(dir int, name string) error {
	if err := f.call("unlink " + name); err != nil {
		return err
	}
	return f.fileOps.unlink(dir, name)
}

func (f *faulty) tryLock(fd int) error {
	if err := f.call("flock"); err != nil {
		return err
	}
	return f.fileOps.tryLock(fd)
}

func newFaulty(t testing.TB) *faulty {
	t.Helper()
	ops, err := systemOps()
	if err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	return &faulty{fileOps: noSync{ops}}
}

// scenario is something done to a store with leases of owners 0 to 2.
type scenario struct {
	name string
	// prepare makes the store, without faults. Leases of owners 0 to 2 must survive whatever comes.
	prepare func(t *testing.T, dir string)
	run     func(p *ipam.PodAllocator) error
	// acked says which lease the acknowledged run has made (or released).
	makes, frees []int
}

func threeLeases(t *testing.T, dir string) {
	p := mustAllocator(t, quickOpen(t, dir, Options{}), podConfig)
	for i := range 3 {
		mustAllocate(t, p, ownerN(i))
	}
}

var scenarios = []scenario{
	{
		name:    "allocate",
		prepare: threeLeases,
		run:     func(p *ipam.PodAllocator) error { _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); return err },
		makes:   []int{9},
	},
	{
		name:    "first use",
		prepare: func(*testing.T, string) {},
		run:     func(p *ipam.PodAllocator) error { _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); return err },
		makes:   []int{9},
	},
	{
		name: "allocate with growth",
		prepare: func(t *testing.T, dir string) {
			s := quickOpen(t, dir, Options{})
			threeLeases(t, dir)
			must(t, s.Update(bg, func(tx ipam.Tx) error { // fill the file without 250 syncs
				for i := 3; i < growSlots; i++ {
					r := ipam.Record{Owner: ownerN(i + 1000), Addrs: podRecord(i + 1000), Seq: uint64(i)}
					if _, err := tx.Put(-1, r); err != nil {
						return err
					}
				}
				return nil
			}))
		},
		run:   func(p *ipam.PodAllocator) error { _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); return err },
		makes: []int{9},
	},
	{
		name: "release",
		prepare: func(t *testing.T, dir string) {
			threeLeases(t, dir)
			mustAllocate(t, mustAllocator(t, quickOpen(t, dir, Options{}), podConfig), ownerN(7))
		},
		run:   func(p *ipam.PodAllocator) error { return p.Release(bg, ownerN(7)) },
		frees: []int{7},
	},
	{
		name: "release of many",
		prepare: func(t *testing.T, dir string) {
			threeLeases(t, dir)
			p := mustAllocator(t, quickOpen(t, dir, Options{}), podConfig)
			mustAllocate(t, p, ownerN(7))
			mustAllocate(t, p, ownerN(8))
		},
		run: func(p *ipam.PodAllocator) error {
			_, err := p.Retain(bg, []ipam.Owner{ownerN(0), ownerN(1), ownerN(2)})
			return err
		},
		frees: []int{7, 8},
	},
	{
		name: "allocate after a crash",
		prepare: func(t *testing.T, dir string) {
			threeLeases(t, dir)
			s := quickOpen(t, dir, Options{})
			must(t, s.Update(bg, func(ipam.Tx) error { return s.publish(s.shared.version+1, stateWriting) }))
		},
		run:   func(p *ipam.PodAllocator) error { _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); return err },
		makes: []int{9},
	},
	{
		name: "allocate after the loss of the header",
		prepare: func(t *testing.T, dir string) {
			threeLeases(t, dir)
			edit(t, dir, func(b []byte) []byte { clear(b[:headerSize]); return b })
		},
		run:   func(p *ipam.PodAllocator) error { _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); return err },
		makes: []int{9},
	},
}

// podRecord returns addresses that no test of few leases meets.
func podRecord(i int) []prefix { return []prefix{v4(i), v6(i)} }

var errCrash = errors.New("the process is dead")

// TestFaultAtEachCall runs each scenario once per system call it makes and per fault: that call fails, once or from then on, or the process
// dies there. What was acknowledged stays, what failed leaves nothing that the next try does not clear.
func TestFaultAtEachCall(t *testing.T) {
	faults := []struct {
		name  string
		err   error
		stays bool
		short bool
	}{
		{"ENOSPC", syscall.ENOSPC, false, false},
		{"ENOSPC for good", syscall.ENOSPC, true, false},
		{"EIO", syscall.EIO, false, false},
		{"EIO after a short write", syscall.EIO, false, true},
		{"EIO for good", syscall.EIO, true, false},
		{"EROFS for good", syscall.EROFS, true, false},
		{"EMFILE", syscall.EMFILE, false, false},
		{"EINTR", syscall.EINTR, false, true},
		{"crash", errCrash, true, true},
	}
	points := 0
	for _, sc := range scenarios {
		for _, fault := range faults {
			if testing.Short() && (fault.stays || fault.short) && fault.err != errCrash {
				continue
			}
			t.Run(sc.name+"/"+fault.name, func(t *testing.T) {
				for n := 0; ; n++ {
					fired, op := runFault(t, sc, n, fault.err, fault.stays, fault.short)
					if t.Failed() {
						t.Fatalf("fault at call %d (%s)", n, op)
					}
					if !fired {
						return
					}
					points++
				}
			})
		}
	}
	t.Logf("%d fault points", points)
}

func runFault(t *testing.T, sc scenario, n int, fault error, stays, short bool) (fired bool, at string) {
	t.Helper()
	dir := stateDir(t)
	sc.prepare(t, dir)
	before := leasesOfIfAny(t, dir)
	ops := newFaulty(t)
	ops.short = short
	s, err := open(dir, Options{}, ops)
	if err != nil {
		t.Fatal(err)
	}
	p := mustAllocator(t, s, podConfig)
	ops.calls = nil
	ops.fail = func(op string) error {
		if i := len(ops.calls) - 1; i == n || i > n && stays {
			if i == n {
				fired, at = true, op
			}
			return fault
		}
		return nil
	}
	err = sc.run(p)
	if errors.Is(fault, syscall.EINTR) && err != nil && retried(at) {
		t.Errorf("interrupted %s: %v", at, err)
	}
	if err == nil && slices.Contains([]string{"fdatasync"}, at) && !errors.Is(fault, syscall.EINTR) && sc.name != "allocate after a crash" {
		t.Errorf("%s failed, and the call says success", at)
	}
	ops.fail, ops.short = nil, false
	if errors.Is(fault, errCrash) {
		must(t, s.closeAll())
	}
	checkLeases(t, "after the fault", leasesOf(t, dir, Options{}), before, sc, err == nil)
	if !errors.Is(fault, errCrash) { // the same process goes on
		must(t, sc.run(p))
		checkLeases(t, "second try", leasesOf(t, dir, Options{}), before, sc, true)
		must(t, s.Close())
	}
	other := quickOpen(t, dir, Options{})
	must(t, sc.run(mustAllocator(t, other, podConfig)))
	checkLeases(t, "another process", leasesOf(t, dir, Options{}), before, sc, true)
	most := 0
	if short && errors.Is(fault, errCrash) {
		most++ // half a slot in the page cache
	}
	if sc.name == "allocate after the loss of the header" {
		most++
	}
	if st := stats(t, other); st.Bad > most {
		t.Errorf("bad records: %+v", st)
	}
	must(t, other.Close())
	mustBeEmptyAfterRelease(t, dir, Options{})
	return fired, at
}

func retried(op string) bool {
	return slices.Contains([]string{"pread", "pwrite", "fallocate", "fdatasync", "fsync", "flock"}, op)
}

// leasesOfIfAny does not make the store, which is the scenario's to make.
func leasesOfIfAny(t *testing.T, dir string) map[ipam.Owner]addr {
	t.Helper()
	if ops := newFaulty(t); func() bool { _, err := ops.statPath(dir); return err != nil }() {
		return nil
	}
	ops := newFaulty(t)
	fd, err := ops.openDir(dir)
	must(t, err)
	defer ops.close(fd)
	data, err := ops.open(fd, dataName, syscall.O_RDONLY)
	must(t, err)
	defer ops.close(data)
	b, err := readSlots(ops, data)
	must(t, err)
	boot, err := readBootID(defaultBootIDPath)
	must(t, err)
	got, d := make(map[ipam.Owner]addr), decoder{boot: boot}
	for i := 0; i < len(b); i += slotSize {
		if r, state := d.decode(b[i:i+slotSize], i/slotSize); state == slotValid && r.Released.IsZero() {
			got[r.Owner] = r.Addrs[0].Addr()
		}
	}
	return got
}

func checkLeases(t *testing.T, when string, got, before map[ipam.Owner]addr, sc scenario, acked bool) {
	t.Helper()
	for o, a := range before {
		if i := slices.IndexFunc(sc.frees, func(n int) bool { return ownerN(n) == o }); i >= 0 {
			if _, there := got[o]; there && acked {
				t.Errorf("%s: %s is still there after its acknowledged release", when, o)
			}
			continue
		}
		if got[o] != a {
			t.Errorf("%s: %s had %s and has %s", when, o, a, got[o])
		}
	}
	for _, n := range sc.makes {
		if _, there := got[ownerN(n)]; acked && !there {
			t.Errorf("%s: %s was acknowledged and is not there", when, ownerN(n))
		}
	}
	if most := len(before) + len(sc.makes); len(got) > most {
		t.Errorf("%s: %d leases, want at most %d", when, len(got), most)
	}
}

// TestFailedSyncNeverSucceedsLater: after a failed sync the old inode is never trusted again, even if its next sync says success.
func TestFailedSyncNeverSucceedsLater(t *testing.T) {
	dir := stateDir(t)
	threeLeases(t, dir)
	ops := newFaulty(t)
	s, err := open(dir, Options{}, ops)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	old := s.dataID
	failures := 0
	ops.fail = func(op string) error { // the first sync fails, and there is no new file either
		if op == "fdatasync" && failures == 0 || op == "open "+newName {
			failures++
			return syscall.EIO
		}
		return nil
	}
	p := mustAllocator(t, s, podConfig)
	if _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("allocate: %v", err)
	}
	ops.calls = nil
	if _, err := p.Allocate(bg, ownerN(9), ipam.Request{}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("allocate while no new file can be made: %v", err)
	}
	if slices.Contains(ops.calls, "fdatasync") {
		t.Errorf("the failed file was synced again: %v", ops.calls)
	}
	ops.fail = nil
	must(t, p.Release(bg, ownerN(2)))
	if s.dataID.same(old) {
		t.Error("still the file whose sync failed")
	}
	if got := leasesOf(t, dir, Options{}); len(got) != 2 {
		t.Errorf("leases: %v", got)
	}
}

// TestOneSync counts the system calls of one allocation: one sync, and 14 in all for a process that begins, 10 for one that goes on.
func TestOneSync(t *testing.T) {
	dir := stateDir(t)
	threeLeases(t, dir)
	ops := newFaulty(t)
	s, err := open(dir, Options{}, ops)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	p := mustAllocator(t, s, podConfig)
	for i := range 3 {
		ops.calls = nil
		mustAllocate(t, p, ownerN(10+i))
		syncs := 0
		for _, c := range ops.calls {
			if c == "fdatasync" || c == "fsync" {
				syncs++
			}
		}
		if syncs != 1 || len(ops.calls) > 14 || i > 0 && len(ops.calls) > 10 {
			t.Errorf("allocation %d: %d calls, %d syncs: %v", i, len(ops.calls), syncs, ops.calls)
		}
	}
	ops.calls = nil
	_, err = p.Lookup(bg, ownerN(10))
	must(t, err)
	if fmt.Sprint(ops.calls) != "[flock fstatat lock pread fstatat leases]" {
		t.Errorf("lookup: %v", ops.calls)
	}
}

// TestFullDiskAfterFailedSync: a full disk is no reason to trust a file whose sync has failed.
func TestFullDiskAfterFailedSync(t *testing.T) {
	for _, test := range []struct {
		state uint64
		works bool
	}{{stateWriting, true}, {stateFailed, false}} {
		dir := stateDir(t)
		threeLeases(t, dir)
		ops := newFaulty(t)
		s, err := open(dir, Options{}, ops)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		must(t, s.Update(bg, func(ipam.Tx) error { return s.publish(s.shared.version+1, test.state) }))
		ops.fail = func(op string) error {
			if op == "open "+newName {
				return syscall.ENOSPC
			}
			return nil
		}
		if err := mustAllocator(t, s, podConfig).Release(bg, ownerN(1)); (err == nil) != test.works || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("state %d: %v", test.state, err)
		}
	}
}
