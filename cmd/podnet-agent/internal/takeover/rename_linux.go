package takeover

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Do renames the device in the calling thread's network namespace. A device that is up can be renamed since Linux 6.2; before, it is an error that
// matches syscall.EBUSY, and nothing has changed.
func (r Rename) Do() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("rename %s: %w", r.From, err)
	}
	defer unix.Close(fd)
	var request struct { // struct ifreq, whose second half is the new name
		from, to [unix.IFNAMSIZ]byte
		_        [8]byte
	}
	copy(request.from[:unix.IFNAMSIZ-1], r.From)
	copy(request.to[:unix.IFNAMSIZ-1], r.To)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFNAME, uintptr(unsafe.Pointer(&request)))
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, unix.EBUSY):
		return fmt.Errorf("rename %s to %s: %w: before Linux 6.2 a device that is up keeps its name: restart the node between the two, or take the device down", r.From, r.To, errno)
	}
	return fmt.Errorf("rename %s to %s: %w", r.From, r.To, errno)
}
