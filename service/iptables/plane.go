package iptables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// plane is one family: what is wanted and what the kernel has. It reads and writes nothing.
type plane struct {
	node        node
	forward     bool // accept forwarded packets
	nat, filter *table
	indexes     [indexes]*index
	marks       map[class]int // how many use each mark chain
	programs    map[service.Name]part
}

// part is what a Service has in the plane.
type part struct {
	chains []string
	spots  []place
	marks  []class
}

type place struct {
	index int
	at    netip.Addr
}

// newPlane makes a plane that wants no Service yet; nat and filter are the fingerprints of our chains in the kernel.
func newPlane(n node, forward bool, nat, filter map[string]string) *plane {
	p := &plane{node: n, forward: forward, nat: newTable("nat", nat), filter: newTable("filter", filter), marks: map[class]int{}, programs: map[service.Name]part{}}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	family := all
	if n.family == service.IPv6 {
		family = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	for i, x := range [indexes]struct {
		table *table
		kind  byte
		root  netip.Prefix
	}{vips: {p.nat, 'V', family}, ports: {p.nat, 'P', all}, hairpins: {p.nat, 'H', family}, filterVIPs: {p.filter, 'V', family}, filterPorts: {p.filter, 'P', all}} {
		match := func(at netip.Prefix) string { return "-d " + at.String() }
		if x.kind == 'P' {
			match = matchPorts
		}
		p.indexes[i] = newIndex(x.table, x.root, func(at netip.Prefix) string { return n.names.hashed(x.kind, at.String()) }, match)
	}
	return p
}

// set wants a Service as c; a c without chains and spots is none. On an error nothing is changed.
func (p *plane) set(name service.Name, c compiled) error {
	for _, ch := range c.chains {
		if err := p.nat.owned(ch.name, name); err != nil {
			return err
		}
	}
	old := p.programs[name]
	fresh := part{marks: c.marks}
	for _, ch := range c.chains {
		p.nat.touch(ch.name, name, ch.body)
		fresh.chains = append(fresh.chains, ch.name)
	}
	for _, ch := range old.chains {
		if !slices.Contains(fresh.chains, ch) {
			p.nat.drop(ch)
		}
	}
	for _, s := range old.spots {
		p.indexes[s.index].remove(s.at, name)
	}
	for _, s := range c.spots {
		p.indexes[s.index].add(s.at, owned{name, s.last, s.rules})
		fresh.spots = append(fresh.spots, place{s.index, s.at})
	}
	for _, m := range old.marks {
		p.marks[m]--
	}
	for _, m := range c.marks {
		p.marks[m]++
	}
	if len(fresh.chains) == 0 && len(fresh.spots) == 0 {
		delete(p.programs, name)
	} else {
		p.programs[name] = fresh
	}
	return nil
}

// finish brings what was set into the tables.
func (p *plane) finish() {
	for _, x := range p.indexes {
		x.flush()
	}
	for m, n := range p.marks {
		if n > 0 {
			p.fixed(p.nat, p.node.markChain(m), p.node.markRules(m))
		} else {
			p.nat.drop(p.node.markChain(m))
			delete(p.marks, m)
		}
	}
	p.fixed(p.nat, p.chain(dispatch), p.dispatchRules())
	p.fixed(p.nat, p.chain(postrouting), p.postroutingRules())
	p.fixed(p.nat, p.chain(masquerade), []string{"-j MARK --xor-mark " + bit(p.node.mark), "-j MASQUERADE --random-fully"})
	p.fixed(p.filter, p.chain(filter), p.filterRules())
	if p.forward {
		p.fixed(p.filter, p.chain(accept), []string{"-m conntrack --ctstate DNAT -j ACCEPT"})
	}
}

func (p *plane) fixed(t *table, chain string, rules []string) {
	t.touch(chain, service.Name{}, body{rules: rules})
}

// The chains that there are always.
const (
	dispatch    = "DISPATCH"
	postrouting = "POSTROUTING"
	masquerade  = "MASQUERADE"
	filter      = "FILTER"
	accept      = "ACCEPT"
)

func (p *plane) chain(word string) string { return p.node.names.fixed(word) }

// root returns the first chain of an index.
func (p *plane) root(i int) string { return p.indexes[i].name(p.indexes[i].root) }

// dispatchRules: an address goes before a NodePort.
func (p *plane) dispatchRules() []string {
	var rules []string
	if !p.indexes[vips].empty() {
		rules = append(rules, "-j "+p.root(vips))
	}
	if !p.indexes[ports].empty() {
		rules = append(rules, p.node.nodePortJumps(p.root(ports))...)
	}
	return rules
}

func (p *plane) postroutingRules() []string {
	rules := []string{"-m mark --mark " + p.node.mark + " -j " + p.chain(masquerade)}
	if !p.indexes[hairpins].empty() {
		rules = append(rules, "-m conntrack --ctstate DNAT -j "+p.root(hairpins))
	}
	return rules
}

// filterRules are for new connections that were not translated.
func (p *plane) filterRules() []string {
	rules := []string{"-m conntrack --ctstate DNAT -j RETURN"}
	if !p.indexes[filterVIPs].empty() {
		rules = append(rules, "-j "+p.root(filterVIPs))
	}
	if !p.indexes[filterPorts].empty() {
		jumps := p.node.nodePortJumps(p.root(filterPorts))
		rules = append(rules, jumps...)
	}
	for _, r := range p.node.ranges(p.node.ServiceCIDRs) {
		rules = append(rules, "-d "+r.String()+" -j DROP")
	}
	return rules
}

// input returns what iptables-restore --noflush has to do, "" for nothing.
func (p *plane) input() string {
	var b strings.Builder
	p.nat.write(&b)
	p.filter.write(&b)
	return b.String()
}

func (p *plane) changes() int { return p.nat.changes() + p.filter.changes() }
