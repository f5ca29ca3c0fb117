package conntracktest

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/podnet/podnet/service/conntrack"
)

// Call is one call to a Kernel.
type Call struct {
	Method string           // "Flows", "Delete" or "Local"
	Filter conntrack.Filter // of Flows
}

// Kernel is a conntrack.Kernel in memory. The zero value tracks no flow and has no local address.
type Kernel struct {
	mu    sync.Mutex
	flows map[tuple]conntrack.Flow
	local []netip.Prefix
	fault func(Call) error
	last  uint32
}

// tuple is what the kernel finds a flow by.
type tuple struct {
	protocol conntrack.Protocol
	src, dst netip.AddrPort
}

func tupleOf(f conntrack.Flow) tuple { return tuple{f.Protocol, f.Src, f.Dst} }

var _ conntrack.Kernel = (*Kernel)(nil)

// Track records flows, and gives them their ids. One with the same protocol, source and destination replaces the other, as after a timeout.
func (k *Kernel) Track(flows ...conntrack.Flow) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flows == nil {
		k.flows = map[tuple]conntrack.Flow{}
	}
	for _, f := range flows {
		k.last++
		f.ID = k.last
		k.flows[tupleOf(f)] = f
	}
}

// SetLocal sets the ranges of addresses that the host takes for its own.
func (k *Kernel) SetLocal(ranges ...netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.local = slices.Clone(ranges)
}

// Fault makes every call ask f first; an error from f is the call's result and nothing happens. nil ends it. f may not call the Kernel.
func (k *Kernel) Fault(f func(Call) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// Flows calls visit for every flow that matches, in the order of sources and destinations.
func (k *Kernel) Flows(ctx context.Context, f conntrack.Filter, visit func(*conntrack.Flow) error) error {
	if err := k.enter(ctx, Call{"Flows", f}); err != nil {
		return err
	}
	list := k.sorted()
	k.mu.Unlock() // visit may delete
	for _, flow := range list {
		if !f.Match(&flow) {
			continue
		}
		if err := visit(&flow); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes flows.
func (k *Kernel) Delete(ctx context.Context, flows []conntrack.Flow) (int, error) {
	if err := k.enter(ctx, Call{Method: "Delete"}); err != nil {
		return 0, err
	}
	defer k.mu.Unlock()
	n := 0
	for _, f := range flows {
		if have, ok := k.flows[tupleOf(f)]; ok && have.ID == f.ID {
			delete(k.flows, tupleOf(f))
			n++
		}
	}
	return n, nil
}

// Local returns what SetLocal set.
func (k *Kernel) Local(ctx context.Context) ([]netip.Prefix, error) {
	if err := k.enter(ctx, Call{Method: "Local"}); err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	return slices.Clone(k.local), nil
}

// Dump prints the flows, one per line, sorted.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, f := range k.sorted() {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// enter locks k for a call, unless ctx or the fault hook refuses it.
func (k *Kernel) enter(ctx context.Context, c Call) error {
	k.mu.Lock()
	err := ctx.Err()
	if err == nil && k.fault != nil {
		err = k.fault(c)
	}
	if err != nil {
		k.mu.Unlock()
	}
	return err
}

func (k *Kernel) sorted() []conntrack.Flow {
	list := make([]conntrack.Flow, 0, len(k.flows))
	for _, f := range k.flows {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b conntrack.Flow) int {
		return cmp.Or(a.Src.Compare(b.Src), a.Dst.Compare(b.Dst), cmp.Compare(a.Protocol, b.Protocol))
	})
	return list
}
