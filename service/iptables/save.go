package iptables

import (
	"fmt"
	"strconv"
	"strings"
)

// saved is what iptables-save says of a table: the fingerprints of our chains, and the rules of the built-in ones that lead to them.
type saved struct {
	chains    map[string]string
	jumps     map[string][]string // by built-in chain: the arguments of the rules, as they were printed
	frontends int
	backends  int
}

// unknown is the fingerprint of a chain which is not as somebody wrote it whom we know.
const unknown = "?"

// parseSave reads the output of iptables-save for one table.
func parseSave(text string, n names) saved {
	s := saved{chains: map[string]string{}, jumps: map[string][]string{}}
	rules := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(line, ":"); ok {
			if name, _, _ := strings.Cut(name, " "); n.ours(name) {
				s.chains[name] = unknown
			}
			continue
		}
		rest, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		chain, args, _ := strings.Cut(rest, " ")
		if !n.ours(chain) {
			if n.ours(target(args)) {
				s.jumps[chain] = append(s.jumps[chain], args)
			}
			continue
		}
		rules[chain]++
		if rules[chain] == 1 {
			s.chains[chain] = fingerprintOf(args)
		}
		s.count(chain, args, n)
	}
	for c, f := range s.chains {
		_, count, _ := strings.Cut(strings.TrimPrefix(f, "podnet-"), "-")
		if n, err := strconv.Atoi(count); err != nil || n != rules[c] {
			s.chains[c] = unknown
		}
	}
	return s
}

// count counts frontends, which stand in the indexes of addresses and ports, and endpoints.
func (s *saved) count(chain, args string, n names) {
	kind := strings.TrimPrefix(chain, n.prefix)
	switch to := target(args); {
	case to == "DNAT":
		s.backends++
	case (strings.HasPrefix(kind, "V-") || strings.HasPrefix(kind, "P-")) && strings.Contains(args, " --dport ") && n.ours(to) && strings.Contains(args, " -j "):
		if !strings.HasPrefix(to, n.prefix+"MARK-") {
			s.frontends++
		}
	}
}

// target returns where a rule leads.
func target(args string) string {
	for _, flag := range []string{"-j ", "-g "} {
		if i := strings.LastIndex(args, flag); i == 0 || i > 0 && args[i-1] == ' ' {
			t, _, _ := strings.Cut(args[i+len(flag):], " ")
			return t
		}
	}
	return ""
}

// fingerprintOf finds our fingerprint in a rule's comment.
func fingerprintOf(args string) string {
	i := strings.Index(args, "podnet-")
	if i < 0 || !strings.Contains(args[:i], "--comment ") {
		return unknown
	}
	f := args[i:]
	if end := strings.IndexAny(f, " \""); end >= 0 {
		f = f[:end]
	}
	return f
}

// fields splits arguments as iptables prints them: blanks separate, double quotes group.
func fields(args string) []string {
	var out []string
	for i, part := range strings.Split(args, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// hook is a built-in chain and the rule in it that leads to a chain of ours.
type hook struct {
	table, chain, to string
	match            []string
	last             bool // behind the rules of others
}

// hooks are the rules that lead to our chains.
func (n names) hooks(forward bool) []hook {
	fresh := []string{"-m", "conntrack", "--ctstate", "NEW"}
	list := []hook{
		{table: "nat", chain: "PREROUTING", to: dispatch}, {table: "nat", chain: "OUTPUT", to: dispatch}, {table: "nat", chain: "POSTROUTING", to: postrouting},
		{table: "filter", chain: "INPUT", to: filter, match: fresh}, {table: "filter", chain: "FORWARD", to: filter, match: fresh}, {table: "filter", chain: "OUTPUT", to: filter, match: fresh},
	}
	if forward {
		list = append(list, hook{table: "filter", chain: "FORWARD", to: accept, last: true})
	}
	for i := range list {
		list[i].to = n.fixed(list[i].to)
	}
	return list
}

// args are the arguments of the rule.
func (h hook) args() []string {
	return append(append([]string{}, h.match...), "-m", "comment", "--comment", "podnet Services", "-j", h.to)
}

func (h hook) String() string { return fmt.Sprintf("%s %s -> %s", h.table, h.chain, h.to) }
