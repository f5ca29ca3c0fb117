package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// followParent makes "go run" take this program along when it is killed: it passes no signals on.
func followParent() {
	parent := os.Getppid()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil || strings.TrimSpace(string(comm)) != "go" {
		return
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0); err == nil && os.Getppid() != parent {
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // it died before
	}
}
