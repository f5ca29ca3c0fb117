package masq

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// DefaultName is the name of the rules when Options give none.
const DefaultName = "podnet-masq"

// Options are the settings of a Reconciler. The zero Options work.
type Options struct {
	// Name keeps several users on one node apart, such as CNI networks; "" is DefaultName. Any text is allowed: the table and
	// the chains are named by its hash, so no name can reach a table that is not ours.
	Name string

	// Backend is where the rules go. Auto takes nftables where kernel and nft binary are there, else iptables.
	Backend Backend
}

// Observed is what the kernel has of one chain.
type Observed struct {
	Hooks    int      // nftables: 1 if the chain hangs where it should; iptables: number of jumps that lead to it
	Comments []string // of the rules, in order
}

// Kernel is what a Reconciler needs. [Netfilter] is the real one, masqtest.Kernel the fake.
type Kernel interface {
	// Probe returns nil if rules can be written with the backend, else an error that says what is missing.
	Probe(ctx context.Context, b Backend) error
	// Observe returns those of the chains that exist. What a missing backend could hold does not exist.
	Observe(ctx context.Context, chains []Chain) (map[Chain]Observed, error)
	// Set makes the chain exactly as given, whatever was there.
	Set(ctx context.Context, s Ruleset) error
	// Delete removes the chain and what leads to it; a missing one is no error.
	Delete(ctx context.Context, c Chain) error
	// Watch calls notify once it listens and whenever somebody changed the nftables table, until ctx ends.
	Watch(ctx context.Context, table string, notify func()) error
}

// Reconciler keeps the rules as a Config wants them. It holds no state: it may be used by several goroutines and processes.
type Reconciler struct {
	kernel  Kernel
	name    string
	backend Backend
}

// New returns a Reconciler. It touches nothing and runs nothing.
func New(k Kernel, o Options) *Reconciler {
	name := ""
	if o.Name != "" && o.Name != DefaultName {
		sum := sha256.Sum256([]byte(o.Name))
		name = "-" + hex.EncodeToString(sum[:6])
	}
	return &Reconciler{kernel: k, name: name, backend: o.Backend}
}

// Plan returns what Apply would do. It only reads. A family that cannot be read is an error, and the Plan holds the other's changes.
func (r *Reconciler) Plan(ctx context.Context, want Config) (Plan, error) {
	if err := want.Validate(); err != nil {
		return nil, fmt.Errorf("masq config: %w", err)
	}
	backend := Auto // of the zero Config: none, and all are cleaned
	if !want.zero() {
		var err error
		if backend, err = r.choose(ctx); err != nil {
			return nil, err
		}
	}
	var todo Plan
	var errs []error
	for _, f := range families() {
		owned := r.chains(f, backend)
		have, err := r.kernel.Observe(ctx, owned)
		if err != nil {
			errs = append(errs, fmt.Errorf("masq: read rules: %w", err))
			continue
		}
		todo = append(todo, plan(want, backend, owned, have)...)
	}
	return todo, errors.Join(errs...)
}

// Apply plans, writes, and returns what it did. A family that fails does not stop the other.
func (r *Reconciler) Apply(ctx context.Context, want Config) (Plan, error) {
	todo, err := r.Plan(ctx, want)
	var done Plan
	var failed []error
	broken := map[Family]bool{}
	for _, c := range todo {
		if c.Verb == Delete && broken[c.Chain.Family] {
			continue // the new rules are not in place: those of the other backend stay
		}
		var err error
		if c.Verb == Delete {
			err = r.kernel.Delete(ctx, c.Chain)
		} else {
			err = r.kernel.Set(ctx, c.Ruleset)
			broken[c.Chain.Family] = broken[c.Chain.Family] || err != nil
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("masq: %s: %w", c.Chain, err))
			continue
		}
		done = append(done, c)
	}
	return done, errors.Join(err, errors.Join(failed...))
}

// Watch calls notify once when it starts to listen, and then whenever somebody, this process included, changed the rules in nftables. It is a
// reason to Plan again. Lost notifications count as a change. Watch returns when ctx ends or the kernel cannot be listened to;
// with the iptables backend, which announces nothing, at once with an error that matches [errors.ErrUnsupported]: poll instead.
func (r *Reconciler) Watch(ctx context.Context, notify func()) error {
	backend, err := r.choose(ctx)
	if err != nil {
		return err
	}
	if backend == IPTables {
		return fmt.Errorf("masq: iptables announces no changes, poll instead: %w", errors.ErrUnsupported)
	}
	if err := r.kernel.Watch(ctx, DefaultName+r.name, notify); err != nil {
		return fmt.Errorf("masq: watch table %s: %w", DefaultName+r.name, err)
	}
	return nil
}

// choose returns the backend that holds the rules.
func (r *Reconciler) choose(ctx context.Context) (Backend, error) {
	switch r.backend {
	case NFTables, IPTables:
		return r.backend, nil
	case Auto:
	default:
		return 0, fmt.Errorf("masq options: Backend %d: allowed are Auto, NFTables, IPTables", r.backend)
	}
	nft := r.kernel.Probe(ctx, NFTables)
	if nft == nil {
		return NFTables, nil
	}
	if errors.Is(nft, fs.ErrPermission) {
		return 0, fmt.Errorf("masq: %w", nft) // iptables would say the same, less clearly
	}
	ipt := r.kernel.Probe(ctx, IPTables)
	if ipt == nil {
		return IPTables, nil
	}
	return 0, fmt.Errorf("masq: no packet filter to write rules with: %w; %w", nft, ipt)
}

// chains returns the chains of this name that are looked at. Looking into iptables costs a process per family, so rules in nftables do
// without: what an earlier iptables backend left behind there is cleaned by the zero Config.
func (r *Reconciler) chains(f Family, b Backend) []Chain {
	nft := Chain{NFTables, f, DefaultName + r.name, "postrouting"}
	if b == NFTables {
		return []Chain{nft}
	}
	return []Chain{{IPTables, f, "nat", "PODNET-MASQ" + r.name}, {IPTables, f, "filter", "PODNET-FWD" + r.name}, nft}
}

func (c Config) zero() bool {
	return len(c.PodCIDRs) == 0 && len(c.ClusterCIDRs) == 0 && len(c.NonMasquerade) == 0 && !c.Forward
}

// plan compares. Writes come before removals: no packet goes without rules while the backend is changed.
func plan(want Config, backend Backend, owned []Chain, have map[Chain]Observed) Plan {
	var sets, deletes Plan
	for _, c := range owned {
		var rules []Rule
		switch {
		case c.Backend != backend:
		case c.Table == "filter":
			rules = forward(want, c.Family)
		default:
			rules = postrouting(want, c.Family)
		}
		if c.Backend == IPTables {
			rules = splitRules(rules)
		}
		rules = stamped(c, rules)
		seen, exists := have[c]
		sameComment := func(comment string, r Rule) bool { return comment == r.Comment }
		switch {
		case len(rules) == 0 && exists:
			deletes = append(deletes, Change{Delete, Ruleset{Chain: c}})
		case len(rules) > 0 && (seen.Hooks != 1 || !slices.EqualFunc(seen.Comments, rules, sameComment)):
			sets = append(sets, Change{Set, Ruleset{c, rules}})
		}
	}
	return append(sets, deletes...)
}
