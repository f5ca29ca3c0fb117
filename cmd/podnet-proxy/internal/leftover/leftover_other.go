//go:build !linux

package leftover

import (
	"context"
	"errors"
)

// Find finds nothing: there is no kube-proxy here.
func Find(context.Context) []string { return nil }

// Virtual finds none.
func Virtual() func(Server) bool { return func(Server) bool { return false } }

// Remove is for Linux.
func Remove(context.Context, func(Server) bool) ([]string, error) { return nil, errors.ErrUnsupported }
