package rtnltest

import (
	"context"
	"net/netip"
	"testing"

	"github.com/podnet/podnet/rtnl"
)

// Conn is what a connection to one network namespace can do: the methods of [rtnl.Conn], which the fake has too.
type Conn interface {
	Links(ctx context.Context) ([]rtnl.Link, error)
	Link(ctx context.Context, name string) (rtnl.Link, error)
	Addrs(ctx context.Context, link string) ([]rtnl.Addr, error)
	Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error)
	RouteTo(ctx context.Context, dst netip.Addr) (rtnl.Route, error)
	Neighs(ctx context.Context, link string) ([]rtnl.Neigh, error)
	FDB(ctx context.Context, link string) ([]rtnl.FDB, error)
	Nexthops(ctx context.Context, p rtnl.Protocol) ([]rtnl.Nexthop, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
	Watch(ctx context.Context, g rtnl.Groups, notify func(rtnl.Event)) error
}

var _ Conn = (*rtnl.Conn)(nil)

// Namespace is a fresh network namespace for a case of the contract: its loopback is up.
type Namespace struct {
	Conn
	Path   string // for Veth.PeerNetns in another namespace of the same kernel
	Remove func() // destroys the namespace with all in it; the rest of the case does not use it
}

// Harness is a kernel, real or fake, under the contract.
type Harness interface {
	// NewNamespace makes a namespace that is removed when the test ends. All namespaces of one Harness belong to the same kernel.
	NewNamespace(t testing.TB) Namespace
}
