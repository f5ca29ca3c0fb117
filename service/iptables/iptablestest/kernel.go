package iptablestest

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
	"github.com/podnet/podnet/service/iptables"
)

// Call is one call to a Kernel.
type Call struct {
	Method string // "Save", "Restore", "Rules", "Insert", "Append" or "Delete"
	Family service.Family
	Table  string
	Chain  string
	Text   string // of Restore: the input
}

// Kernel is an iptables.Kernel in memory. The zero value is a host without rules or addresses.
type Kernel struct {
	mu     sync.Mutex
	tables map[place]chains
	fault  func(Call) error
	lacks  map[string]bool
	refuse string
	local  []netip.Addr
	writes int
}

type place struct {
	family service.Family
	table  string
}

// chains are the rules of a table.
type chains map[string][]rule

var _ iptables.Kernel = (*Kernel)(nil)

func builtin() map[string][]string {
	return map[string][]string{"nat": {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}, "filter": {"INPUT", "FORWARD", "OUTPUT"}}
}

// Fault makes every call ask f first; an error from f is the call's result and nothing happens. nil ends it. f may not call the Kernel.
func (k *Kernel) Fault(f func(Call) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// Lack takes a feature away, such as "recent", "sctp" or "REJECT": rules that use it are refused from now on.
func (k *Kernel) Lack(feature string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lacks == nil {
		k.lacks = map[string]bool{}
	}
	k.lacks[feature] = true
}

// Refuse makes the kernel refuse every rule with this word in it, as if it were wrong. "" ends it.
func (k *Kernel) Refuse(word string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = word
}

// SetLocal sets the host's addresses, without loopback.
func (k *Kernel) SetLocal(addrs ...netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.local = slices.Clone(addrs)
}

// Writes returns how many calls that change rules have succeeded.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// enter locks k for a call and returns its table, unless ctx or the fault hook refuses it.
func (k *Kernel) enter(ctx context.Context, c Call) (chains, error) {
	k.mu.Lock()
	err := ctx.Err()
	if err == nil && k.fault != nil {
		err = k.fault(c)
	}
	var t chains
	if err == nil && c.Table != "" {
		t, err = k.table(c.Family, c.Table)
	}
	if err != nil {
		k.mu.Unlock()
	}
	return t, err
}

// table returns a table, with its built-in chains.
func (k *Kernel) table(f service.Family, name string) (chains, error) {
	own, ok := builtin()[name]
	if !ok {
		return nil, fmt.Errorf("can't initialize table %q: table does not exist", name)
	}
	if k.tables == nil {
		k.tables = map[place]chains{}
	}
	t := k.tables[place{f, name}]
	if t == nil {
		t = chains{}
		for _, c := range own {
			t[c] = nil
		}
		k.tables[place{f, name}] = t
	}
	return t, nil
}

// Save prints a table.
func (k *Kernel) Save(ctx context.Context, f service.Family, table string) (string, error) {
	t, err := k.enter(ctx, Call{Method: "Save", Family: f, Table: table})
	if err != nil {
		return "", err
	}
	defer k.mu.Unlock()
	return t.String(table), nil
}

// String returns the table as iptables-save does, the chains sorted.
func (t chains) String(table string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	names := slices.Sorted(maps.Keys(t))
	for _, c := range names {
		policy := "-"
		if slices.Contains(builtin()[table], c) {
			policy = "ACCEPT"
		}
		fmt.Fprintf(&b, ":%s %s [0:0]\n", c, policy)
	}
	for _, c := range names {
		for _, r := range t[c] {
			fmt.Fprintf(&b, "-A %s %s\n", c, quoted(r.args))
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// quoted joins arguments, in quotes where iptables puts them.
func quoted(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if out[i] = a; strings.Contains(a, " ") {
			out[i] = `"` + a + `"`
		}
	}
	return strings.Join(out, " ")
}

// split is the reverse of quoted.
func split(line string) []string {
	var out []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// Rules lists a chain.
func (k *Kernel) Rules(ctx context.Context, f service.Family, table, chain string) ([]string, error) {
	t, err := k.enter(ctx, Call{Method: "Rules", Family: f, Table: table, Chain: chain})
	if err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	rules, ok := t[chain]
	if !ok {
		return nil, fmt.Errorf("chain %s: %w", chain, errNoChain)
	}
	var list []string
	for _, r := range rules {
		list = append(list, quoted(r.args))
	}
	return list, nil
}

var errNoChain = errors.New("no chain/target/match by that name")

// Insert puts a rule at the first place.
func (k *Kernel) Insert(ctx context.Context, f service.Family, table, chain string, args ...string) error {
	return k.change(ctx, Call{Method: "Insert", Family: f, Table: table, Chain: chain}, args, func(rules []rule, r rule) ([]rule, error) {
		return slices.Insert(slices.Clone(rules), 0, r), nil
	})
}

// Append puts a rule at the last place.
func (k *Kernel) Append(ctx context.Context, f service.Family, table, chain string, args ...string) error {
	return k.change(ctx, Call{Method: "Append", Family: f, Table: table, Chain: chain}, args, func(rules []rule, r rule) ([]rule, error) {
		return append(slices.Clone(rules), r), nil
	})
}

// Delete removes a rule.
func (k *Kernel) Delete(ctx context.Context, f service.Family, table, chain string, args ...string) error {
	return k.change(ctx, Call{Method: "Delete", Family: f, Table: table, Chain: chain}, args, func(rules []rule, r rule) ([]rule, error) {
		i := slices.IndexFunc(rules, func(have rule) bool { return slices.Equal(have.args, r.args) })
		if i < 0 {
			return nil, errors.New("bad rule (does a matching rule exist in that chain?)")
		}
		return slices.Delete(slices.Clone(rules), i, i+1), nil
	})
}

func (k *Kernel) change(ctx context.Context, c Call, args []string, do func([]rule, rule) ([]rule, error)) error {
	t, err := k.enter(ctx, c)
	if err != nil {
		return err
	}
	defer k.mu.Unlock()
	r, err := parseRule(slices.Clone(args), int(c.Family))
	if err == nil {
		err = k.takes(t, c.Chain, r)
	}
	if err != nil {
		return err
	}
	rules, err := do(t[c.Chain], r)
	if err != nil {
		return err
	}
	t[c.Chain] = rules
	k.writes++
	return nil
}

// takes refuses a rule that the kernel has no place for.
func (k *Kernel) takes(t chains, chain string, r rule) error {
	if _, ok := t[chain]; !ok {
		return fmt.Errorf("chain %s: %w", chain, errNoChain)
	}
	if _, ok := t[r.target]; r.jump && !ok {
		return fmt.Errorf("couldn't load target %q: %w", r.target, errNoChain)
	}
	if k.refuse != "" && slices.Contains(r.args, k.refuse) {
		return fmt.Errorf("bad argument %q", k.refuse)
	}
	for _, n := range r.needs() {
		if k.lacks[n] {
			return fmt.Errorf("extension %s revision 0 not supported, missing kernel module?", n)
		}
	}
	return nil
}

// Flush removes all rules of a table, and all chains that are not built in, as "iptables -F; iptables -X" do.
func (k *Kernel) Flush(f service.Family, table string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.tables, place{f, table})
}

// Dump prints all tables as iptables-save does.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, f := range service.Families() {
		for _, table := range []string{"filter", "nat"} {
			if t := k.tables[place{f, table}]; t != nil {
				fmt.Fprintf(&b, "# %s\n%s", f, t.String(table))
			}
		}
	}
	return b.String()
}
