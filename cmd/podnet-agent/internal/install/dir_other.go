//go:build !linux

package install

import (
	"context"
	"errors"
	"io/fs"
)

func put(context.Context, string, string, []byte, fs.FileMode) (bool, error) {
	return false, errors.ErrUnsupported
}

func remove(context.Context, string, string) error { return errors.ErrUnsupported }

func readRegular(string, int64) ([]byte, error) { return nil, errors.ErrUnsupported }
