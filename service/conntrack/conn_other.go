//go:build !linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

var errUnsupported = fmt.Errorf("connection tracking needs linux: %w", errors.ErrUnsupported)

// Flows is unsupported here.
func (*Conn) Flows(context.Context, Filter, func(*Flow) error) error { return errUnsupported }

// Delete is unsupported here.
func (*Conn) Delete(context.Context, []Flow) (int, error) { return 0, errUnsupported }

// Local is unsupported here.
func (*Conn) Local(context.Context) ([]netip.Prefix, error) { return nil, errUnsupported }
