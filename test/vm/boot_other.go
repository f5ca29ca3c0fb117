//go:build !linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
)

func (c Config) boot(context.Context, io.Writer, func([3]io.Reader)) error {
	return fmt.Errorf("a guest: %w", errors.ErrUnsupported)
}
