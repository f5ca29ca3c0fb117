package filestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podnet/podnet/ipam"
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

// Store is a durable [ipam.Store] in a directory.
type Store struct{}

var _ ipam.Store = (*Store)(nil)

// Open opens the store in dir, and makes the directory (0700) and the files in it (0600) if they are not there.
func Open(dir string, o Options) (*Store, error) {
	return nil, errors.ErrUnsupported
}

// Update implements [ipam.Store].
func (s *Store) Update(ctx context.Context, fn func(ipam.Tx) error) error {
	return errors.ErrUnsupported
}

// Stats reads the file and returns its figures.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	return Stats{}, errors.ErrUnsupported
}

// Close closes the files. A closed store refuses Update.
func (s *Store) Close() error {
	return errors.ErrUnsupported
}
