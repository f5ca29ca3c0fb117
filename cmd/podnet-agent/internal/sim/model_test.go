package sim

import (
	"context"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// The model. Kernel: podnet-agent with 5,000 dual-stack nodes on Linux 6.18, 2 cores: 35,001 writes in 251 ms, a look at 35,000 objects in
// 62 ms. API server: kube-apiserver v1.36.3, Node objects of 10 KB as JSON (docs/performance.md).
const (
	writeTime = 7 * time.Microsecond // of an object
	readTime  = 2 * time.Microsecond // of an object, with thinking about it

	nodeBytes      = 8500            // a Node of 10 KB JSON as protobuf, in a watch: those are not compressed
	nodeListBytes  = 530             // in a list: gzip
	bookmarkBytes  = 200             //
	bookmarkEvery  = time.Minute     //
	heartbeatEvery = 5 * time.Minute // kubelet's nodeStatusReportFrequency
	minLatency     = 2 * time.Millisecond
	maxLatency     = 20 * time.Millisecond
)

// kernel is a fake kernel that takes its time.
type kernel struct {
	*rtnltest.FakeNetns
	a *agentRun
}

func (k *kernel) Write(ctx context.Context, p rtnl.Plan) []error {
	if len(p) == 0 {
		return nil
	}
	time.Sleep(time.Duration(len(p)) * writeTime)
	errs := k.FakeNetns.Write(ctx, p)
	k.a.wrote(len(p))
	return errs
}

func took[T any](objects []T, err error) ([]T, error) {
	time.Sleep(time.Duration(len(objects)) * readTime)
	return objects, err
}

func (k *kernel) Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error) {
	return took(k.FakeNetns.Routes(ctx, f))
}

func (k *kernel) Neighs(ctx context.Context, link string) ([]rtnl.Neigh, error) {
	k.a.looked()
	return took(k.FakeNetns.Neighs(ctx, link))
}

func (k *kernel) FDB(ctx context.Context, link string) ([]rtnl.FDB, error) {
	return took(k.FakeNetns.FDB(ctx, link))
}

func (k *kernel) Nexthops(ctx context.Context, p rtnl.Protocol) ([]rtnl.Nexthop, error) {
	return took(k.FakeNetns.Nexthops(ctx, p))
}
