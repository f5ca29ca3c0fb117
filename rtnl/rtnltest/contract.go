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

// Contract runs every fact of the directory facts, and those that need Go, against a kernel. The real kernel is the judge: it passes on
// the Linux versions that each fact names, and the fake has to do the same. A fact enters the code of podnet through here.
func Contract(t *testing.T, h Harness) {
	facts, err := readFacts()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range facts {
		t.Run(f.name, func(t *testing.T) { f.check(t, h) })
	}
	t.Run("errors", func(t *testing.T) { contractErrors(t, h) })
	t.Run("context", func(t *testing.T) { contractContext(t, h) })
	t.Run("watch", func(t *testing.T) { contractWatch(t, h) })
}
