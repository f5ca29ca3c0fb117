package ipvs

import (
	"context"
	"errors"
	"io"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl"
)

// IPVS is what a Dataplane needs of the kernel's IPVS. A Conn is the real one.
type IPVS interface {
	// Servers returns all virtual servers with their real servers, sorted. A kernel without IPVS is ErrNoIPVS.
	Servers(ctx context.Context) ([]Server, error)
	// Walk calls server for each virtual server and real for each of its real servers. It is much faster than Servers, and may leave out some.
	Walk(ctx context.Context, server func(Key), real func(Key, Real)) error
	// Reals returns the real servers of one virtual server, sorted.
	Reals(ctx context.Context, k Key) ([]Real, error)
	// Write makes changes in order and does not stop at a failure: nil if all succeeded, else one element per change.
	Write(ctx context.Context, changes []Change) []error
	SetTimeouts(ctx context.Context, t Timeouts) error
	// Release is the kernel's, such as "6.1.0-56-amd64".
	Release() string
}

// Tables is what it needs of nftables.
type Tables interface {
	Describe(ctx context.Context, t nfnl.Table) (nfnl.Description, error)
	Elements(ctx context.Context, t nfnl.Table, set string, reset func(), f func(nfnl.Element)) error
	Commit(ctx context.Context, tx *nfnl.Transaction) error
	Watch(ctx context.Context, notify func(nfnl.Event)) error
	nfnl.Owner
}

// Net is what it needs of addresses, routes and settings: rtnl.Conn has it, and the fake in rtnl/rtnltest.
type Net interface {
	Addrs(ctx context.Context, link string) ([]rtnl.Addr, error)
	Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
	Watch(ctx context.Context, g rtnl.Groups, notify func(rtnl.Event)) error
}

// Kernel is a network namespace: that of the real kernel is from Open, a fake one is in ipvstest.
type Kernel struct {
	IPVS   IPVS
	Tables Tables
	Net    Net
}

// Open opens a network namespace of the kernel. Close the Kernel when the Dataplane is not used any more. It does not ask for IPVS yet.
func Open(o OpenOptions) (Kernel, error) {
	var k Kernel
	ipvs, err := OpenConn(o.Netns)
	if err != nil {
		return k, err
	}
	k.IPVS = ipvs
	tables, err := nfnl.Open(nfnl.Options{Netns: o.Netns})
	if err != nil {
		return k, errors.Join(err, k.Close())
	}
	k.Tables = tables
	net, err := rtnl.Open(rtnl.Options{Netns: o.Netns, SysctlDir: o.SysctlDir})
	if err != nil {
		return k, errors.Join(err, k.Close())
	}
	k.Net = net
	return k, nil
}

// Close closes what Open opened.
func (k Kernel) Close() error {
	var errs []error
	for _, x := range []any{k.IPVS, k.Tables, k.Net} {
		if c, ok := x.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
