package rtnltest

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

// FakeNetns is a network namespace of a fake [Kernel], with the methods of [rtnl.Conn].
type FakeNetns struct {
	k    *Kernel
	name string
	gone bool

	devices   map[string]*device
	lastIndex int
	births    map[string]int // how often a device of that name was made, so that each gets a MAC of its own
	local     map[netip.Addr][]*device
	broadcast map[netip.Addr]int // IPv4 addresses of that broadcast address
	fib       fib
	nexthops  map[uint32]*nexthop
	sysctls   sysctls
	watchers  []*watcher
	counts    Counts
}

// Counts says how much a namespace was asked.
type Counts struct {
	Reads   int // calls of Link, Sysctl, RouteTo
	Dumps   int // calls of Links, Addrs, Routes, Neighs, FDB, Nexthops
	Writes  int // calls of Write with a plan that is not empty
	Changes int // changes in them
}

func newNetns(k *Kernel, name string) *FakeNetns {
	n := &FakeNetns{
		k: k, name: name,
		devices:   make(map[string]*device),
		births:    make(map[string]int),
		local:     make(map[netip.Addr][]*device),
		broadcast: make(map[netip.Addr]int),
		fib:       newFIB(),
		nexthops:  make(map[uint32]*nexthop),
		sysctls:   make(sysctls),
	}
	lo := n.newDevice(rtnl.Link{Name: "lo", MTU: 65536, Up: rtnl.Off})
	lo.setUp(true)
	return n
}

// Name returns the name of the namespace.
func (n *FakeNetns) Name() string { return n.name }

// Counts returns how much the namespace was asked since it was made, or since ResetCounts. "In the steady state nothing is written" is
// Counts().Changes == 0.
func (n *FakeNetns) Counts() Counts {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	return n.counts
}

// ResetCounts sets the counts to zero.
func (n *FakeNetns) ResetCounts() {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	n.counts = Counts{}
}

// Close does nothing: the namespace stays.
func (n *FakeNetns) Close() error { return nil }

// enter counts a call and asks Fault, then takes the lock; the caller releases it with unlock unless there is an error.
func (n *FakeNetns) enter(ctx context.Context, c Call, op, object string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	k := n.k
	k.mu.Lock()
	k.calls++
	c.N, c.Netns = k.calls, n.name
	switch c.Method {
	case "Write":
		n.counts.Changes++
	case "Link", "Sysctl", "RouteTo":
		n.counts.Reads++
	default:
		n.counts.Dumps++
	}
	k.mu.Unlock()
	if k.Fault != nil {
		if err := k.Fault(c); err != nil {
			var errno syscall.Errno
			var already *rtnl.Error
			if errors.As(err, &errno) && !errors.As(err, &already) {
				return &rtnl.Error{Op: op, Object: object, Errno: errno, Detail: "rtnltest fault"}
			}
			return err
		}
	}
	k.mu.Lock()
	if n.gone {
		k.unlock()
		return &rtnl.Error{Op: op, Object: object, Errno: syscall.ENOENT, Missing: true, Detail: "netns " + n.name + " is gone"}
	}
	return nil
}

// dump runs read under the lock, as a call of that method.
func dump[T any](ctx context.Context, n *FakeNetns, method, op, object string, read func() (T, *refusal)) (T, error) {
	var none T
	if err := n.enter(ctx, Call{Method: method}, op, object); err != nil {
		return none, err
	}
	defer n.k.unlock()
	out, r := read()
	if r != nil {
		return none, r.error(op, object)
	}
	return out, nil
}

// Links returns every device, by index.
func (n *FakeNetns) Links(ctx context.Context) ([]rtnl.Link, error) {
	return dump(ctx, n, "Links", "link dump", "", func() ([]rtnl.Link, *refusal) {
		out := make([]rtnl.Link, 0, len(n.devices))
		for _, d := range n.sortedDevices() {
			out = append(out, d.observe())
		}
		return out, nil
	})
}

// Link returns one device.
func (n *FakeNetns) Link(ctx context.Context, name string) (rtnl.Link, error) {
	return dump(ctx, n, "Link", "link get", name, func() (rtnl.Link, *refusal) {
		d, r := n.device(name)
		if r != nil {
			return rtnl.Link{}, r
		}
		return d.observe(), nil
	})
}

// Addrs returns the addresses of a device, or of all if link is "".
func (n *FakeNetns) Addrs(ctx context.Context, link string) ([]rtnl.Addr, error) {
	return dump(ctx, n, "Addrs", "addr dump", link, func() ([]rtnl.Addr, *refusal) {
		var out []rtnl.Addr
		r := n.each(link, func(d *device) {
			for _, a := range d.addrs {
				out = append(out, a.Addr)
			}
		})
		return out, r
	})
}

// Routes returns the routes that the filter selects, sorted by family, destination and metric.
func (n *FakeNetns) Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error) {
	return dump(ctx, n, "Routes", "route dump", f.Link, func() ([]rtnl.Route, *refusal) {
		return n.selectRoutes(f)
	})
}

// RouteTo returns the route that a packet to dst would take.
func (n *FakeNetns) RouteTo(ctx context.Context, dst netip.Addr) (rtnl.Route, error) {
	return dump(ctx, n, "RouteTo", "route get", dst.String(), func() (rtnl.Route, *refusal) {
		return n.routeTo(dst)
	})
}

// Neighs returns the neighbour entries of a device.
func (n *FakeNetns) Neighs(ctx context.Context, link string) ([]rtnl.Neigh, error) {
	return dump(ctx, n, "Neighs", "neigh dump", link, func() ([]rtnl.Neigh, *refusal) {
		var out []rtnl.Neigh
		r := n.each(link, func(d *device) {
			out = slices.AppendSeq(out, maps.Values(d.neighs))
		})
		slices.SortFunc(out, func(a, b rtnl.Neigh) int {
			return cmp.Or(strings.Compare(a.Link, b.Link), a.IP.Compare(b.IP))
		})
		return out, r
	})
}

// FDB returns the forwarding entries of a VXLAN device.
func (n *FakeNetns) FDB(ctx context.Context, link string) ([]rtnl.FDB, error) {
	return dump(ctx, n, "FDB", "fdb dump", link, func() ([]rtnl.FDB, *refusal) {
		var out []rtnl.FDB
		r := n.each(link, func(d *device) {
			for _, e := range d.fdb {
				if !e.MAC.IsMulticast() && !e.MAC.IsZero() {
					out = append(out, e)
				}
			}
		})
		slices.SortFunc(out, func(a, b rtnl.FDB) int {
			return cmp.Or(strings.Compare(a.Link, b.Link), slices.Compare(a.MAC[:], b.MAC[:]))
		})
		return out, r
	})
}

// Nexthops returns the nexthop objects with protocol p, or all if p is 0, by ID.
func (n *FakeNetns) Nexthops(ctx context.Context, p rtnl.Protocol) ([]rtnl.Nexthop, error) {
	return dump(ctx, n, "Nexthops", "nexthop dump", "", func() ([]rtnl.Nexthop, *refusal) {
		var out []rtnl.Nexthop
		for _, id := range slices.Sorted(maps.Keys(n.nexthops)) {
			if nh := n.nexthops[id]; p == 0 || nh.Protocol == p {
				out = append(out, nh.Nexthop)
			}
		}
		return out, nil
	})
}

// Sysctl reads a setting.
func (n *FakeNetns) Sysctl(ctx context.Context, name string) (string, error) {
	return dump(ctx, n, "Sysctl", "sysctl get", name, func() (string, *refusal) {
		return n.sysctl(name)
	})
}

// Write executes a plan in order and does not stop at a failure. It returns nil if all succeeded, else one element per change.
func (n *FakeNetns) Write(ctx context.Context, p rtnl.Plan) []error {
	if len(p) == 0 {
		return nil
	}
	n.k.mu.Lock()
	n.counts.Writes++
	n.k.mu.Unlock()
	var errs []error
	for i, c := range p {
		if err := n.change(ctx, c); err != nil {
			if errs == nil {
				errs = make([]error, len(p))
			}
			errs[i] = err
		}
	}
	return errs
}

func (n *FakeNetns) change(ctx context.Context, c rtnl.Change) error {
	if err := n.enter(ctx, Call{Method: "Write", Change: c}, "", ""); err != nil {
		return name(err, c)
	}
	defer n.k.unlock()
	if r := n.apply(c); r != nil {
		return name(r.error("", ""), c)
	}
	return nil
}

// name puts operation and object into a refusal: most changes need neither, and their text takes longer than the change.
func name(err error, c rtnl.Change) error {
	if e, ok := errors.AsType[*rtnl.Error](err); ok && e.Op == "" {
		named := *e
		named.Op, named.Object = describe(c)
		return &named
	}
	return err
}

// describe returns operation ("route add") and object in iproute2 syntax.
func describe(c rtnl.Change) (op, object string) {
	if c.Object == nil {
		return c.Verb.String(), ""
	}
	kind, rest, _ := strings.Cut(c.Object.String(), " ")
	return kind + " " + c.Verb.String(), rest
}

// apply executes one change.
func (n *FakeNetns) apply(c rtnl.Change) *refusal {
	switch o := c.Object.(type) {
	case rtnl.Link:
		return dispatch(n, c.Verb, o, verbs[rtnl.Link]{rtnl.Add: n.addLink, rtnl.Set: n.setLink, rtnl.Delete: n.deleteLink})
	case rtnl.Addr:
		return dispatch(n, c.Verb, o, verbs[rtnl.Addr]{rtnl.Add: n.addAddr, rtnl.Delete: n.deleteAddr})
	case rtnl.Route:
		return dispatch(n, c.Verb, o, verbs[rtnl.Route]{rtnl.Add: n.addRoute, rtnl.Replace: n.replaceRoute, rtnl.Delete: n.deleteRoute})
	case rtnl.Nexthop:
		return dispatch(n, c.Verb, o, verbs[rtnl.Nexthop]{rtnl.Add: n.addNexthop, rtnl.Replace: n.replaceNexthop, rtnl.Delete: n.deleteNexthop})
	case rtnl.Neigh:
		return dispatch(n, c.Verb, o, verbs[rtnl.Neigh]{rtnl.Add: n.addNeigh, rtnl.Replace: n.replaceNeigh, rtnl.Delete: n.deleteNeigh})
	case rtnl.FDB:
		return dispatch(n, c.Verb, o, verbs[rtnl.FDB]{rtnl.Add: n.addFDB, rtnl.Replace: n.replaceFDB, rtnl.Delete: n.deleteFDB})
	case rtnl.Sysctl:
		return dispatch(n, c.Verb, o, verbs[rtnl.Sysctl]{rtnl.Set: n.setSysctl})
	}
	return refuse(syscall.EOPNOTSUPP, "no object")
}

// verbs holds, by verb, what an object kind knows.
type verbs[T any] [rtnl.Delete + 1]func(T) *refusal

func dispatch[T rtnl.Object](n *FakeNetns, v rtnl.Verb, o T, known verbs[T]) *refusal {
	if int(v) >= len(known) || known[v] == nil {
		return refuse(syscall.EOPNOTSUPP, "no such verb for this object")
	}
	if r := n.prepare(v, o); r != nil {
		return r
	}
	return known[v](o)
}

// device returns a device by name.
func (n *FakeNetns) device(name string) (*device, *refusal) {
	if d := n.devices[name]; d != nil {
		return d, nil
	}
	return nil, absent(syscall.ENODEV)
}

// each calls f for one device, or for all by index if link is "".
func (n *FakeNetns) each(link string, f func(*device)) *refusal {
	if link != "" {
		d, r := n.device(link)
		if r == nil {
			f(d)
		}
		return r
	}
	for _, d := range n.sortedDevices() {
		f(d)
	}
	return nil
}

func (n *FakeNetns) sortedDevices() []*device {
	return slices.SortedFunc(maps.Values(n.devices), func(a, b *device) int { return cmp.Compare(a.index, b.index) })
}
