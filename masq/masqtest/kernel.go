package masqtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/podnet/podnet/masq"
)

// Call is one call to a Kernel.
type Call struct {
	Method string     // "Probe", "Observe", "Set", "Delete" or "Watch"
	Chain  masq.Chain // Set and Delete; Probe gives the backend only
}

// Kernel is a masq.Kernel in memory. The zero value is a host with nftables and iptables and no rules.
type Kernel struct {
	mu       sync.Mutex
	chains   map[masq.Chain]*chain
	missing  map[masq.Backend]bool
	fault    func(Call) error
	writes   int
	watchers map[*watcher]bool
}

type chain struct {
	hooks int
	rules []masq.Rule
}

type watcher struct {
	table string
	wake  chan struct{}
}

var _ masq.Kernel = (*Kernel)(nil)

// Missing makes a backend absent, as on a host without its package; rules that it holds stay.
func (k *Kernel) Missing(b masq.Backend) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.missing == nil {
		k.missing = map[masq.Backend]bool{}
	}
	k.missing[b] = true
}

// Fault makes every call ask f first; an error from f is the call's result and nothing happens. nil ends it.
func (k *Kernel) Fault(f func(Call) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// Writes returns the number of Set and Delete calls that succeeded.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// enter locks k for a call, unless ctx or the fault hook refuses it. The hook may not call k.
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

// Probe fails for a backend that Missing took away.
func (k *Kernel) Probe(ctx context.Context, b masq.Backend) error {
	if err := k.enter(ctx, Call{Method: "Probe", Chain: masq.Chain{Backend: b}}); err != nil {
		return err
	}
	defer k.mu.Unlock()
	return k.available(b)
}

func (k *Kernel) available(b masq.Backend) error {
	if k.missing[b] {
		return fmt.Errorf("%s: not found: %w", b, fs.ErrNotExist)
	}
	return nil
}

// Observe returns those of the chains that exist.
func (k *Kernel) Observe(ctx context.Context, chains []masq.Chain) (map[masq.Chain]masq.Observed, error) {
	if err := k.enter(ctx, Call{Method: "Observe"}); err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	have := map[masq.Chain]masq.Observed{}
	for _, c := range chains {
		held := k.chains[c]
		if held == nil || c.Backend == masq.IPTables && k.missing[masq.IPTables] {
			continue
		}
		seen := masq.Observed{Hooks: held.hooks}
		for _, r := range held.rules {
			seen.Comments = append(seen.Comments, r.Comment)
		}
		have[c] = seen
	}
	return have, nil
}

// Set replaces a chain.
func (k *Kernel) Set(ctx context.Context, s masq.Ruleset) error {
	if err := k.enter(ctx, Call{"Set", s.Chain}); err != nil {
		return err
	}
	defer k.mu.Unlock()
	if err := k.available(s.Chain.Backend); err != nil {
		return err
	}
	if err := check(s); err != nil {
		return fmt.Errorf("set %s: %w", s.Chain, err)
	}
	if k.chains == nil {
		k.chains = map[masq.Chain]*chain{}
	}
	k.chains[s.Chain] = &chain{hooks: 1, rules: slices.Clone(s.Rules)}
	k.writes++
	k.changed(s.Chain)
	return nil
}

// Delete removes a chain.
func (k *Kernel) Delete(ctx context.Context, c masq.Chain) error {
	if err := k.enter(ctx, Call{"Delete", c}); err != nil {
		return err
	}
	defer k.mu.Unlock()
	if c.Backend == masq.IPTables {
		if err := k.available(c.Backend); err != nil {
			return err
		}
	}
	if k.chains[c] != nil {
		delete(k.chains, c)
		k.writes++
		k.changed(c)
	}
	return nil
}

// Watch calls notify as masq.Kernel says.
func (k *Kernel) Watch(ctx context.Context, table string, notify func()) error {
	if err := k.enter(ctx, Call{Method: "Watch"}); err != nil {
		return err
	}
	w := &watcher{table, make(chan struct{}, 1)}
	if k.watchers == nil {
		k.watchers = map[*watcher]bool{}
	}
	k.watchers[w] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, w)
	}()
	notify()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
			notify()
		}
	}
}

// changed wakes those who watch the table of c. Several changes may be announced as one.
func (k *Kernel) changed(c masq.Chain) {
	for w := range k.watchers {
		if c.Backend == masq.NFTables && w.table == c.Table {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// check refuses what nft and iptables-restore refuse. Ranges that overlap in one anonymous set they take (nft 1.0.6 merges them).
func check(s masq.Ruleset) error {
	for i, r := range s.Rules {
		for _, p := range slices.Concat(r.Src, r.Dst) {
			if p.Addr().Is4() != (s.Chain.Family == masq.IPv4) {
				return fmt.Errorf("rule %d: %s is not of family %s: %w", i, p, s.Chain.Family, errors.ErrUnsupported)
			}
		}
		switch {
		case s.Chain.Backend == masq.NFTables && len(r.Comment) > 128: // NFTNL_UDATA_COMMENT_MAXLEN; iptables cuts
			return fmt.Errorf("rule %d: comment of %d bytes: %w", i, len(r.Comment), errors.ErrUnsupported)
		case r.Verdict != masq.Return && r.Verdict != masq.Masquerade && r.Verdict != masq.Accept:
			return fmt.Errorf("rule %d: verdict %d: %w", i, r.Verdict, errors.ErrUnsupported)
		}
	}
	if s.Chain.Backend != masq.NFTables && s.Chain.Backend != masq.IPTables {
		return fmt.Errorf("backend %s: %w", s.Chain.Backend, errors.ErrUnsupported)
	}
	return nil
}

// sorted returns the names of the chains that exist, those of nftables first.
func (k *Kernel) sorted() []masq.Chain {
	return slices.SortedFunc(maps.Keys(k.chains), func(a, b masq.Chain) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Name, b.Name))
	})
}

// Dump prints all chains in nft and iptables-save syntax, sorted.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, c := range k.sorted() {
		held := k.chains[c]
		if held.hooks != 1 {
			fmt.Fprintf(&b, "# hooked %d times\n", held.hooks)
		}
		b.WriteString(masq.Ruleset{Chain: c, Rules: held.rules}.String())
	}
	return b.String()
}

// Packet is the first packet of a connection as it leaves the node.
type Packet struct {
	Src, Dst netip.Addr
	Mark     uint32
}

// Lookup sends a packet through all chains at the source NAT hook: the first that masquerades it wins. It returns masq.Masquerade, or masq.Return
// for a packet that leaves as it is.
func (k *Kernel) Lookup(p Packet) masq.Verdict {
	k.mu.Lock()
	defer k.mu.Unlock()
	family := masq.IPv4
	if p.Src.Is6() {
		family = masq.IPv6
	}
	for _, c := range k.sorted() {
		held := k.chains[c]
		if c.Family != family || c.Table == "filter" || held.hooks == 0 {
			continue
		}
		applies := func(r masq.Rule) bool { return r.Match(p.Src, p.Dst, p.Mark) }
		if i := slices.IndexFunc(held.rules, applies); i >= 0 && held.rules[i].Verdict == masq.Masquerade {
			return masq.Masquerade
		}
	}
	return masq.Return
}

// Chains returns the chains that exist, those of nftables first.
func (k *Kernel) Chains() []masq.Chain {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sorted()
}

// Flush removes everything, as "nft flush ruleset" and "iptables -F -X" do.
func (k *Kernel) Flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.sorted() {
		delete(k.chains, c)
		k.changed(c)
	}
}

// Edit changes the rules of an existing chain by hand.
func (k *Kernel) Edit(c masq.Chain, edit func([]masq.Rule) []masq.Rule) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if held := k.chains[c]; held != nil {
		held.rules = edit(slices.Clone(held.rules))
		k.changed(c)
	}
}

// Hook changes how often a chain is reached: 0 for a deleted jump or a base chain of another kind, 2 for a jump that stands twice.
func (k *Kernel) Hook(c masq.Chain, times int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if held := k.chains[c]; held != nil {
		held.hooks = times
		k.changed(c)
	}
}
