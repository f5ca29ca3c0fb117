package filestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const lockName = "lock"

// shared is what the processes of one boot tell each other in the lock file. It is never synced: after a power cut those processes are gone.
type shared struct {
	version uint64 // see ipam.Tx; never 0
	state   uint64
}

// States of the data file.
const (
	stateClean   = 0 // what it says is on the disk
	stateWriting = 1 // somebody writes; if he is gone, he died on the way
	stateFailed  = 2 // a write or sync failed, and so did the attempt to put a good file in its place
)

const lockMagic = 0x4b4c4d4150494e50 // "PNIPAMLK"

// lock takes the lock of the directory, and reads what the others left in the lock file.
func (s *Store) lock(ctx context.Context) error {
	path := filepath.Join(s.path, lockName)
	start := time.Now()
	wait := 50 * time.Microsecond
	for {
		if err := s.openLock(); err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		err := retry(func() error { return s.ops.tryLock(s.lockFD) })
		if err == nil {
			if s.lockIsCurrent() == nil {
				s.readShared()
				return nil
			}
			s.closeLock() // somebody replaced the file while we waited: those who came later lock the new one
			err = syscall.EWOULDBLOCK
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if waited := time.Since(start); waited > s.o.LockTimeout {
			return &LockTimeoutError{path, s.o.LockTimeout}
		}
		// Polling, because a blocking flock cannot be given up. A holder is done after one sync, a millisecond or so. The random
		// part keeps waiters out of step.
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("lock %s: %w", path, ctx.Err())
		}
		wait = min(2*wait, 4*time.Millisecond)
	}
}

// openLock opens the lock file, and makes it if need be. If the directory was replaced, it starts anew in the new one.
func (s *Store) openLock() error {
	if s.dir >= 0 {
		if st, err := s.ops.statPath(s.path); err != nil || !st.same(s.dirID) {
			if err := s.closeAll(); err != nil {
				return err
			}
		}
	}
	if s.lockFD >= 0 {
		return nil
	}
	if s.dir < 0 {
		if err := s.openDir(); err != nil {
			return err
		}
	}
	fd, err := s.ops.open(s.dir, lockName, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	st, err := s.ops.stat(fd)
	if err == nil {
		err = checkFile(lockName, st)
	}
	if err != nil {
		s.ops.close(fd)
		return err
	}
	s.lockFD, s.lockID = fd, st
	return nil
}

func (s *Store) closeLock() {
	s.ops.close(s.lockFD)
	s.lockFD = -1
}

// lockIsCurrent says whether the lock file that is open is the one that others will open.
func (s *Store) lockIsCurrent() error {
	st, err := s.ops.statAt(s.dir, lockName)
	if err != nil {
		return fmt.Errorf("lock file: %w", err)
	}
	if !st.same(s.lockID) {
		return errors.New("lock file was replaced")
	}
	return nil
}

func (s *Store) unlock() {
	if s.lockFD >= 0 && s.ops.unlock(s.lockFD) != nil {
		s.closeLock() // closing unlocks, too
	}
}

// readShared reads the lock file. One that says nothing is new, or comes from a crash: nobody's version fits, and what the data file says
// may not be on the disk.
func (s *Store) readShared() {
	var b [24]byte
	n, err := readAt(s.ops, s.lockFD, b[:], 0)
	if err != nil || n < len(b) || binary.LittleEndian.Uint64(b[:]) != lockMagic {
		s.shared = shared{rand.Uint64() | 1, stateWriting}
		return
	}
	s.shared = shared{binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}
}

// publish moves to the next version and tells the others the state of the data file.
func (s *Store) publish(version, state uint64) error {
	if version == 0 {
		version = 1
	}
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], lockMagic)
	binary.LittleEndian.PutUint64(b[8:], version)
	binary.LittleEndian.PutUint64(b[16:], state)
	if err := writeAt(s.ops, s.lockFD, b[:], 0); err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	s.shared = shared{version, state}
	return nil
}
