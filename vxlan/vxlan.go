package vxlan

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/podnet/podnet/internal/reconcile"
	"github.com/podnet/podnet/rtnl"
)

// Kernel is what this package needs of a network namespace: rtnl.Conn has it, and the fake in rtnl/rtnltest.
type Kernel interface {
	Links(ctx context.Context) ([]rtnl.Link, error)
	Addrs(ctx context.Context, link string) ([]rtnl.Addr, error)
	Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error)
	Neighs(ctx context.Context, link string) ([]rtnl.Neigh, error)
	FDB(ctx context.Context, link string) ([]rtnl.FDB, error)
	Nexthops(ctx context.Context, p rtnl.Protocol) ([]rtnl.Nexthop, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
}

// Options change how a Reconciler works, not what it brings about. The zero Options works.
type Options struct {
	// NexthopsAbove is the number of tunnelled IPv4 peers above which their routes go through nexthop objects (Linux 5.3), with which the
	// time for a route does not grow with the number of routes. 0 = 2,000; negative = never. IPv6 routes need none.
	NexthopsAbove int

	// KernelRelease (uname -r) decides about the checksum offload if a Config does not; see TxChecksumFor. "" = that of the running kernel.
	KernelRelease string
}

// Reconciler brings the kernel to a Config. It remembers nothing between calls and may be used by several goroutines, though two
// that Apply at once do each other's work.
type Reconciler struct {
	kernel  Kernel
	options Options
}

// New returns a Reconciler for the network namespace of k.
func New(k Kernel, o Options) *Reconciler {
	if o.NexthopsAbove == 0 {
		o.NexthopsAbove = nexthopsAbove
	}
	if o.KernelRelease == "" {
		// Where this cannot be read (not Linux, no /proc) the offload is left alone.
		release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
		o.KernelRelease = strings.TrimSpace(string(release))
	}
	return &Reconciler{kernel: k, options: o}
}

// Plan returns what Apply would do; it only reads. The plan is for what can be done: an error beside a plan tells which peers or which
// address family are left out. If the node's own part of want is faulty or the kernel cannot be read, the plan is empty.
func (r *Reconciler) Plan(ctx context.Context, want Config) (rtnl.Plan, error) {
	if err := want.validateNode(); err != nil {
		return nil, err
	}
	have, err := r.read(ctx, want)
	if err != nil {
		return nil, err
	}
	return plan(want, have, r.options)
}

// Apply brings the kernel to want, and returns what it wrote. What fails is in the error, and done again by the next Apply; it never
// stops the rest.
func (r *Reconciler) Apply(ctx context.Context, want Config) (rtnl.Plan, error) {
	p, err := r.Plan(ctx, want)
	done, failed := reconcile.Write(ctx, r.kernel, p)
	return done, errors.Join(err, failed)
}
