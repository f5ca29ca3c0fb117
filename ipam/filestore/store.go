package filestore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podnet/podnet/ipam"
)

const (
	defaultLockTimeout = 30 * time.Second
	defaultBootIDPath  = "/proc/sys/kernel/random/boot_id"
)

// Options of a [Store]. The zero value works.
type Options struct {
	// LockTimeout bounds the wait for other processes. 0 means 30 s.
	LockTimeout time.Duration
	// BootIDPath is the file that names the running boot. Empty means /proc/sys/kernel/random/boot_id.
	BootIDPath string
}

// Stats are figures of a [Store].
type Stats struct {
	Slots   int // room in the file
	Records int // valid records of this boot, held or released
	Bad     int // records that cannot be read: their slots are out of use until the next boot
}

// LockTimeoutError says that other processes held the lock for too long. It matches context.DeadlineExceeded.
type LockTimeoutError struct {
	Path   string
	Waited time.Duration
}

func (e *LockTimeoutError) Error() string {
	return fmt.Sprintf("lock %s: held by another process for more than %v", e.Path, e.Waited)
}

// Is makes errors.Is(err, context.DeadlineExceeded) work.
func (e *LockTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// SchemaError says that the file was written by a newer podnet, in a form that this one cannot read.
type SchemaError struct {
	Path      string
	Schema    uint32 // of the file
	MinReader uint32 // the oldest schema whose readers may use it
	Supported uint32 // what this package reads and writes
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("%s: schema %d needs a reader of schema %d or newer, this is %d", e.Path, e.Schema, e.MinReader, e.Supported)
}

// Store is a durable [ipam.Store] in a directory. Make it with [Open].
type Store struct {
	path string
	o    Options
	ops  fileOps
	boot bootID
	gate chan struct{} // holds one token: taking it is the lock on all below, and waiting for it can end with ctx

	closed bool
	dir    int // descriptors; -1 is none
	dirID  fileStat
	lockFD int
	lockID fileStat
	dataFD int
	dataID fileStat
	header header
	shared shared // as read under the lock

	// What this process knows of the file, true while shared.version is known.
	known uint64
	slots int
	free  []int // the lowest last
}

var _ ipam.Store = (*Store)(nil)

// Open opens the store in dir, and makes the directory (0700) if it is not there. The files in it (0600) are made by the first Update.
func Open(dir string, o Options) (*Store, error) {
	ops, err := systemOps()
	if err != nil {
		return nil, err
	}
	return open(dir, o, ops)
}

func open(dir string, o Options, ops fileOps) (*Store, error) {
	if o.LockTimeout == 0 {
		o.LockTimeout = defaultLockTimeout
	}
	if o.BootIDPath == "" {
		o.BootIDPath = defaultBootIDPath
	}
	if o.LockTimeout < 0 {
		return nil, fmt.Errorf("open store %s: lock timeout %v: want more than 0", dir, o.LockTimeout)
	}
	boot, err := readBootID(o.BootIDPath)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{path: filepath.Clean(dir), o: o, ops: ops, boot: boot, gate: make(chan struct{}, 1), dir: -1, lockFD: -1, dataFD: -1}
	if err := s.openDir(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	// Without the lock, and only to say early what is wrong; the first Update looks again.
	if err := s.openData(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoHeader) {
		s.closeAll()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// readBootID reads the id of the running boot: 32 hex digits, with dashes or without.
func readBootID(path string) (bootID, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return bootID{}, fmt.Errorf("read boot id: %w", err)
	}
	var id bootID
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(b) != len(id) || bootID(b) == id {
		return bootID{}, fmt.Errorf("read boot id: %s: want a UUID", path)
	}
	return bootID(b), nil
}

// openDir makes and opens the directory, and refuses one that others may write.
func (s *Store) openDir() error {
	fd, err := s.ops.openDir(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDir(); err != nil {
			return err
		}
		fd, err = s.ops.openDir(s.path)
	}
	if err != nil {
		return fmt.Errorf("directory %s: %w", s.path, err)
	}
	st, err := s.ops.stat(fd)
	switch {
	case err != nil:
		err = fmt.Errorf("directory %s: %w", s.path, err)
	case st.perm&0o022 != 0:
		err = fmt.Errorf("directory %s: mode %04o: want one that group and others cannot write, as 0700", s.path, st.perm)
	case st.uid != owner() && st.uid != 0:
		err = fmt.Errorf("directory %s: owned by uid %d: want root or %d", s.path, st.uid, owner())
	}
	if err != nil {
		s.ops.close(fd)
		return err
	}
	s.dir, s.dirID = fd, st
	return nil
}

// makeDir makes the directory, and makes it durable in its parent.
func (s *Store) makeDir() error {
	if err := os.MkdirAll(s.path, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	parent, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer parent.Close()
	if err := parent.Sync(); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// Update implements [ipam.Store].
func (s *Store) Update(ctx context.Context, fn func(ipam.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store %s: %w", s.path, err)
	}
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("store %s: %w", s.path, ctx.Err())
	}
	defer func() { <-s.gate }()
	if s.closed {
		return fmt.Errorf("store %s: %w", s.path, fs.ErrClosed)
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	if err := s.ready(); err != nil {
		return fmt.Errorf("store %s: %w", s.path, err)
	}
	tx := tx{store: s}
	if err := fn(&tx); err != nil {
		if len(tx.writes) > 0 {
			s.known = 0 // free slots that it took are free again
		}
		return err
	}
	if len(tx.writes) == 0 {
		return nil
	}
	if err := s.commit(tx.writes); err != nil {
		s.known = 0
		return fmt.Errorf("store %s: %w", s.path, err)
	}
	return nil
}

// Stats reads the file and returns its figures.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := s.Update(ctx, func(ipam.Tx) error {
		err := s.scan(func(_ int, _ ipam.Record, state slotState) {
			switch state {
			case slotValid:
				st.Records++
			case slotBad:
				st.Bad++
			}
		})
		st.Slots = s.slots
		st.Bad += int(s.header.bad)
		return err
	})
	return st, err
}

// Close closes the files. A closed store refuses Update.
func (s *Store) Close() error {
	s.gate <- struct{}{}
	defer func() { <-s.gate }()
	s.closed = true
	return s.closeAll()
}

func (s *Store) closeAll() error {
	var errs []error
	for _, fd := range []*int{&s.dataFD, &s.lockFD, &s.dir} {
		if *fd >= 0 {
			errs = append(errs, s.ops.close(*fd))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
