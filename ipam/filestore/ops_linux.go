package filestore

import (
	"os"

	"golang.org/x/sys/unix"
)

type linux struct{}

func systemOps() (fileOps, error) { return linux{}, nil }

func owner() uint32 { return uint32(os.Geteuid()) }

// O_NONBLOCK: a FIFO in the place of a file must not hang the open.
func (linux) open(dir int, name string, flags int) (int, error) {
	return unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
}

func (linux) openDir(path string) (int, error) {
	return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func (linux) close(fd int) error                              { return unix.Close(fd) }
func (linux) pread(fd int, b []byte, off int64) (int, error)  { return unix.Pread(fd, b, off) }
func (linux) pwrite(fd int, b []byte, off int64) (int, error) { return unix.Pwrite(fd, b, off) }
func (linux) fallocate(fd int, off, n int64) error            { return unix.Fallocate(fd, 0, off, n) }
func (linux) ftruncate(fd int, size int64) error              { return unix.Ftruncate(fd, size) }
func (linux) fdatasync(fd int) error                          { return unix.Fdatasync(fd) }
func (linux) fsync(fd int) error                              { return unix.Fsync(fd) }
func (linux) rename(dir int, from, to string) error           { return unix.Renameat(dir, from, dir, to) }
func (linux) unlink(dir int, name string) error               { return unix.Unlinkat(dir, name, 0) }
func (linux) tryLock(fd int) error                            { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }
func (linux) unlock(fd int) error                             { return unix.Flock(fd, unix.LOCK_UN) }

func (linux) stat(fd int) (fileStat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileStat{}, err
	}
	return toFileStat(&st), nil
}

func (linux) statAt(dir int, name string) (fileStat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fileStat{}, err
	}
	return toFileStat(&st), nil
}

func (o linux) statPath(path string) (fileStat, error) { return o.statAt(unix.AT_FDCWD, path) }

func (linux) link(dir int, from, to string) error { return unix.Linkat(dir, from, dir, to, 0) }

func toFileStat(st *unix.Stat_t) fileStat {
	return fileStat{
		dev: uint64(st.Dev), ino: st.Ino, size: st.Size, perm: st.Mode & 0o7777, uid: st.Uid,
		regular: st.Mode&unix.S_IFMT == unix.S_IFREG, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR,
	}
}
