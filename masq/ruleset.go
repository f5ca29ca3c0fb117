package masq

import (
	"fmt"
	"net/netip"
	"strings"
)

// Backend is the packet filter that holds the rules.
type Backend uint8

// The backends. Auto takes NFTables where kernel and nft binary are there, else IPTables.
const (
	Auto Backend = iota
	NFTables
	IPTables
)

// String returns "auto", "nftables" or "iptables".
func (b Backend) String() string {
	switch b {
	case Auto:
		return "auto"
	case NFTables:
		return "nftables"
	case IPTables:
		return "iptables"
	}
	return fmt.Sprintf("backend(%d)", uint8(b))
}

// Family is an address family, by the name nft gives it.
type Family string

// The families.
const (
	IPv4 Family = "ip"
	IPv6 Family = "ip6"
)

func families() [2]Family { return [2]Family{IPv4, IPv6} }

func familyOf(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

// Verdict is what a rule does with a packet.
type Verdict uint8

// The verdicts. Return leaves the packet as it is, Masquerade gives it an address of the node and a random port, Accept lets it be forwarded.
const (
	Return Verdict = iota + 1
	Masquerade
	Accept
)

// String returns the nft statement.
func (v Verdict) String() string {
	switch v {
	case Return:
		return "return"
	case Masquerade:
		return "masquerade fully-random"
	case Accept:
		return "accept"
	}
	return "invalid"
}

// Rule is one rule. Empty fields match everything.
type Rule struct {
	Mark     uint32 // all of these bits are set in the packet mark
	Src, Dst []netip.Prefix
	Verdict  Verdict
	Comment  string // fingerprint of the whole set, place in it, reason; the kernel stores it
}

// Match reports whether the rule applies to a packet.
func (r Rule) Match(src, dst netip.Addr, mark uint32) bool {
	return mark&r.Mark == r.Mark && in(r.Src, src) && in(r.Dst, dst)
}

func in(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return len(list) == 0
}

// nft returns the rule in nft syntax. CIDR lists are anonymous sets: nobody can empty them without deleting the rule.
func (r Rule) nft(f Family) string {
	var b strings.Builder
	if r.Mark != 0 {
		fmt.Fprintf(&b, "meta mark & %#x == %#x ", r.Mark, r.Mark)
	}
	for _, m := range []struct {
		field string
		list  []netip.Prefix
	}{{"saddr", r.Src}, {"daddr", r.Dst}} {
		switch len(m.list) {
		case 0:
		case 1:
			fmt.Fprintf(&b, "%s %s %s ", f, m.field, m.list[0])
		default:
			fmt.Fprintf(&b, "%s %s { %s } ", f, m.field, join(m.list))
		}
	}
	b.WriteString(r.Verdict.String())
	return b.String()
}

func join(list []netip.Prefix) string {
	s := make([]string, len(list))
	for i, p := range list {
		s[i] = p.String()
	}
	return strings.Join(s, ", ")
}

// iptables returns the rule's arguments. It has at most one source and one destination, see splitRules.
func (r Rule) iptables() []string {
	var args []string
	for _, p := range r.Src {
		args = append(args, "-s", p.String())
	}
	for _, p := range r.Dst {
		args = append(args, "-d", p.String())
	}
	if r.Mark != 0 {
		args = append(args, "-m", "mark", "--mark", fmt.Sprintf("%#x/%#x", r.Mark, r.Mark))
	}
	args = append(args, "-m", "comment", "--comment", r.Comment)
	switch r.Verdict {
	case Return:
		return append(args, "-j", "RETURN")
	case Masquerade:
		return append(args, "-j", "MASQUERADE", "--random-fully")
	}
	return append(args, "-j", "ACCEPT")
}

// Chain names one chain of rules in the kernel. It is comparable.
type Chain struct {
	Backend Backend
	Family  Family
	Table   string // nftables: the reconciler's own; iptables: nat or filter
	Name    string
}

// String returns the chain in the way its tool names it.
func (c Chain) String() string {
	if c.Backend == IPTables {
		return c.iptables() + " -t " + c.Table + " " + c.Name
	}
	return string(c.Family) + " " + c.Table + " " + c.Name
}

func (c Chain) iptables() string {
	if c.Family == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// parent returns the built-in iptables chain that jumps to c.
func (c Chain) parent() string {
	if c.Table == "filter" {
		return "FORWARD"
	}
	return "POSTROUTING"
}

// Ruleset is a chain with its rules.
type Ruleset struct {
	Chain Chain
	Rules []Rule
}

// String returns the rules as `nft list table` and `iptables-save` print them.
func (s Ruleset) String() string {
	var b strings.Builder
	if s.Chain.Backend == IPTables {
		fmt.Fprintf(&b, "*%s # %s\n:%s - [0:0]\n", s.Chain.Table, s.Chain.iptables(), s.Chain.Name)
		for _, r := range s.Rules {
			fmt.Fprintf(&b, "-A %s %s\n", s.Chain.Name, quoted(r.iptables()))
		}
		fmt.Fprintf(&b, "-A %s %s\nCOMMIT\n", s.Chain.parent(), quoted(jump(s.Chain)))
		return b.String()
	}
	fmt.Fprintf(&b, "table %s %s {\n\tchain %s {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n",
		s.Chain.Family, s.Chain.Table, s.Chain.Name)
	for _, r := range s.Rules {
		fmt.Fprintf(&b, "\t\t%s comment %q\n", r.nft(s.Chain.Family), r.Comment)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// jump returns the arguments of the rule that leads from the built-in chain to c.
func jump(c Chain) []string {
	return []string{"-m", "comment", "--comment", "podnet masq", "-j", c.Name}
}

// quoted writes arguments as iptables-restore reads them. Comments are ours: they hold no quotes.
func quoted(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if strings.Contains(a, " ") {
			a = `"` + a + `"`
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

// Verb is what a Change does.
type Verb uint8

// The verbs. Set makes a chain exactly as given, in one step, whatever was there; Delete removes it and what leads to it.
const (
	Set Verb = iota + 1
	Delete
)

// Change is one write to the kernel.
type Change struct {
	Verb Verb
	Ruleset
}

// String returns the change in nft or iptables-save syntax.
func (c Change) String() string {
	switch {
	case c.Verb == Set && c.Chain.Backend == NFTables:
		return fmt.Sprintf("add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n%[3]s", c.Chain.Family, c.Chain.Table, c.Ruleset)
	case c.Verb == Set:
		return c.Ruleset.String()
	case c.Chain.Backend == NFTables:
		return fmt.Sprintf("delete table %s %s\n", c.Chain.Family, c.Chain.Table)
	}
	return fmt.Sprintf("%[1]s -t %[2]s -D %[3]s -j %[4]s\n%[1]s -t %[2]s -F %[4]s\n%[1]s -t %[2]s -X %[4]s\n",
		c.Chain.iptables(), c.Chain.Table, c.Chain.parent(), c.Chain.Name)
}

// Plan is a list of writes in the order in which they are to be done. The zero Plan is empty: nothing differs.
type Plan []Change

// Empty reports whether there is nothing to write.
func (p Plan) Empty() bool { return len(p) == 0 }

// String returns the changes in nft and iptables-save syntax.
func (p Plan) String() string {
	var b strings.Builder
	for _, c := range p {
		b.WriteString(c.String())
	}
	return b.String()
}
