package filestore

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/podnet/podnet/ipam"
)

// growSlots is how many slots the file grows by: 64 KiB, written with zeros, so that a later lease of its own never needs room on the disk,
// and its sync writes no metadata.
const growSlots = 256

// tx is one Update.
type tx struct {
	store  *Store
	writes []write
}

type write struct {
	slot int
	data [slotSize]byte
}

func (t *tx) Version() uint64 { return t.store.shared.version }

func (t *tx) Records(visit func(int, ipam.Record)) error {
	return t.store.scan(func(slot int, r ipam.Record, state slotState) {
		if state == slotValid {
			visit(slot, r)
		}
	})
}

func (t *tx) Put(slot int, r ipam.Record) (int, error) {
	s := t.store
	if err := s.learn(); err != nil {
		return 0, fmt.Errorf("store %s: %w", s.path, err)
	}
	if slot >= s.slots {
		return 0, fmt.Errorf("store %s: put: no slot %d", s.path, slot)
	}
	fresh := slot < 0
	if fresh {
		if len(s.free) == 0 {
			if err := s.grow(); err != nil {
				return 0, fmt.Errorf("store %s: %w", s.path, err)
			}
		}
		slot = s.free[len(s.free)-1]
	}
	w := write{slot: slot}
	if err := encodeSlot(&w.data, slot, r, s.boot); err != nil {
		return 0, fmt.Errorf("store %s: %w", s.path, err)
	}
	if fresh {
		s.free = s.free[:len(s.free)-1]
	}
	t.writes = append(t.writes, w)
	return slot, nil
}

// learn makes slots and free true, if another process wrote since they were.
func (s *Store) learn() error {
	if s.known == s.shared.version {
		return nil
	}
	return s.scan(func(int, ipam.Record, slotState) {})
}

// scan reads the whole file in order, and learns which slots are free.
func (s *Store) scan(visit func(int, ipam.Record, slotState)) error {
	s.known = 0
	st, err := s.ops.stat(s.dataFD)
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	s.slots = slotsIn(st.size)
	s.free = s.free[:0]
	buf := make([]byte, min(s.slots*slotSize, 64<<10)) // a new process pays more for each fresh page of memory than for a system call
	d := decoder{boot: s.boot}
	for first := 0; first < s.slots; first += len(buf) / slotSize {
		b := buf[:min(len(buf), (s.slots-first)*slotSize)]
		n, err := readAt(s.ops, s.dataFD, b, slotOffset(first))
		if err == nil && n < len(b) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		for i := 0; i < n; i += slotSize {
			slot := first + i/slotSize
			r, state := d.decode(b[i:i+slotSize], slot)
			if state == slotEmpty {
				s.free = append(s.free, slot)
			}
			visit(slot, r, state)
		}
	}
	slices.Reverse(s.free)
	s.known = s.shared.version
	return nil
}

func slotsIn(size int64) int {
	return int(min(max(0, (size-headerSize)/slotSize), maxSlots))
}

// grow adds slots of zeros. What was there is not touched. The commit that follows syncs the new size.
func (s *Store) grow() error {
	if s.slots >= maxSlots {
		return fmt.Errorf("grow: all of %d slots are in use", maxSlots)
	}
	add := min(growSlots, maxSlots-s.slots)
	off := headerSize + int64(s.slots)*slotSize
	err := zero(s.ops, s.dataFD, off, int64(add)*slotSize)
	if err != nil {
		// Half of a growth does no harm: it is room without records. But give it back if that works.
		_ = s.ops.ftruncate(s.dataFD, off)
		return fmt.Errorf("grow: %w", err)
	}
	for i := s.slots + add - 1; i >= s.slots; i-- {
		s.free = append(s.free, i)
	}
	s.slots += add
	return nil
}

// zero writes zeros, after having asked the file system for the room, so that a full disk shows before anything is written.
func zero(o fileOps, fd int, off, n int64) error {
	if err := reserve(o, fd, off, n); err != nil {
		return err
	}
	return writeAt(o, fd, make([]byte, n), off)
}

// reserve asks for room, if the file system can promise it.
func reserve(o fileOps, fd int, off, n int64) error {
	err := retry(func() error { return o.fallocate(fd, off, n) })
	if errors.Is(err, errors.ErrUnsupported) { // ENOSYS, EOPNOTSUPP
		return nil
	}
	return err
}

// commit writes slots and syncs once.
func (s *Store) commit(writes []write) error {
	old := make([]write, 0, len(writes)) // to go back to
	for _, w := range writes {
		o := write{slot: w.slot}
		n, err := readAt(s.ops, s.dataFD, o.data[:], slotOffset(w.slot))
		if err == nil && n < slotSize {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read slot %d: %w", w.slot, err)
		}
		old = append(old, o)
	}
	// Who deletes a held lock file lets a second process in. This does not close that window, but all of it except the write itself.
	if err := s.lockIsCurrent(); err != nil {
		return err
	}
	version := s.shared.version + 1
	if err := s.publish(version, stateWriting); err != nil {
		return err
	}
	err := s.write(writes)
	if err != nil {
		return errors.Join(err, s.undo(old))
	}
	// If this fails, the next one takes the trouble to write a new file; the records are on the disk either way.
	_ = s.publish(version, stateClean)
	s.known = s.shared.version
	return nil
}

func (s *Store) write(writes []write) error {
	for i := range writes {
		if err := writeAt(s.ops, s.dataFD, writes[i].data[:], slotOffset(writes[i].slot)); err != nil {
			return fmt.Errorf("write slot %d: %w", writes[i].slot, err)
		}
	}
	if err := retry(func() error { return s.ops.fdatasync(s.dataFD) }); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func slotOffset(slot int) int64 { return headerSize + int64(slot)*slotSize }
