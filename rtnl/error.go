package rtnl

import (
	"fmt"
	"io/fs"
	"syscall"
)

// Error is a refusal by the kernel. It unwraps to its Errno, and matches [fs.ErrNotExist] and [fs.ErrExist]
// with errors.Is, whatever errno the kernel uses for that kind of object.
type Error struct {
	Op     string // "link add", "route dump", ...
	Object string // the object in iproute2 syntax
	Errno  syscall.Errno
	Detail string // the kernel's own words (NETLINK_EXT_ACK), often empty
	// Missing says that Errno means "there is no such object" for this operation: ENODEV for a link, ESRCH for a route, ENOENT for
	// a neighbour, EADDRNOTAVAIL for an address.
	Missing bool
}

func (e *Error) Error() string {
	if e.Detail != "" {
		return fmt.Sprintf("%s %s: %v (%s)", e.Op, e.Object, e.Errno, e.Detail)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Errno)
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is makes errors.Is(err, fs.ErrNotExist) and errors.Is(err, fs.ErrExist) work.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Missing
	case fs.ErrExist:
		return e.Errno == syscall.EEXIST
	}
	return false
}
