package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is how long another installer may take: it writes a few megabytes.
const lockPatience = 30 * time.Second

// put writes name in dir if it is not there as it should be.
func put(ctx context.Context, dir, name string, data []byte, mode fs.FileMode) (changed bool, err error) {
	d, err := openDir(ctx, dir)
	if err != nil {
		return false, err
	}
	defer d.close()
	temp := "." + name + ".podnet-tmp" // a fixed name, so that a killed run leaves at most one; no extension that a runtime reads
	if same, err := d.stands(name, data, mode); err != nil || same {
		return false, errors.Join(err, d.removeIfThere(temp))
	}
	if err := d.write(temp, data, mode); err != nil {
		return false, errors.Join(fmt.Errorf("write %s: %w", filepath.Join(dir, name), err), d.removeIfThere(temp))
	}
	if err := d.root.Rename(temp, name); err != nil {
		return false, errors.Join(err, d.removeIfThere(temp))
	}
	return true, d.self.Sync()
}

// remove removes name from dir, durably.
func remove(ctx context.Context, dir, name string) error {
	d, err := openDir(ctx, dir)
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.removeIfThere(name); err != nil {
		return err
	}
	return d.self.Sync()
}

// directory is one that only root may write to, and that we have locked.
type directory struct {
	root *os.Root
	self *os.File
}

func openDir(ctx context.Context, path string) (*directory, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("directory %q: want an absolute path", path)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	if err := checkDir(filepath.Clean(path)); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	d := &directory{root, self}
	if err := d.lock(ctx); err != nil {
		d.close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return d, nil
}

func (d *directory) close() { // gives the lock back
	d.self.Close()
	d.root.Close()
}

// checkDir refuses a directory in which, or in whose parents, somebody else could replace what we write.
func checkDir(path string) error {
	if target, err := os.Readlink(path); err == nil {
		return fmt.Errorf("%s: is a symbolic link to %s: give that path", path, target)
	}
	path, err := filepath.EvalSymlinks(path) // of the parents, such as /var/run
	if err != nil {
		return err
	}
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s: want a directory", p)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if uid := int(owner.Uid); uid != 0 && uid != os.Geteuid() {
			return fmt.Errorf("%s: belongs to user %d, who could replace what root runs: want root as its owner. On the node: chown root:root %s", p, uid, p)
		}
		writable := info.Mode().Perm() & 0o002
		if owner.Gid != 0 {
			writable |= info.Mode().Perm() & 0o020
		}
		if writable != 0 && (p == path || info.Mode()&fs.ModeSticky == 0) {
			return fmt.Errorf("%s: mode %04o lets others replace what root runs: want it writable by root only. On the node: chmod go-w %s", p, info.Mode().Perm(), p)
		}
		if p == "/" {
			return nil
		}
	}
}

func (d *directory) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(d.self.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process holds it: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// stands reports whether the file is there as it should be.
func (d *directory) stands(name string, data []byte, mode fs.FileMode) (bool, error) {
	info, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return false, fmt.Errorf("%s: is a directory: want a file", filepath.Join(d.root.Name(), name))
	}
	owner := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || info.Mode() != mode || int(owner.Uid) != os.Geteuid() || info.Size() != int64(len(data)) {
		return false, nil
	}
	return d.reads(name, data)
}

// reads compares the file with data.
func (d *directory) reads(name string, data []byte) (bool, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	have, err := io.ReadAll(io.LimitReader(f, int64(len(data))+1))
	return hash(have) == hash(data), err
}

func (d *directory) write(name string, data []byte, mode fs.FileMode) error {
	if err := d.removeIfThere(name); err != nil {
		return err
	}
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	same, err := d.reads(name, data)
	if err == nil && !same {
		err = errors.New("what was written reads differently: the disk is broken")
	}
	return err
}

func (d *directory) removeIfThere(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readRegular reads a file that is no link, device or pipe.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s: is a symbolic link: want a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s: want a regular file of at most %d bytes", path, limit)
	}
	return io.ReadAll(f)
}
