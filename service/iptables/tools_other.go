//go:build !linux

package iptables

import (
	"context"
	"errors"
	"fmt"

	"github.com/podnet/podnet/service"
)

type finder struct{}

var errUnsupported = fmt.Errorf("iptables needs linux: %w", errors.ErrUnsupported)

// Save is unsupported here.
func (*Tools) Save(context.Context, service.Family, string) (string, error) {
	return "", errUnsupported
}

// Restore is unsupported here.
func (*Tools) Restore(context.Context, service.Family, string) error { return errUnsupported }

// Rules is unsupported here.
func (*Tools) Rules(context.Context, service.Family, string, string) ([]string, error) {
	return nil, errUnsupported
}

// Insert is unsupported here.
func (*Tools) Insert(context.Context, service.Family, string, string, ...string) error {
	return errUnsupported
}

// Append is unsupported here.
func (*Tools) Append(context.Context, service.Family, string, string, ...string) error {
	return errUnsupported
}

// Delete is unsupported here.
func (*Tools) Delete(context.Context, service.Family, string, string, ...string) error {
	return errUnsupported
}

// Detect is unsupported here.
func Detect(context.Context, string) (Variant, string, error) { return Auto, "", errUnsupported }
