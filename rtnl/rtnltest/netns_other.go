//go:build !linux

package rtnltest

import (
	"errors"
	"testing"

	"github.com/podnet/podnet/rtnl"
)

// Netns is a network namespace; there are none outside Linux.
type Netns struct{}

// NewNetns skips the test.
func NewNetns(t testing.TB) *Netns {
	t.Helper()
	RequireKernel(t, "a network namespace")
	return &Netns{}
}

// Name returns "".
func (*Netns) Name() string { return "" }

// Path returns "".
func (*Netns) Path() string { return "" }

// Conn fails the test.
func (*Netns) Conn(t testing.TB) *rtnl.Conn {
	t.Helper()
	t.Fatal("network namespaces need linux")
	return nil
}

// Remove does nothing.
func (*Netns) Remove() error { return nil }

// Do returns an error that matches errors.ErrUnsupported.
func (*Netns) Do(func() error) error { return errors.ErrUnsupported }
