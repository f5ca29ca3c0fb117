//go:build !linux

package leftover

import (
	"context"
	"errors"
)

// Find finds nothing: there is no kube-proxy here.
func Find(context.Context) []string { return nil }

// Remove is for Linux.
func Remove(context.Context, func(Server) bool) ([]string, error) { return nil, errors.ErrUnsupported }
