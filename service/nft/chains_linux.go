package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// rule is a rule before its fingerprint is known.
type rule struct {
	text  string
	exprs []expr.Any
}

// chain is a chain with its rules.
type chain struct {
	nfnl.Chain
	rules []rule
}

func (c *chain) add(text string, exprs ...[]expr.Any) {
	c.rules = append(c.rules, rule{text, slices.Concat(exprs...)})
}

// comments returns what the rules have as comments: their text, and a hash of all of them. Who changes a rule and keeps its comment is not noticed.
func (c chain) comments(f *family) []string {
	h := sha256.New()
	for _, r := range c.rules {
		for _, x := range r.exprs {
			b, _ := expr.Marshal(byte(f.nf), x) // what cannot be encoded fails when it is written
			h.Write(b)
		}
		fmt.Fprintf(h, "%s\n", r.text)
	}
	sum := hex.EncodeToString(h.Sum(nil)[:6])
	all := make([]string, len(c.rules))
	for i, r := range c.rules {
		all[i] = r.text + " #" + sum
	}
	return all
}

// write writes the chain and its rules, in place of what it had.
func (c chain) write(tx *nfnl.Transaction, t nfnl.Table, f *family) {
	tx.AddChain(t, c.Chain)
	tx.FlushChain(t, c.Name)
	for i, comment := range c.comments(f) {
		tx.AddRule(t, nfnl.Rule{Chain: c.Name, Exprs: c.rules[i].exprs, Comment: comment})
	}
}

// The chains that every table has.
const (
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPostrouting = "postrouting"
	chainServices    = "services"
	chainFirewall    = "firewall"
)

// base is what the chains that every table has depend on.
type base struct {
	mark          uint32
	nodePorts     bool           // there are NodePorts
	allNodePorts  bool           // on all addresses, not only in ranges
	nodePortAddrs []netip.Prefix // the ranges
	serviceCIDRs  []netip.Prefix
	restricted    bool  // there are frontends with source ranges
	prefixes      []int // lengths of source ranges, ascending
}

func (b base) equal(o base) bool {
	return b.mark == o.mark && b.nodePorts == o.nodePorts && b.allNodePorts == o.allNodePorts && b.restricted == o.restricted &&
		slices.Equal(b.nodePortAddrs, o.nodePortAddrs) && slices.Equal(b.serviceCIDRs, o.serviceCIDRs) && slices.Equal(b.prefixes, o.prefixes)
}

// chains returns the chains that every table has.
func (b base) chains(f *family) []chain {
	post := chain{Chain: nfnl.Chain{Name: chainPostrouting, Type: "nat", Hook: nfnl.Postrouting, Priority: 100}}
	masquerade := []expr.Any{&expr.Masq{FullyRandom: true}}
	post.add("marked", takeMark(b.mark), masquerade)
	post.add("hairpin", f.hairpin(), masquerade)
	return []chain{b.firewall(f), b.services(f), b.entry(f, chainPrerouting, nfnl.Prerouting), b.entry(f, chainOutput, nfnl.Output), post}
}

// entry is a base chain that packets to Services pass. Behind the Services it guards their addresses, from output for all, from prerouting unless the address is the node's own (such
// as that of a DNS cache that took over a ClusterIP): as kube-proxy, which looks from forward and output.
func (b base) entry(f *family, name string, hook nfnl.Hook) chain {
	c := chain{Chain: nfnl.Chain{Name: name, Type: "nat", Hook: hook, Priority: -100}}
	c.add("", []expr.Any{verdict(expr.VerdictJump, chainServices)})
	var elsewhere []expr.Any
	if hook == nfnl.Prerouting {
		elsewhere = addrType(false, expr.CmpOpNeq)
	}
	c.add("port that no Service has", []expr.Any{payload(reg(0), f.daddr, f.addrBytes()), member(f.name(setClusterIPs), reg(0))}, elsewhere, []expr.Any{f.reject()})
	for _, p := range b.serviceCIDRs {
		c.add("address that no Service has", f.within(f.daddr, p, expr.CmpOpEq), elsewhere, []expr.Any{verdict(expr.VerdictDrop, "")})
	}
	return c
}

// services finds the frontend.
func (b base) services(f *family) chain {
	c := chain{Chain: nfnl.Chain{Name: chainServices}}
	if b.restricted {
		c.add("with source ranges", f.tuple(false), []expr.Any{member(f.name(setRestricted), reg(1)), verdict(expr.VerdictJump, chainFirewall)})
	}
	c.add("", f.key(false), []expr.Any{f.classes()})
	if !b.nodePorts {
		return c
	}
	// The lookup comes first: most packets are for no NodePort, and asking the routing table costs more.
	find, choose := f.key(true), []expr.Any{f.classes()}
	where := slices.Concat(f.within(f.daddr, f.loopback, expr.CmpOpNeq), local(false))
	if b.allNodePorts {
		c.add("NodePorts", find, where, choose)
	}
	for _, p := range b.nodePortAddrs {
		c.add("NodePorts of "+p.Masked().String(), find, f.within(f.daddr, p, expr.CmpOpEq), where, choose)
	}
	return c
}

// firewall lets the sources of restricted frontends through. A range is found by its length and its bits: one rule per length that is in use.
func (b base) firewall(f *family) chain {
	c := chain{Chain: nfnl.Chain{Name: chainFirewall}}
	for _, bits := range b.prefixes {
		source := []expr.Any{immediate(reg(3+f.words), uint32(bits)), payload(reg(4+f.words), f.saddr, f.addrBytes())}
		if bits < int(8*f.addrBytes()) {
			source = append(source, f.mask(reg(4+f.words), bits))
		}
		c.add(fmt.Sprintf("/%d", bits), f.key(false), source, []expr.Any{member(f.name(setSources), reg(2+f.words)), verdict(expr.VerdictReturn, "")})
	}
	c.add("all others", []expr.Any{verdict(expr.VerdictDrop, "")})
	return c
}

// class is what frontends have in common that are handled by one chain.
type class struct {
	nodePort          bool
	pod, host, remote service.Route
	cluster, local    uint32 // how many endpoints there are to choose from
	affinity          time.Duration
}

// classOf returns the class of a frontend.
func classOf(f *family, n *service.Node, p *service.PortProgram, x *service.Frontend) class {
	c := class{x.Kind == service.NodePort, x.Pod, x.Host, x.Remote, uint32(len(p.Cluster)), uint32(len(p.Local)), p.Affinity}
	if !n.LocalPods.Known(f.service) {
		c.pod = c.remote // nobody can tell
	}
	usesCluster, usesLocal := false, false
	for _, r := range []*service.Route{&c.pod, &c.host, &c.remote} {
		if r.Action == service.ToCluster && c.cluster == 0 || r.Action == service.ToLocal && c.local == 0 {
			*r = service.Route{Action: service.Drop}
		}
		usesCluster = usesCluster || r.Action == service.ToCluster
		usesLocal = usesLocal || r.Action == service.ToLocal
	}
	if !usesCluster {
		c.cluster = 0
	}
	if !usesLocal {
		c.local = 0
	}
	if !usesCluster && !usesLocal {
		c.affinity, c.nodePort = 0, false
	}
	return c
}

// name is the name of the class's chain, different for different classes.
func (c class) name() string {
	var b strings.Builder
	if c.nodePort {
		b.WriteString("node/")
	}
	if c.pod == c.remote && c.host == c.remote {
		b.WriteString(c.route(c.remote))
	} else {
		fmt.Fprintf(&b, "pod-%s_host-%s_other-%s", c.route(c.pod), c.route(c.host), c.route(c.remote))
	}
	if c.affinity > 0 {
		fmt.Fprintf(&b, "_%ds", c.affinity/time.Second)
	}
	return b.String()
}

func (c class) route(r service.Route) string {
	s := r.Action.String()
	switch r.Action {
	case service.ToCluster:
		s += fmt.Sprint(c.cluster)
	case service.ToLocal:
		s += fmt.Sprint(c.local)
	}
	if r.Masquerade {
		s += "-masq"
	}
	return s
}

// chains returns the class's chain, and those for pods and for the host where these are treated otherwise.
func (c class) chains(f *family, n service.Node, mark uint32) []chain {
	name := c.name()
	main := chain{Chain: nfnl.Chain{Name: name}}
	all := []chain{}
	if c.pod != c.remote {
		pod := chain{Chain: nfnl.Chain{Name: name + "/pod"}}
		c.body(&pod, f, c.pod, mark)
		all = append(all, pod)
		for _, match := range f.fromPod(n.LocalPods) {
			main.add("from a pod", match, []expr.Any{verdict(expr.VerdictGoto, pod.Name)})
		}
	}
	if c.host != c.remote {
		host := chain{Chain: nfnl.Chain{Name: name + "/host"}}
		c.body(&host, f, c.host, mark)
		all = append(all, host)
		main.add("from the node", local(true), []expr.Any{verdict(expr.VerdictGoto, host.Name)})
	}
	c.body(&main, f, c.remote, mark)
	return append(all, main)
}

// body does what a route says. The last two rules are for a packet that looked up its class before a transaction and its endpoint after it, when there are fewer.
func (c class) body(to *chain, f *family, r service.Route, mark uint32) {
	kind, n := uint32(kindCluster), c.cluster
	switch r.Action {
	case service.Reject:
		to.add("no endpoint anywhere", []expr.Any{f.reject()})
		return
	case service.Drop:
		to.add("no endpoint here", []expr.Any{verdict(expr.VerdictDrop, "")})
		return
	case service.ToLocal:
		kind, n = kindLocal, c.local
	}
	if r.Masquerade {
		to.add("masquerade", setMark(mark))
	}
	if c.affinity > 0 {
		to.add("the same endpoint again", f.again(c.nodePort, kind, c.affinity))
		to.add("which is none any more", f.forget(c.nodePort, kind))
		to.add("any endpoint, for some time", f.choose(c.nodePort, kind, n, c.affinity))
	}
	dnat := []expr.Any{f.dnat()}
	to.add("any endpoint", f.key(c.nodePort), f.random(kind, n), dnat)
	to.add("the first endpoint", f.key(c.nodePort), f.first(kind), dnat)
	to.add("no endpoint", []expr.Any{verdict(expr.VerdictDrop, "")})
}

// prefixesOf returns the ranges of a family.
func prefixesOf(f *family, all []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range all {
		if service.FamilyOf(p.Addr()) == f.service {
			out = append(out, p)
		}
	}
	return out
}
