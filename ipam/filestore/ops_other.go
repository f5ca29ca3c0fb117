//go:build !linux

package filestore

import (
	"errors"
	"fmt"
)

func systemOps() (fileOps, error) {
	return nil, fmt.Errorf("filestore: %w outside of Linux", errors.ErrUnsupported)
}

func owner() uint32 { return 0 }
