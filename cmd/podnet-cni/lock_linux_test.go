package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// short ends a wait that the test expects to last.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestLockAttachments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "network")
	first, err := lockAttachments(t.Context(), dir, "c1 eth0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := lockAttachments(t.Context(), dir, "c2 eth0")
	if err != nil {
		t.Fatalf("another attachment has to wait: %v", err)
	}
	for _, key := range []string{"c1 eth0", allAttachments} {
		_, err := lockAttachments(short(t), dir, key)
		var e *types.Error
		if !errors.As(err, &e) || e.Code != types.ErrTryAgainLater || !strings.Contains(e.Error(), "another process works on this attachment") {
			t.Errorf("key %q: %v, want code 11", key, err)
		}
	}
	waited := make(chan error)
	go func() {
		c, err := lockAttachments(t.Context(), dir, "c1 eth0")
		if err == nil {
			err = c.Close()
		}
		waited <- err
	}()
	if err := errors.Join(first.Close(), <-waited, other.Close()); err != nil {
		t.Error(err)
	}
	all, err := lockAttachments(t.Context(), dir, allAttachments)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockAttachments(short(t), dir, "c9 eth0"); err == nil {
		t.Error("an attachment was locked while all were")
	}
	// Who deletes the file makes a second lock possible, but only for those who come after it.
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	again, err := lockAttachments(short(t), dir, "c9 eth0")
	if err != nil {
		t.Errorf("after the file was deleted: %v", err)
	} else if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := all.Close(); err != nil {
		t.Error(err)
	}
}

func TestLockRefusesSymlink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := lockAttachments(t.Context(), dir, "c1 eth0"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v, want ELOOP", err)
	}
}

func TestErrorCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want uint
	}{
		{syscall.ENOSPC, types.ErrIOFailure},
		{fmt.Errorf("open leases: %w", &os.PathError{Op: "open", Path: "x", Err: syscall.EROFS}), types.ErrIOFailure},
		{syscall.EAGAIN, types.ErrTryAgainLater},
		{unix.EXFULL, types.ErrTryAgainLater},
		{context.DeadlineExceeded, types.ErrTryAgainLater},
		{errors.New("else"), types.ErrInternal},
		{withUndo(types.NewError(7, "a", "b"), nil), 7},
		{withUndo(syscall.ENOSPC, errors.New("busy")), types.ErrIOFailure},
	} {
		code := codeOf(tc.err)
		var e *types.Error
		if errors.As(tc.err, &e) {
			code = e.Code
		}
		if code != tc.want {
			t.Errorf("%v: code %d, want %d", tc.err, code, tc.want)
		}
	}
}
