//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
	"time"
)

const lockTimeout = 30 * time.Second

func lockAttachments(context.Context, string, string) (io.Closer, error) {
	return nil, errors.ErrUnsupported
}

func isNetns(string) error { return errors.ErrUnsupported }

func isOwnNetns(string) bool { return false }

func isBridgeFull(error) bool { return false }
