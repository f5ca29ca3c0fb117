package filestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/podnet/podnet/ipam"
)

const (
	dataName  = "leases"
	newName   = "leases.new"        // never read: left behind by a crash, it is overwritten
	asideName = "leases.quarantine" // the last file without a header, for a human to look at
)

var errNoHeader = errors.New("file has no header")

// ready makes the data file fit for use: made, current, on the disk, and of this boot. The lock is held.
func (s *Store) ready() error {
	st, err := s.ops.statAt(s.dir, dataName)
	switch {
	case err == nil && s.dataFD >= 0 && st.same(s.dataID):
	case err == nil || errors.Is(err, fs.ErrNotExist):
		if err := s.reopen(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: %w", dataName, err)
	}
	if s.shared.state != stateClean {
		if err := s.settle(); err != nil {
			return err
		}
	}
	if s.header.boot != s.boot {
		return s.newBoot()
	}
	return nil
}

// openData opens the data file and reads its header.
func (s *Store) openData() error {
	s.closeData()
	path := filepath.Join(s.path, dataName)
	fd, err := s.ops.open(s.dir, dataName, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.dataFD = fd
	if s.dataID, err = s.ops.stat(fd); err == nil {
		err = checkFile(path, s.dataID)
	}
	var b [headerUsed]byte
	n := 0
	if err == nil {
		n, err = readAt(s.ops, fd, b[:], 0)
	}
	if err != nil {
		s.closeData()
		return fmt.Errorf("%s: %w", path, err)
	}
	h, ok := decodeHeader(b[:n])
	if !ok {
		s.closeData()
		return fmt.Errorf("%s: %w", path, errNoHeader)
	}
	if h.minReader > schema || h.schema < 1 {
		s.closeData()
		return &SchemaError{path, h.schema, h.minReader, schema}
	}
	s.header = h
	return nil
}

func (s *Store) closeData() {
	if s.dataFD >= 0 {
		s.ops.close(s.dataFD)
		s.dataFD = -1
	}
}

// reopen opens the data file that is there now, or makes one. Either way nobody knows what is in it.
func (s *Store) reopen() error {
	err := s.openData()
	if err == nil {
		return s.publish(s.shared.version+1, s.shared.state)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoHeader) {
		return err
	}
	if err := s.publish(s.shared.version+1, stateFailed); err != nil { // until the new file is whole
		return err
	}
	if errors.Is(err, errNoHeader) {
		err = s.salvage()
	} else {
		err = s.replace(header{schema, schema, 0, s.boot}, make([]byte, growSlots*slotSize))
	}
	if err != nil {
		return err
	}
	return s.publish(s.shared.version+1, stateClean)
}

// salvage makes a good file of one that has no header, because it was damaged or is not ours. The records of this boot that can be read are kept;
// the file stays beside the new one for a human to look at.
func (s *Store) salvage() error {
	fd, err := s.ops.open(s.dir, dataName, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("salvage: %w", err)
	}
	defer s.ops.close(fd)
	b, err := readSlots(s.ops, fd)
	if err != nil {
		return fmt.Errorf("salvage: %w", err)
	}
	h := header{schema, schema, 1, s.boot} // the header counts as one
	d := decoder{boot: s.boot}
	for i := 0; i < len(b); i += slotSize {
		_, state := d.decode(b[i:i+slotSize], i/slotSize)
		if state == slotBad {
			h.bad++
		}
		if state != slotValid {
			copy(b[i:], zeroSlot[:])
		}
	}
	if err := s.ops.unlink(s.dir, asideName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("salvage: %w", err)
	}
	// A link, not a rename: at every moment there is a file to salvage from. A file system without links loses only the souvenir.
	_ = s.ops.link(s.dir, dataName, asideName)
	return s.replace(h, append(b, make([]byte, growSlots*slotSize)...))
}

// settle makes sure of the records that a process wrote which then died, or whose write failed: it writes everything to a new file, for
// after a failed sync the old one may be called clean by the kernel and not be on the disk. An unacknowledged lease stays; the DEL or the next ADD of its owner finds it.
func (s *Store) settle() error {
	err := s.rewrite(nil)
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && s.shared.state == stateWriting {
		// No failed sync is known of, and a release must work on a full disk.
		err = retry(func() error { return s.ops.fdatasync(s.dataFD) })
	}
	if err != nil {
		return fmt.Errorf("settle what another process left: %w", err)
	}
	return s.publish(s.shared.version+1, stateClean)
}

// undo goes back to the slots as they were before a write that failed.
func (s *Store) undo(old []write) error {
	for i := range old {
		_ = writeAt(s.ops, s.dataFD, old[i].data[:], slotOffset(old[i].slot)) // for readers, should the rewrite fail, too
	}
	state := uint64(stateClean)
	err := s.rewrite(old)
	if err != nil {
		state = stateFailed
		err = fmt.Errorf("go back to the records before: %w", err)
	}
	return errors.Join(err, s.publish(s.shared.version+1, state))
}

// rewrite puts a new file with the same records in the place of the old one. Slots in patch win over the old file.
func (s *Store) rewrite(patch []write) error {
	b, err := readSlots(s.ops, s.dataFD)
	if err != nil {
		return fmt.Errorf("rewrite: %w", err)
	}
	for i := range patch {
		copy(b[patch[i].slot*slotSize:], patch[i].data[:])
	}
	return s.replace(s.header, b)
}

// replace makes a new data file durable: written, synced, renamed over the old one, and the directory synced.
func (s *Store) replace(h header, slots []byte) error {
	err := s.ops.unlink(s.dir, newName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace file: %w", err)
	}
	fd, err := s.ops.open(s.dir, newName, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return fmt.Errorf("replace file: %w", err)
	}
	id, err := s.ops.stat(fd)
	if err == nil {
		err = s.fill(fd, append(h.encode(), slots...))
	}
	if err == nil {
		err = s.ops.rename(s.dir, newName, dataName)
	}
	if err != nil {
		s.ops.close(fd)
		_ = s.ops.unlink(s.dir, newName)
		return fmt.Errorf("replace file: %w", err)
	}
	s.closeData()
	s.dataFD, s.dataID, s.header, s.known = fd, id, h, 0
	// The name may not be durable if this fails: the state must not become clean.
	if err := retry(func() error { return s.ops.fsync(s.dir) }); err != nil {
		return fmt.Errorf("replace file: sync directory: %w", err)
	}
	return nil
}

func (s *Store) fill(fd int, b []byte) error {
	if err := reserve(s.ops, fd, 0, int64(len(b))); err != nil {
		return err
	}
	if err := writeAt(s.ops, fd, b, 0); err != nil {
		return err
	}
	return retry(func() error { return s.ops.fsync(fd) })
}

// readSlots reads all slots of a file.
func readSlots(o fileOps, fd int) ([]byte, error) {
	st, err := o.stat(fd)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	b := make([]byte, slotsIn(st.size)*slotSize)
	n, err := readAt(o, fd, b, headerSize)
	if err == nil && n < len(b) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return b, nil
}

// newBoot takes over a file from before the last boot. Its leases died with their pods: no slot is valid any more, for each names its
// boot. Only slots that cannot be read are cleared, to be of use again.
func (s *Store) newBoot() error {
	var bad []int
	err := s.scan(func(slot int, _ ipam.Record, state slotState) {
		if state == slotBad {
			bad = append(bad, slot)
		}
	})
	if err != nil {
		return err
	}
	for _, slot := range bad {
		if err := writeAt(s.ops, s.dataFD, zeroSlot[:], slotOffset(slot)); err != nil {
			return fmt.Errorf("new boot: clear slot %d: %w", slot, err)
		}
	}
	h := header{s.header.schema, s.header.minReader, 0, s.boot}
	if err := writeAt(s.ops, s.dataFD, h.encode()[:headerUsed], 0); err != nil {
		return fmt.Errorf("new boot: write header: %w", err)
	}
	if err := retry(func() error { return s.ops.fdatasync(s.dataFD) }); err != nil {
		return fmt.Errorf("new boot: sync: %w", err)
	}
	s.header = h
	return s.publish(s.shared.version+1, s.shared.state)
}
