package rtnl

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// observeTxChecksum asks for the transmit checksum offload of a vxlan device: the link message does not tell it.
func (c *Conn) observeTxChecksum(l *Link) error {
	if l.Kind != KindVXLAN {
		return nil
	}
	on, err := c.ethtool(l.Name, unix.ETHTOOL_GTXCSUM, 0)
	if errors.Is(err, unix.ENODEV) { // gone since it was dumped: as if it had been asked first
		return nil
	}
	if err != nil {
		return asError("link get", l.Name, err)
	}
	l.TxChecksum = switchOf(on != 0)
	return nil
}

// setTxChecksum switches tx-checksum-ip-generic of a vxlan device.
func (c *Conn) setTxChecksum(name string, s Switch) error {
	var data uint32
	if s == On {
		data = 1
	}
	_, err := c.ethtool(name, unix.ETHTOOL_STXCSUM, data)
	return err
}

// ethtool does an ethtool command that takes or gives one number (struct ethtool_value).
func (c *Conn) ethtool(name string, command, data uint32) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return 0, errClosed
	}
	if c.ioctl < 0 {
		if err := c.ns.do(func() (err error) {
			c.ioctl, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			return err
		}); err != nil {
			return 0, fmt.Errorf("rtnl: ethtool socket: %w", err)
		}
	}
	value := struct{ command, data uint32 }{command, data}
	var request struct { // struct ifreq
		name  [unix.IFNAMSIZ]byte
		value unsafe.Pointer
		_     [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.value = unsafe.Pointer(&value)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(c.ioctl), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

// asError wraps an errno; other errors stay as they are.
func asError(op, object string, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return &Error{Op: op, Object: object, Errno: errno, Missing: errno == unix.ENODEV}
	}
	return err
}
