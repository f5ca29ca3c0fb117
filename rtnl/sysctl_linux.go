package rtnl

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl reads a setting, without the final newline. See Sysctl for the form of its name.
func (c *Conn) Sysctl(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var value []byte
	var err error
	if name != osRelease {
		err = checkSysctl(name)
	}
	if err == nil {
		err = c.inNetns(func() (err error) {
			value, err = os.ReadFile("/proc/sys/" + name)
			return err
		})
	}
	if err != nil {
		return "", sysctlError("sysctl get", name, err)
	}
	return strings.TrimSuffix(string(value), "\n"), nil
}

func (c *Conn) setSysctl(s Sysctl) error {
	if err := checkSysctl(s.Name); err != nil {
		return sysctlError("sysctl set", s.String(), err)
	}
	err := c.inNetns(func() error {
		f, err := os.OpenFile("/proc/sys/"+s.Name, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		defer f.Close() // procfs acts in write; close reports nothing
		_, err = io.WriteString(f, s.Value)
		return err
	})
	if err != nil {
		return sysctlError("sysctl set", s.String(), err)
	}
	return nil
}

// osRelease is the kernel's release: no setting, but vxlan's default depends on it, and so it can be read through the same seam.
const osRelease = "kernel/osrelease"

// checkSysctl allows settings of the network namespace only.
func checkSysctl(name string) error {
	if !strings.HasPrefix(name, "net/") || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return unix.EINVAL
	}
	return nil
}

func sysctlError(op, object string, err error) error {
	wrapped := asError(op, object, err)
	if e, ok := errors.AsType[*Error](wrapped); ok {
		e.Missing = e.Errno == unix.ENOENT
	}
	return wrapped
}
