package servicetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/podnet/podnet/service"
)

// Call is a call to the fake Dataplane that Fault may refuse.
type Call struct {
	Op   string       // "observe", "apply", "cleanup", "watch"; within an apply "set" and "delete", once for each Service that differs
	Name service.Name // of "set" and "delete"
}

// String returns the call as "set ns/name".
func (c Call) String() string {
	if c.Name == (service.Name{}) {
		return c.Op
	}
	return c.Op + " " + c.Name.String()
}

// Dataplane is a dataplane whose kernel is a map of programs. The zero value works. It may be used by several goroutines at once.
//
// Its kernel and its memory are two things, as with the real ones: Apply compares with the memory, Observe fills that from the kernel, Flush and Restart pull them apart.
type Dataplane struct {
	// Fault is asked before every call; an error makes that call fail and changes nothing. Of "set" and "delete" it fails that Service only. nil refuses nothing.
	// It must not call the Dataplane, and is not changed while calls are made.
	Fault func(Call) error

	// Caps is what Capabilities returns; its zero value stands for one named "fake" that knows TCP, UDP and SCTP.
	Caps service.Capabilities

	mu      sync.Mutex
	kernel  map[service.Name]service.Program // what packets meet
	memory  map[service.Name]service.Program // what Apply believes
	node    service.Node                     // of the kernel: the rules that depend on it
	local   []netip.Addr
	ready   bool // Observe was called
	foreign chan struct{}
	calls   []Call
	writes  int
	walk    *Programs
}

var _ Subject = (*Dataplane)(nil)

// Capabilities returns Caps.
func (d *Dataplane) Capabilities() service.Capabilities {
	if d.Caps.Name == "" {
		return service.Capabilities{Name: "fake", Protocols: []service.Protocol{service.TCP, service.UDP, service.SCTP}}
	}
	return d.Caps
}

// Observe fills the memory from the kernel.
func (d *Dataplane) Observe(ctx context.Context) (service.Observed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.call(ctx, Call{Op: "observe"}); err != nil {
		return service.Observed{}, err
	}
	seen := service.Observed{Foreign: d.ready && !maps.EqualFunc(d.kernel, d.memory, service.Program.Equal)}
	for _, p := range d.kernel {
		for _, port := range p.Ports {
			seen.Frontends += len(port.Frontends)
			seen.Backends += len(backends(port))
		}
	}
	d.memory, d.ready = maps.Clone(d.kernel), true
	return seen, nil
}

// Apply writes what differs from the memory.
func (d *Dataplane) Apply(ctx context.Context, delta service.Delta) (service.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready {
		return service.Result{}, errors.New("servicetest: Apply before Observe")
	}
	if err := d.call(ctx, Call{Op: "apply"}); err != nil {
		d.ready = false
		return service.Result{}, err
	}
	d.node, d.walk = delta.Node, nil
	gone := slices.Clone(delta.Delete)
	if delta.Full {
		for n := range d.memory {
			if !slices.ContainsFunc(delta.Set, func(p service.Program) bool { return p.Name == n }) {
				gone = append(gone, n)
			}
		}
	}
	slices.SortFunc(gone, compareNames)
	var r service.Result
	for _, n := range slices.Compact(gone) {
		if _, there := d.memory[n]; there {
			d.write(ctx, Call{"delete", n}, nil, &r)
		}
	}
	for _, p := range delta.Set {
		if old, there := d.memory[p.Name]; !there || !old.Equal(p) {
			d.write(ctx, Call{"set", p.Name}, &p, &r)
		}
	}
	return r, nil
}

func (d *Dataplane) write(ctx context.Context, c Call, p *service.Program, r *service.Result) {
	err := d.call(ctx, c)
	if err == nil && p != nil {
		err = check(*p)
	}
	if err != nil {
		if r.Failed == nil {
			r.Failed = map[service.Name]error{}
		}
		r.Failed[c.Name] = err
		return
	}
	if d.kernel == nil {
		d.kernel, d.memory = map[service.Name]service.Program{}, map[service.Name]service.Program{}
	}
	for _, m := range []map[service.Name]service.Program{d.kernel, d.memory} {
		if p == nil {
			delete(m, c.Name)
		} else {
			m[c.Name] = *p
		}
	}
	d.writes++
	r.Writes++
}

// check refuses what no kernel takes.
func check(p service.Program) error {
	for _, port := range p.Ports {
		for _, f := range port.Frontends {
			if f.Kind != service.NodePort && service.FamilyOf(f.Addr) != port.Family {
				return fmt.Errorf("%s %s is not %s", p.Name, f, port.Family)
			}
		}
		for _, b := range backends(port) {
			if service.FamilyOf(b.Addr.Addr()) != port.Family {
				return fmt.Errorf("%s: endpoint %s is not %s", p.Name, b.Addr, port.Family)
			}
		}
	}
	return nil
}

// Cleanup empties the kernel.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.call(ctx, Call{Op: "cleanup"}); err != nil {
		return err
	}
	d.writes += len(d.kernel)
	d.kernel, d.memory, d.walk, d.ready, d.node = nil, nil, nil, false, service.Node{}
	return nil
}

// Watch calls notify after every Flush, until ctx ends.
func (d *Dataplane) Watch(ctx context.Context, notify func()) error {
	d.mu.Lock()
	err := d.call(ctx, Call{Op: "watch"})
	if d.foreign == nil {
		d.foreign = make(chan struct{}, 1)
	}
	flushed := d.foreign
	d.mu.Unlock()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-flushed:
			notify()
		}
	}
}

// Flush is somebody else who empties the kernel.
func (d *Dataplane) Flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kernel, d.walk, d.node = map[service.Name]service.Program{}, nil, service.Node{}
	if d.foreign == nil {
		d.foreign = make(chan struct{}, 1)
	}
	select {
	case d.foreign <- struct{}{}:
	default:
	}
}

// Restart returns another Dataplane on the same kernel, which knows nothing of it yet. Use only one of them at a time.
func (d *Dataplane) Restart() *Dataplane {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Dataplane{Fault: d.Fault, Caps: d.Caps, kernel: maps.Clone(d.kernel), node: d.node, local: d.local}
}

// SetMachine tells the kernel's addresses.
func (d *Dataplane) SetMachine(m Machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.local, d.walk = slices.Clone(m.Local), nil
}

// Lookup sends a packet through the kernel.
func (d *Dataplane) Lookup(p Packet) (Verdict, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.walk == nil {
		programs := slices.SortedFunc(maps.Values(d.kernel), func(a, b service.Program) int { return compareNames(a.Name, b.Name) })
		d.walk = NewPrograms(Machine{d.node, d.local}, programs)
	}
	return d.walk.Lookup(p)
}

// Calls returns the calls so far, failed ones too.
func (d *Dataplane) Calls() []Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Writes returns how many programs were written or removed so far.
func (d *Dataplane) Writes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// call counts a call and asks whether it may be made. d.mu is held.
func (d *Dataplane) call(ctx context.Context, c Call) error {
	d.calls = append(d.calls, c)
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.Fault == nil {
		return nil
	}
	return d.Fault(c)
}

func compareNames(a, b service.Name) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
