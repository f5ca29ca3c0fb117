//go:build !linux

package takeover

import (
	"context"
	"errors"
	"time"
)

func exchange(string, string) error { return errors.ErrUnsupported }

func lockDir(context.Context, string, time.Duration) (func() error, error) {
	return nil, errors.ErrUnsupported
}
