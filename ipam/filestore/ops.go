package filestore

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// fileOps are the system calls that the store makes. Tests put faults here.
type fileOps interface {
	open(dir int, name string, flags int) (fd int, err error) // regular files: 0600, never following a symbolic link
	openDir(path string) (fd int, err error)
	close(fd int) error
	pread(fd int, b []byte, off int64) (int, error)
	pwrite(fd int, b []byte, off int64) (int, error)
	fallocate(fd int, off, n int64) error
	ftruncate(fd int, size int64) error
	fdatasync(fd int) error
	fsync(fd int) error
	stat(fd int) (fileStat, error)
	statAt(dir int, name string) (fileStat, error)
	rename(dir int, from, to string) error
	statPath(path string) (fileStat, error)
	link(dir int, from, to string) error
	unlink(dir int, name string) error
	tryLock(fd int) error // EWOULDBLOCK while another one holds it
	unlock(fd int) error
}

// fileStat is what the store wants to know about a file.
type fileStat struct {
	dev, ino uint64
	size     int64
	perm     uint32
	uid      uint32
	regular  bool
	dir      bool
}

func (a fileStat) same(b fileStat) bool { return a.dev == b.dev && a.ino == b.ino }

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// readAt fills b, or as much of it as the file has.
func readAt(o fileOps, fd int, b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n := 0
		err := retry(func() (err error) { n, err = o.pread(fd, b[done:], off+int64(done)); return err })
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// writeAt writes all of b.
func writeAt(o fileOps, fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n := 0
		err := retry(func() (err error) { n, err = o.pwrite(fd, b, off); return err })
		if err != nil {
			return err
		}
		if n <= 0 {
			return io.ErrShortWrite
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// checkFile refuses what cannot be a file of the store.
func checkFile(path string, st fileStat) error {
	switch {
	case st.dir:
		return fmt.Errorf("%s: %w, want a regular file", path, syscall.EISDIR)
	case !st.regular:
		return fmt.Errorf("%s: want a regular file", path)
	case st.perm&0o022 != 0:
		return fmt.Errorf("%s: mode %04o: want a file that group and others cannot write", path, st.perm)
	}
	return nil
}
