package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"
)

// Codes above 99 are the plugin's own (CNI 1.1, section "Error").
const (
	codeDrifted uint = 100 // CHECK: the attachment is not as ADD made it
	codeGC      uint = 101 // GC: something could not be removed
	codeExists  uint = 102 // ADD: the interface or the attachment is there already
)

// codeOf chooses the code of an error that carries none. A full or failing disk is an I/O failure; a lock that was not to be had in time passes.
func codeOf(err error) uint {
	switch {
	case isBridgeFull(err), errors.Is(err, context.DeadlineExceeded):
		return types.ErrTryAgainLater
	case isAny(err, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE):
		return types.ErrIOFailure
	case isAny(err, syscall.EAGAIN, syscall.EBUSY, syscall.ENOBUFS, syscall.EINTR):
		return types.ErrTryAgainLater
	}
	return types.ErrInternal
}

func isAny(err error, errnos ...syscall.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
