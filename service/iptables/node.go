package iptables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// node is what the rules of one family need of the node.
type node struct {
	service.Node
	family service.Family
	names  names
	mark   string   // VALUE/MASK of the masquerade mark's bit
	pods   []string // matches for packets of local pods; empty: they are not told from others
}

func newNode(n service.Node, f service.Family, names names, mark string) node {
	out := node{Node: n, family: f, names: names, mark: mark}
	switch l := n.LocalPods; {
	case len(l.CIDRs) > 0:
		for _, p := range l.CIDRs {
			if service.FamilyOf(p.Addr()) == f {
				out.pods = append(out.pods, "-s "+p.String())
			}
		}
	case l.Interface != "":
		out.pods = []string{"-i " + l.Interface}
	case l.InterfacePrefix != "":
		out.pods = []string{"-i " + l.InterfacePrefix + "+"}
	}
	return out
}

// fromHost matches packets that the node itself sends.
const fromHost = "-m addrtype --src-type LOCAL"

// class is where a packet comes from: a local pod, the node itself, elsewhere. A set of them is a mask. They are asked in this order.
type class uint8

const (
	pod class = 1 << iota
	host
	remote

	everybody = pod | host | remote
)

// classes returns those that packets can be told to be of.
func (n node) classes() class {
	if len(n.pods) == 0 {
		return host | remote
	}
	return everybody
}

// classRule is a target for a class.
type classRule struct {
	class  class
	target string // such as "-j RETURN"
}

// byClass returns rules that send packets of every class to its target. Neighbours with the same target share a rule.
func (n node) byClass(list []classRule) []string {
	var rules []string
	for i, c := range list {
		same := func(d classRule) bool { return d.target != c.target }
		if !slices.ContainsFunc(list[i:], same) {
			return append(rules, c.target)
		}
		switch c.class {
		case pod:
			for _, p := range n.pods {
				rules = append(rules, p+" "+c.target)
			}
		case host:
			rules = append(rules, fromHost+" "+c.target)
		}
	}
	return rules
}

func (n node) markTarget() string { return "-j MARK --or-mark " + bit(n.mark) }

func bit(mark string) string { b, _, _ := strings.Cut(mark, "/"); return b }

// markRules returns the rules which mark packets of some classes, in a chain where they stand alone.
func (n node) markRules(m class) []string {
	var rules []string
	verdict := func(c class) bool { return m&c != 0 }
	for _, p := range n.pods {
		if verdict(pod) {
			rules = append(rules, p+" "+n.markTarget())
		}
		rules = append(rules, p+" -j RETURN")
	}
	switch {
	case verdict(host) && verdict(remote):
		return append(rules, n.markTarget())
	case verdict(host):
		return append(rules, fromHost+" "+n.markTarget())
	case verdict(remote):
		return append(rules, fromHost+" -j RETURN", n.markTarget())
	}
	return rules
}

// markChain returns the name of the chain of markRules.
func (n node) markChain(m class) string {
	word := "MARK-"
	for i, letter := range "PHR" {
		if m&(1<<i) != 0 {
			word += string(letter)
		}
	}
	return n.names.fixed(word)
}

// marking returns the rule, if there has to be one, that marks packets of some classes among those that match, and whether it leads to the chain for these classes.
func (n node) marking(match string, m class) (rules []string, chain bool) {
	switch m &= n.classes(); {
	case m == 0:
		return nil, false
	case m == n.classes():
		return []string{join(match, n.markTarget())}, false
	case m == host|remote && len(n.pods) == 1:
		return []string{join(match, "! "+n.pods[0], n.markTarget())}, false
	}
	return []string{join(match, "-j "+n.markChain(m))}, true
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

// loopback is where no NodePort listens: a packet from there cannot leave the node (route_localnet, CVE-2020-8558, is never needed).
func (n node) loopback() string {
	if n.family == service.IPv6 {
		return "::1/128"
	}
	return "127.0.0.0/8"
}

// nodePortJumps returns the rules that lead packets for NodePorts to a chain.
func (n node) nodePortJumps(chain string) []string {
	rules := []string{"-d " + n.loopback() + " -j RETURN"}
	if len(n.NodePortAddrs) == 0 {
		return append(rules, "-m addrtype --dst-type LOCAL -j "+chain)
	}
	for _, p := range n.NodePortAddrs {
		if service.FamilyOf(p.Addr()) == n.family {
			rules = append(rules, "-d "+p.String()+" -m addrtype --dst-type LOCAL -j "+chain)
		}
	}
	return rules
}

// ranges returns those of a list that are of the family.
func (n node) ranges(list []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return service.FamilyOf(p.Addr()) != n.family })
}

func protocols() []service.Protocol {
	return []service.Protocol{service.TCP, service.UDP, service.SCTP}
}

func protoName(p service.Protocol) string { return strings.ToLower(p.String()) }
