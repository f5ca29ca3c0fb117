package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// boot runs qemu until it ends, or kills it when ctx ends. Meanwhile talk reads the ports, to their ends.
func (c Config) boot(ctx context.Context, console io.Writer, talk func(ports [3]io.Reader)) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("a guest on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	cmd := c.qemu()
	cmd.Stdout, cmd.Stderr = console, console
	// In a process group of its own, out of reach of a terminal's Ctrl-C; dead when this process is.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	ours, err := c.files(cmd)
	defer func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
		for _, f := range ours {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	// The signal is sent when the thread that started the process ends: so this one may not, until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: test/install-tools vm installs what a guest needs", err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close() // only then a port ends when qemu does
	}
	talked := make(chan struct{})
	go func() {
		defer close(talked)
		talk([3]io.Reader{ours[0], ours[1], ours[2]})
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err = cmd.Wait()
	<-talked
	return err
}

// files gives cmd its files from 3 on, and returns our ends of the ports. Both are to be closed, even after an error.
func (c Config) files(cmd *exec.Cmd) (ours []*os.File, err error) {
	initrd, err := c.initramfs()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initrd")
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	if _, err := f.Write(initrd); err != nil {
		return nil, err
	}
	for range 3 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return ours, fmt.Errorf("socketpair: %w", err)
		}
		ours = append(ours, os.NewFile(uintptr(pair[0]), "port"))
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(pair[1]), "port"))
	}
	return ours, nil
}
