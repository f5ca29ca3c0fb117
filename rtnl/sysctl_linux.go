package rtnl

import (
	"context"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl reads a setting, without the final newline. See Sysctl for the form of its name.
func (c *Conn) Sysctl(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var value string
	err := checkSysctl(name)
	if err == nil {
		err = c.inNetns(func() (err error) {
			value, err = c.readSysctl(name)
			return err
		})
	}
	if err != nil {
		return "", sysctlError("sysctl get", name, err)
	}
	return strings.TrimSuffix(value, "\n"), nil
}

// readSysctl and writeSysctl do without package os: it would have the runtime poll the file.
func (c *Conn) readSysctl(name string) (string, error) {
	fd, err := unix.Open(c.sysctlDir+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var value []byte
	part := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, part)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(value), nil
		}
		value = append(value, part[:n]...)
	}
}

func (c *Conn) writeSysctl(s Sysctl) error {
	fd, err := unix.Open(c.sysctlDir+"/"+s.Name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(s.Value))
	return err
}

// setSysctls writes the gathered settings during one visit to the namespace: a visit costs more than a write.
func (w *writer) setSysctls() {
	if len(w.settings) == 0 {
		return
	}
	w.flush()
	settings := w.settings
	w.settings = nil
	err := w.conn.inNetns(func() error {
		for _, i := range settings {
			s := w.plan[i].Object.(Sysctl)
			err := checkSysctl(s.Name)
			if err == nil {
				err = w.conn.writeSysctl(s)
			}
			if err != nil {
				w.fail(i, sysctlError("sysctl set", s.Name+"="+s.Value, err))
			}
		}
		return nil
	})
	if err != nil {
		for _, i := range settings {
			w.fail(i, err)
		}
	}
}

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
