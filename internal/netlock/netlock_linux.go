package netlock

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Take keeps a second process of a program out of this network namespace until unlock, or until this process dies. The error names the process that is in it.
//
// The lock is an abstract socket: each network namespace has such names of its own, and the kernel frees one when its process dies. Everybody may take the name, so
// one that another user holds does not count.
func Take(program string) (unlock func() error, err error) {
	address := &net.UnixAddr{Name: "@" + program, Net: "unix"}
	l, err := net.ListenUnix("unix", address)
	if err == nil {
		go func() { // whoever looks at the name leaves the queue free for the next
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				c.Close()
			}
		}()
		return l.Close, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	none := func() error { return nil }
	c, err := net.DialUnix("unix", nil, address)
	if err != nil { // not a listening stream socket, so not the program; or one that just ended
		return none, nil
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	var holder *unix.Ucred
	var fault error
	if err := raw.Control(func(fd uintptr) { holder, fault = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || fault != nil {
		return nil, fmt.Errorf("lock the network namespace: %w", errors.Join(err, fault))
	}
	if holder.Uid != 0 && int(holder.Uid) != os.Geteuid() {
		return none, nil
	}
	return nil, fmt.Errorf("another %s (process %d) works in this network namespace: stop it first", program, holder.Pid)
}
