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

// Apply does it and returns what it did. When it returns after making a link, packets flow: the bridge forwards to it, its addresses need no
// duplicate address detection, and the neighbours know who has them.
//
// After an error the link may be half made; the next Apply completes it, and Apply of the zero Config removes it.
func (r *Reconciler) Apply(ctx context.Context, want Config) (Plan, error) {
	var done Plan
	announce := false
	for attempt := 1; ; attempt++ {
		p, err := r.Plan(ctx, want)
		if err != nil {
			return done, err
		}
		announce = announce || announces(p)
		err = r.write(ctx, want, p, announce, &done)
		// EACCES: IPv6 is switched off on a link that was just made; now that it is there, its settings are read.
		again := errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EACCES)
		switch {
		case err == nil:
			return done, nil
		case !again || attempt == attempts:
			return done, fmt.Errorf("veth %s: %w", r.owner.hostName(), err)
		}
	}
}

// write executes a plan, first on the host.
//
// If neighbours are to know about the pod, what is up to the routes is done first. Then packets must reach the pod (IPv6 refuses a gateway before its
// work queue has seen the carrier). Then follow the routes, and the MAC once more: thereby the kernel announces the addresses (arp_notify,
// ndisc_notify). It does so as well when a link goes up, but then the bridge often drops it, since its port is not enabled yet (measured on
// 6.18; the reference plugin loses its announcement likewise, and neighbours keep the MAC of a reused address for up to 8 s).
func (r *Reconciler) write(ctx context.Context, want Config, p Plan, announce bool, done *Plan) error {
	if err := r.writePart(ctx, "on the host", r.host, p.Host, &done.Host); err != nil {
		return err
	}
	if !announce {
		return r.writePart(ctx, "in the pod", r.pod, p.Pod, &done.Pod)
	}
	routes := slices.IndexFunc(p.Pod, func(c rtnl.Change) bool { _, is := c.Object.(rtnl.Route); return is })
	if routes < 0 {
		routes = len(p.Pod)
	}
	if err := r.writePart(ctx, "in the pod", r.pod, p.Pod[:routes], &done.Pod); err != nil {
		return err
	}
	if err := r.awaitReachable(ctx, want); err != nil {
		return err
	}
	rest := slices.Clone(p.Pod[routes:])
	if len(want.Addrs) > 0 && !want.Quiet {
		_, pod := r.owner.ends(want)
		rest = append(rest, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: pod.Name, MAC: pod.MAC}})
	}
	return r.writePart(ctx, "in the pod", r.pod, rest, &done.Pod)
}

func (r *Reconciler) writePart(ctx context.Context, where string, k Kernel, p rtnl.Plan, done *rtnl.Plan) error {
	did, err := reconcile.Write(ctx, k, p) // writes nothing for an empty plan
	*done = append(*done, did...)
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
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

// Bounds of the wait for the kernel's work queues, which need some 100 us, or a few ms on a busy machine. With 100 ADDs at once on 2 cores it is seconds:
// IPv6 has one work item after the other for all addresses of all namespaces, and each waits for the lock of rtnetlink (addrconf_wq, Linux 6.18).
const (
	awaitPause    = 20 * time.Microsecond  // the first, doubled each time up to awaitMaxPause
	awaitMaxPause = 20 * time.Millisecond  // many ADDs at once must not keep the kernel from its work by looking
	awaitLook     = 100 * time.Millisecond // between looks whether the link is still there
	awaitAgain    = 2 * time.Second        // before IPv6 addresses are added once more; doubled each time
	awaitTimeout  = 30 * time.Second
)

// awaitReachable returns when packets reach the pod. It pauses between looks: the work queue mostly runs on the same CPU.
func (r *Reconciler) awaitReachable(ctx context.Context, want Config) error {
	deadline, look := time.Now().Add(awaitTimeout), time.Now().Add(awaitLook)
	again, patience := time.Now().Add(awaitAgain), awaitAgain
	for wait := awaitPause; ; wait = min(2*wait, awaitMaxPause) {
		missing, err := r.unreachable(ctx, want)
		if missing == "" || err != nil {
			return err
		}
		if time.Now().After(look) { // somebody may have taken the link away meanwhile
			if _, err := r.host.Link(ctx, r.owner.hostName()); err != nil {
				return err
			}
			look = time.Now().Add(awaitLook)
		}
		if time.Now().After(again) {
			r.addAgain(ctx, want)
			patience *= 2
			again = time.Now().Add(patience)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the kernel did not make it reachable within %v: %s", awaitTimeout, missing)
		}
		pause(wait)
	}
}

// addAgain adds the IPv6 addresses once more. With 100 ADDs at once and a load of 20, some addresses had their prefix route but no local route for 30 s
// (Linux 6.18, 1 to 3 of 100 in every second run): the pod would have been unreachable by them for ever. The cause was not found, and the state has not come
// back since the link-local address keeps its detection, so that adding again cures it is not proved.
func (r *Reconciler) addAgain(ctx context.Context, want Config) {
	var p rtnl.Plan
	for _, a := range want.Addrs {
		if a.Addr().Is6() {
			object := rtnl.Addr{Link: r.owner.Ifname, Prefix: a, NoDAD: true}
			p = append(p, rtnl.Change{Verb: rtnl.Delete, Object: object}, rtnl.Change{Verb: rtnl.Add, Object: object})
		}
	}
	_ = r.pod.Write(ctx, p) // whether it helped is what the caller looks at next
}

// tableLocal is the routing table of the namespace's own addresses (RT_TABLE_LOCAL).
const tableLocal = 255

// unreachable says what packets still lack on their way to the pod, "" if nothing: the bridge forwards to the pod, and the pod takes what comes to its
// addresses. What comes earlier is dropped, and it is up to the sender to repeat it, after 1 s. Neither is so when the kernel answers the
// changes: a port is enabled when a work queue has seen the carrier (the kernel looks at once if it is asked for the link, since Linux 6.10),
// and an IPv6 address gets its local route and its multicast group from another one, NoDAD or not (addrconf_dad_work; seen on 6.18).
func (r *Reconciler) unreachable(ctx context.Context, want Config) (missing string, err error) {
	for _, a := range want.Addrs { // first what the kernel answers without the lock of rtnetlink
		if a.Addr().Is4() {
			continue
		}
		route, err := r.pod.RouteTo(ctx, a.Addr())
		switch {
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
			return "no route to " + a.Addr().String() + " in the pod", nil
		case err != nil:
			return "", err
		case route.Table != tableLocal:
			return a.Addr().String() + " is not local in the pod: " + route.String(), nil
		}
	}
	host, err := r.host.Link(ctx, r.owner.hostName())
	if err != nil || host.Running {
		return "", err
	}
	return "the host end has no carrier", nil
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
	ipv6Off   string       // the sysctl; "" = a kernel without IPv6

	// Settings of a link that is there, by name. A new link gets all of them unread: to enter a namespace for a look costs more than the write.
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
	at := r.pod
	if !paired {
		at = r.host // which tells as well whether the kernel has IPv6, and sooner: the caller mostly lives there
	}
	if have.ipv6Off, err = sysctlOrNone(ctx, at, ipv6Off); err != nil {
		return have, err
	}
	if !paired {
		return have, nil
	}
	if have.hostSysctls, err = readSettings(ctx, r.host, hostSysctls(r.owner, want)); err != nil {
		return have, err
	}
	if have.podSysctls, err = readSettings(ctx, r.pod, podSysctls(r.owner, want, have.ipv6Off)); err != nil {
		return have, err
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

// readSettings returns the values of settings, without those that do not exist.
func readSettings(ctx context.Context, k Kernel, settings []rtnl.Sysctl) (map[string]string, error) {
	values := make(map[string]string, len(settings))
	for _, s := range settings {
		value, err := sysctlOrNone(ctx, k, s.Name)
		if err != nil {
			return nil, err
		}
		if value != "" {
			values[s.Name] = value
		}
	}
	return values, nil
}

func sysctlOrNone(ctx context.Context, k Kernel, name string) (string, error) {
	value, err := k.Sysctl(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return value, err
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
