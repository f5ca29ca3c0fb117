//go:build !linux

package masq

import (
	"context"
	"errors"
	"fmt"
)

var errUnsupported = fmt.Errorf("netfilter needs linux: %w", errors.ErrUnsupported)

type nftWriter struct{}

// Probe is unsupported here.
func (*Netfilter) Probe(context.Context, Backend) error { return errUnsupported }

// Observe is unsupported here.
func (*Netfilter) Observe(context.Context, []Chain) (map[Chain]Observed, error) {
	return nil, errUnsupported
}

// Set is unsupported here.
func (*Netfilter) Set(context.Context, Ruleset) error { return errUnsupported }

// Delete is unsupported here.
func (*Netfilter) Delete(context.Context, Chain) error { return errUnsupported }

// Watch is unsupported here.
func (*Netfilter) Watch(context.Context, string, func()) error { return errUnsupported }
