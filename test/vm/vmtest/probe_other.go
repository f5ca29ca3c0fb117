//go:build !linux

package vmtest

import (
	"errors"
	"fmt"
)

func probe(family string) error { return fmt.Errorf("%s: %w", family, errors.ErrUnsupported) }
