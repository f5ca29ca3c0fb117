package veth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/reconcile"
	"github.com/podnet/podnet/rtnl"
)

// Kernel is what this package asks of the kernel of one network namespace; *rtnl.Conn and the fake in rtnl/rtnltest have it.
type Kernel interface {
	Link(ctx context.Context, name string) (rtnl.Link, error)
	Addrs(ctx context.Context, link string) ([]rtnl.Addr, error)
	Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error)
	RouteTo(ctx context.Context, dst netip.Addr) (rtnl.Route, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
}

// Plan is what is to be done on the host and, after that, in the pod.
type Plan struct {
	Host, Pod rtnl.Plan
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return p.Host.Empty() && p.Pod.Empty() }

// String returns one line per change, each with the place where it is made.
func (p Plan) String() string {
	var b strings.Builder
	for _, part := range []struct {
		place string
		plan  rtnl.Plan
	}{{"host", p.Host}, {"pod", p.Pod}} {
		for _, c := range part.plan {
			fmt.Fprintf(&b, "%s: %s\n", part.place, c)
		}
	}
	return b.String()
}

// Reconciler makes one pod's link what a Config says. It has no state of its own: every call reads the kernel anew. It may be used by several goroutines.
type Reconciler struct {
	host, pod Kernel
	owner     Options
}

// New returns a Reconciler for the link of o's owner between the two namespaces. pod may be nil if the link is to be
// removed: the namespace may be gone by then.
func New(host, pod Kernel, o Options) *Reconciler { return &Reconciler{host: host, pod: pod, owner: o} }

// Ends returns the two devices of a link made for want, as they are known before it exists: names, MACs, and MTU if want has one. A
// CNI result names them.
func (r *Reconciler) Ends(want Config) (host, pod rtnl.Link) { return r.owner.ends(want) }

// Plan returns what is still to be done; it only reads.
func (r *Reconciler) Plan(ctx context.Context, want Config) (Plan, error) {
	have, err := r.look(ctx, want)
	if err != nil {
		return Plan{}, err
	}
	p, err := plan(r.owner, want, have)
	if err != nil {
		return Plan{}, fmt.Errorf("veth %s: %w", r.owner.hostName(), err)
	}
	return p, nil
}

// attempts bounds how often Apply looks again after another process made or removed the same link meanwhile.
const attempts = 3

// Apply does it and returns what it did. When it returns after making a link, packets flow: the
// bridge forwards to it, and its addresses need no duplicate address detection.
//
// After an error the link may be half made; the next Apply completes it, and Apply of the zero Config removes it.
func (r *Reconciler) Apply(ctx context.Context, want Config) (Plan, error) {
	var done Plan
	unknown := false // to the neighbours
	for attempt := 1; ; attempt++ {
		p, err := r.Plan(ctx, want)
		if err != nil {
			return done, err
		}
		unknown = unknown || announces(p)
		err = r.write(ctx, p, &done)
		if err == nil && unknown {
			err = r.announce(ctx, want, &done)
		}
		raced := errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist)
		if errors.Is(err, syscall.EHOSTUNREACH) {
			// IPv6 has no route to a subnet before the kernel's work queue has seen the carrier, so it refuses a gateway in it. That is later than
			// up on a busy machine: some of 100 ADDs at once met it on 6.18.
			raced = await(ctx, func() (bool, error) {
				pod, err := r.pod.Link(ctx, r.owner.Ifname)
				return pod.Running || pod.Up != rtnl.On, err
			}) == nil
		}
		switch {
		case err == nil:
			return done, nil
		case !raced || attempt == attempts:
			return done, fmt.Errorf("veth %s: %w", r.owner.hostName(), err)
		}
	}
}

func (r *Reconciler) write(ctx context.Context, p Plan, done *Plan) error {
	did, err := reconcile.Write(ctx, r.host, p.Host)
	done.Host = append(done.Host, did...)
	if err != nil {
		return fmt.Errorf("on the host: %w", err)
	}
	if p.Pod.Empty() {
		return nil
	}
	did, err = reconcile.Write(ctx, r.pod, p.Pod)
	done.Pod = append(done.Pod, did...)
	if err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	return nil
}

// announce waits until packets reach the pod, and then has the kernel tell the neighbours who has the addresses now.
//
// The kernel announces addresses when the link goes up, if arp_notify and ndisc_notify are set, but the bridge often drops that: the port is not
// enabled yet (measured on 6.18; the reference plugin loses its announcement likewise, and neighbours keep the MAC of a reused address for up
// to 8 s). Setting the MAC to what it is makes the kernel announce them again.
func (r *Reconciler) announce(ctx context.Context, want Config, done *Plan) error {
	if err := await(ctx, func() (bool, error) { return r.reachable(ctx, want) }); err != nil {
		return err
	}
	if len(want.Addrs) == 0 {
		return nil
	}
	_, pod := r.owner.ends(want)
	return r.write(ctx, Plan{Pod: rtnl.Plan{{Verb: rtnl.Set, Object: rtnl.Link{Name: pod.Name, MAC: pod.MAC}}}}, done)
}

// announces reports whether the plan makes a pod known to its neighbours that was not: a new address, or an end that goes up.
func announces(p Plan) bool {
	for _, c := range slices.Concat(p.Host, p.Pod) {
		switch o := c.Object.(type) {
		case rtnl.Addr:
			return true
		case rtnl.Link:
			if o.Up == rtnl.On {
				return true
			}
		}
	}
	return false
}

// Bounds of the wait for the kernel's work queues, which need some 100 us, or a few ms on a busy machine. The pause leaves them the CPU.
const (
	awaitPause   = 50 * time.Microsecond
	awaitTimeout = 5 * time.Second
)

// await returns when cond is true, or with its error.
func await(ctx context.Context, cond func() (bool, error)) error {
	timeout := time.After(awaitTimeout)
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return fmt.Errorf("the kernel did not make it reachable within %v", awaitTimeout)
		case <-time.After(awaitPause):
		}
	}
}

// tableLocal is the routing table of the namespace's own addresses (RT_TABLE_LOCAL).
const tableLocal = 255

// reachable reports whether the bridge forwards to the pod, and the pod takes what comes to its addresses. What comes earlier is dropped, and it is up to the
// sender to repeat it, after 1 s. Neither is so when the kernel answers the
// changes: a port is enabled when a work queue has seen the carrier (the kernel looks at once if it is asked for the link, since Linux 6.10),
// and an IPv6 address gets its local route and its multicast group from another one, NoDAD or not (addrconf_dad_work; seen on 6.18).
func (r *Reconciler) reachable(ctx context.Context, want Config) (bool, error) {
	host, err := r.host.Link(ctx, r.owner.hostName())
	if err != nil || !host.Running {
		return false, err
	}
	for _, a := range want.Addrs {
		if a.Addr().Is4() {
			continue
		}
		route, err := r.pod.RouteTo(ctx, a.Addr())
		switch {
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
			return false, nil
		case err != nil || route.Table != tableLocal:
			return false, err
		}
	}
	return true, nil
}

// Check returns what of want is missing, nil if nothing is: the link, an address, a route. What chained plugins may have changed since, such as MTU, MAC
// or sysctls, is not looked at. That is CNI's CHECK; Plan is stricter.
func (r *Reconciler) Check(ctx context.Context, want Config) error {
	have, err := r.look(ctx, want)
	if err != nil {
		return err
	}
	if err := missing(r.owner, want, have); err != nil {
		return fmt.Errorf("veth %s: %w", r.owner.hostName(), err)
	}
	return nil
}

// snapshot is what the two kernels have.
type snapshot struct {
	host, pod rtnl.Link // without a name: there is none
	addrs     []rtnl.Addr
	routes    []rtnl.Route // of the tables that want names
	// Settings by name; for a link that is still to be made those of "default", which it will inherit.
	hostSysctls, podSysctls map[string]string
}

func (r *Reconciler) look(ctx context.Context, want Config) (have snapshot, err error) {
	faults := slices.Concat(r.owner.validate(!want.isZero()), want.validate())
	if len(faults) > 0 {
		return have, errors.Join(faults...)
	}
	if !want.isZero() && r.pod == nil {
		return have, errors.New("veth: no connection to the pod's network namespace: only the zero Config can do without")
	}
	have, err = r.observe(ctx, want)
	if err != nil {
		return have, fmt.Errorf("veth %s: %w", r.owner.hostName(), err)
	}
	return have, nil
}

func (r *Reconciler) observe(ctx context.Context, want Config) (have snapshot, err error) {
	if have.host, err = linkOrNone(ctx, r.host, r.owner.hostName()); err != nil || want.isZero() {
		return have, err
	}
	if have.pod, err = linkOrNone(ctx, r.pod, r.owner.Ifname); err != nil {
		return have, err
	}
	if have.host.Name == "" && have.pod.Name != "" { // perhaps made since
		if have.host, err = linkOrNone(ctx, r.host, r.owner.hostName()); err != nil {
			return have, err
		}
	}
	paired := have.paired()
	if have.hostSysctls, err = readSettings(ctx, r.host, hostSysctls(r.owner, want), paired); err != nil {
		return have, err
	}
	if have.podSysctls, err = readSettings(ctx, r.pod, podSysctls(r.owner, want), paired); err != nil {
		return have, err
	}
	if !paired {
		return have, nil
	}
	if have.addrs, err = r.pod.Addrs(ctx, r.owner.Ifname); err != nil {
		return have, err
	}
	for _, table := range tables(want.Routes) {
		routes, err := r.pod.Routes(ctx, rtnl.RouteFilter{Table: table, Link: r.owner.Ifname})
		if err != nil {
			return have, err
		}
		have.routes = append(have.routes, routes...)
	}
	return have, nil
}

// readSettings returns the values of settings, without those that the kernel does not have.
func readSettings(ctx context.Context, k Kernel, settings []setting, exists bool) (map[string]string, error) {
	values := make(map[string]string, len(settings))
	for _, s := range settings {
		from := s.Name
		if !exists {
			from = s.inherited
		}
		value, err := k.Sysctl(ctx, from)
		if errors.Is(err, fs.ErrNotExist) && from != s.inherited { // the link was removed since
			value, err = k.Sysctl(ctx, s.inherited)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // a kernel without IPv6
		case err != nil:
			return nil, err
		default:
			values[s.Name] = value
		}
	}
	return values, nil
}

func linkOrNone(ctx context.Context, k Kernel, name string) (rtnl.Link, error) {
	l, err := k.Link(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return rtnl.Link{}, nil
	}
	return l, err
}

// paired reports whether the two are the ends of one link: each end knows the index of the other in its own namespace.
func (s snapshot) paired() bool {
	return s.host.Kind == rtnl.KindVeth && s.pod.Kind == rtnl.KindVeth &&
		s.host.Veth.PeerIndex == s.pod.Index && s.pod.Veth.PeerIndex == s.host.Index
}
