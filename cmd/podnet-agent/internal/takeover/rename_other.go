//go:build !linux

package takeover

import "errors"

// Do is for Linux.
func (r Rename) Do() error { return errors.ErrUnsupported }
