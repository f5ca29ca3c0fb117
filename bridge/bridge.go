package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"github.com/podnet/podnet/internal/reconcile"
	"github.com/podnet/podnet/rtnl"
)

// Mark is the alias (ip link set alias) of every bridge that this package made.
const Mark = "podnet:bridge"

// Kernel is what this package asks of the kernel; *rtnl.Conn and the fake in rtnl/rtnltest have it.
type Kernel interface {
	Links(ctx context.Context) ([]rtnl.Link, error)
	Link(ctx context.Context, name string) (rtnl.Link, error)
	Addrs(ctx context.Context, link string) ([]rtnl.Addr, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
}

// Options adjust a Reconciler. There is nothing to adjust yet.
type Options struct{}

// Reconciler makes the kernel's pod bridge what a Config says. It has no state of its own: every call reads the kernel anew.
// It may be used by several goroutines, and by several processes on one kernel.
type Reconciler struct {
	kernel Kernel
}

// New returns a Reconciler for the network namespace that k works in.
func New(k Kernel, o Options) *Reconciler { return &Reconciler{kernel: k} }

// Plan returns the changes that are still to be made; it only reads.
func (r *Reconciler) Plan(ctx context.Context, want Config) (rtnl.Plan, error) {
	if err := want.Validate(); err != nil {
		return nil, err
	}
	have, err := r.observe(ctx, want)
	if err != nil {
		return nil, wrap(want, err)
	}
	return plan(want, have)
}

// attempts bounds how often Apply looks again. Each race with another process that makes, or removes, the same bridge costs one.
const attempts = 5

// Apply makes the changes and returns those that it made. Several Applys at once, also from several processes, end in one bridge: what another made in the
// meantime is looked at again instead of being an error.
func (r *Reconciler) Apply(ctx context.Context, want Config) (rtnl.Plan, error) {
	var done rtnl.Plan
	for attempt := 1; ; attempt++ {
		p, err := r.Plan(ctx, want)
		if err != nil {
			return done, err
		}
		if p.Empty() {
			return done, nil
		}
		did, err := reconcile.Write(ctx, r.kernel, p)
		done = append(done, did...)
		switch raced := errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist); {
		case err == nil && !deletesAddr(p):
			return done, nil
		case err == nil && attempt < attempts:
			// The kernel deletes an IPv4 subnet's other addresses together with its first one (promote_secondaries=0): look again.
		case err != nil && (!raced || attempt == attempts):
			return done, wrap(want, err)
		case err == nil:
			return done, nil
		}
	}
}

func wrap(want Config, err error) error {
	if want.Name == "" {
		return fmt.Errorf("bridge: %w", err)
	}
	return fmt.Errorf("bridge %s: %w", want.Name, err)
}

func deletesAddr(p rtnl.Plan) bool {
	for _, c := range p {
		if _, isAddr := c.Object.(rtnl.Addr); isAddr && c.Verb == rtnl.Delete {
			return true
		}
	}
	return false
}

// snapshot is what the kernel has. For a zero Config it holds all links, else the bridge and what belongs to it.
type snapshot struct {
	links   []rtnl.Link
	link    rtnl.Link // without a name: there is none
	addrs   []rtnl.Addr
	sysctls map[string]string // current values; those of "default", which it will inherit, for a link that is still to be made
	random  rtnl.MAC          // for a new bridge without an identity of its own
}

func (r *Reconciler) observe(ctx context.Context, want Config) (have snapshot, err error) {
	if want.isZero() {
		have.links, err = r.kernel.Links(ctx)
		return have, err
	}
	have.link, err = r.kernel.Link(ctx, want.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		have.link = rtnl.Link{}
		if _, err := rand.Read(have.random[:]); err != nil {
			return have, err
		}
		have.random = local(have.random)
	case err != nil:
		return have, err
	default:
		have.addrs, err = r.kernel.Addrs(ctx, want.Name)
		if errors.Is(err, fs.ErrNotExist) { // removed since: an empty look is corrected by the next one
			err = nil
		}
		if err != nil {
			return have, err
		}
	}
	have.sysctls = map[string]string{}
	for _, s := range sysctls(want) {
		from := s.Name
		if have.link.Name == "" {
			from = s.inherited
		}
		value, err := r.kernel.Sysctl(ctx, from)
		if errors.Is(err, fs.ErrNotExist) && from != s.inherited { // the bridge was removed since
			value, err = r.kernel.Sysctl(ctx, s.inherited)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // a kernel without IPv6
		case err != nil:
			return have, err
		default:
			have.sysctls[s.Name] = value
		}
	}
	return have, nil
}
