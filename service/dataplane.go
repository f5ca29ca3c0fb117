package service

import "context"

// Dataplane puts programs into a kernel. service/nft, service/ipvs and service/iptables are real ones, servicetest.Dataplane is the fake; servicetest has the contract that they
// all keep.
type Dataplane interface {
	// Capabilities says what the dataplane can do. It reads nothing.
	Capabilities() Capabilities

	// Observe reads the kernel: the next Apply compares with what is there and not with what was written last. It writes nothing. It is called before the first Apply, after
	// an Apply that failed as a whole, and when Watch tells of a foreign change. A kernel that lacks something is one error that says what, and what to do.
	Observe(ctx context.Context) (Observed, error)

	// Apply makes the kernel so as the delta wants, with as few writes as possible and none where nothing differs. A live connection is never cut by it. Programs which
	// cannot be written are in Result.Failed, all others are in place. An error means that nothing is known to be in place.
	Apply(ctx context.Context, d Delta) (Result, error)

	// Cleanup removes everything that the dataplane owns, whoever wrote it. A second call finds nothing to do.
	Cleanup(ctx context.Context) error

	// Watch calls notify when somebody else changed what the dataplane owns, and does what the dataplane has to do beside Apply (such as ending the drain of IPVS servers), until
	// ctx ends. A dataplane that cannot be told looks for itself, at least every 10 s.
	Watch(ctx context.Context, notify func()) error
}

// Delta is a change of the desired state.
type Delta struct {
	// Node is the node's state, with every delta. A changed Node comes with Full.
	Node Node

	// Full means that Set is the whole desired state: everything else that the dataplane owns goes.
	Full bool

	// Set are programs that are new or changed, sorted by name.
	Set []Program

	// Delete are Services that are no more, sorted. A Service without a program is deleted too.
	Delete []Name
}

// Result is what Apply did.
type Result struct {
	// Failed are the Services that are not, or not wholly, in place. nil is none.
	Failed map[Name]error

	// Writes is the number of kernel objects that were written or removed. 0: everything was in place.
	Writes int
}

// Observed is what a dataplane found in its kernel.
type Observed struct {
	Frontends int // addresses and ports that lead somewhere, and NodePorts
	Backends  int // endpoints behind them; one that stands behind two Services counts twice

	// Foreign says that the kernel was not as the last Apply left it. The first Observe compares with an empty kernel's state and reports false.
	Foreign bool
}

// Capabilities are what a dataplane can do.
type Capabilities struct {
	Name       string     // such as "nftables"
	Protocols  []Protocol // that it forwards
	Schedulers []string   // names for Service.Scheduler; nil: it chooses at random
}
