//go:build !linux

package rtnl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Conn is a connection to the kernel's rtnetlink; it exists on Linux only.
type Conn struct{}

var errUnsupported = fmt.Errorf("rtnl: rtnetlink needs linux: %w", errors.ErrUnsupported)

// Open returns an error that matches errors.ErrUnsupported.
func Open(Options) (*Conn, error) { return nil, errUnsupported }

// Close does nothing.
func (*Conn) Close() error { return nil }

// Links is unsupported here.
func (*Conn) Links(context.Context) ([]Link, error) { return nil, errUnsupported }

// Link is unsupported here.
func (*Conn) Link(context.Context, string) (Link, error) { return Link{}, errUnsupported }

// Addrs is unsupported here.
func (*Conn) Addrs(context.Context, string) ([]Addr, error) { return nil, errUnsupported }

// Routes is unsupported here.
func (*Conn) Routes(context.Context, RouteFilter) ([]Route, error) { return nil, errUnsupported }

// RouteTo is unsupported here.
func (*Conn) RouteTo(context.Context, netip.Addr) (Route, error) { return Route{}, errUnsupported }

// Neighs is unsupported here.
func (*Conn) Neighs(context.Context, string) ([]Neigh, error) { return nil, errUnsupported }

// FDB is unsupported here.
func (*Conn) FDB(context.Context, string) ([]FDB, error) { return nil, errUnsupported }

// Nexthops is unsupported here.
func (*Conn) Nexthops(context.Context, Protocol) ([]Nexthop, error) { return nil, errUnsupported }

// Sysctl is unsupported here.
func (*Conn) Sysctl(context.Context, string) (string, error) { return "", errUnsupported }

// Write is unsupported here.
func (*Conn) Write(_ context.Context, p Plan) []error {
	errs := make([]error, len(p))
	for i := range errs {
		errs[i] = errUnsupported
	}
	return errs
}

// Watch is unsupported here.
func (*Conn) Watch(context.Context, Groups, func(Event)) error { return errUnsupported }
