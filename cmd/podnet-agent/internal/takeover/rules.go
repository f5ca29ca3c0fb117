package takeover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podnet/podnet/masq"
)

// rules are the chains that flannel makes, with iptables or with nftables (v0.28).
var rules = []masq.Chain{
	{Backend: masq.IPTables, Family: masq.IPv4, Table: "nat", Name: "FLANNEL-POSTRTG"},
	{Backend: masq.IPTables, Family: masq.IPv4, Table: "filter", Name: "FLANNEL-FWD"},
	{Backend: masq.IPTables, Family: masq.IPv6, Table: "nat", Name: "FLANNEL-POSTRTG"},
	{Backend: masq.IPTables, Family: masq.IPv6, Table: "filter", Name: "FLANNEL-FWD"},
	{Backend: masq.NFTables, Family: masq.IPv4, Table: "flannel-ipv4", Name: "postrtg"},
	{Backend: masq.NFTables, Family: masq.IPv6, Table: "flannel-ipv6", Name: "postrtg"},
}

// builtin is the built-in chain from which flannel jumps, by table.
var builtin = map[string]string{"nat": "POSTROUTING", "filter": "FORWARD"}

// Netfilter is what Rules needs of the kernel; [masq.Netfilter] has it.
type Netfilter interface {
	Observe(ctx context.Context, chains []masq.Chain) (map[masq.Chain]masq.Observed, error)
	Delete(ctx context.Context, c masq.Chain) error
}

// Rules removes flannel's rules.
type Rules struct {
	Kernel Netfilter
	// ForwardDrops reports whether the FORWARD chain of a family drops what nobody accepts: then flannel's accepting rules stay. Nil: it does not.
	ForwardDrops func(ctx context.Context, f masq.Family) (bool, error)
}

// Removal is one chain of flannel, and why it stays if it does.
type Removal struct {
	Chain masq.Chain
	Stays string
}

// String returns the removal as commands, one per line.
func (r Removal) String() string {
	lines := Commands(masq.Plan{{Verb: masq.Delete, Ruleset: masq.Ruleset{Chain: r.Chain}}})
	if r.Stays != "" {
		lines = fmt.Sprintf("# %s stays: %s", r.Chain, r.Stays)
	}
	return lines
}

// Commands returns a plan of removals as the commands that would do the same.
func Commands(p masq.Plan) string {
	var lines []string
	for line := range strings.Lines(p.String()) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "delete table") {
			line = "nft " + line
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// Plan returns what there is.
func (r Rules) Plan(ctx context.Context) ([]Removal, error) {
	have, err := r.Kernel.Observe(ctx, rules)
	if err != nil {
		return nil, fmt.Errorf("look for flannel's rules: %w", err)
	}
	var out []Removal
	for _, c := range rules {
		if _, ok := have[c]; !ok {
			continue
		}
		todo := Removal{Chain: c}
		if c.Name == "FLANNEL-FWD" && r.ForwardDrops != nil {
			drops, err := r.ForwardDrops(ctx, c.Family)
			if err != nil {
				return out, fmt.Errorf("look for the policy of FORWARD: %w", err)
			}
			if drops {
				todo.Stays = "the policy of FORWARD is DROP, and nothing else accepts the pods' traffic"
			}
		}
		out = append(out, todo)
	}
	return out, nil
}

// Apply removes what can be removed, and returns all that there was.
func (r Rules) Apply(ctx context.Context) ([]Removal, error) {
	todo, err := r.Plan(ctx)
	faults := []error{err}
	for _, t := range todo {
		if t.Stays == "" {
			faults = append(faults, r.Kernel.Delete(ctx, t.Chain))
		}
	}
	return todo, errors.Join(faults...)
}

// Lister lists the rules of a chain, as iptables -S does; go-iptables has it.
type Lister interface {
	List(table, chain string) ([]string, error)
}

// PolicyDrops reports whether the FORWARD chain drops what none of its rules decides.
func PolicyDrops(l Lister) (bool, error) {
	lines, err := l.List("filter", "FORWARD")
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "-P FORWARD DROP") }), nil
}
