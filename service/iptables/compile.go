package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/podnet/podnet/service"
)

// The indexes of a family.
const (
	vips        = iota // nat: addresses and ports that lead to endpoints
	ports              // nat: node ports
	hairpins           // nat: endpoints of this node that may talk to themselves
	filterVIPs         // filter: what did not go to an endpoint is refused or dropped
	filterPorts        // filter: the same for node ports
	indexes
)

// compiled is what a Service becomes in one family.
type compiled struct {
	chains []chain // of the table nat
	spots  []spot
	marks  []class // whose mark chains it uses
}

type chain struct {
	name string
	body body
}

// spot is what a Service has in an index.
type spot struct {
	index int
	at    netip.Addr
	last  bool
	rules []string
}

// compiler makes the rules of one port of a Service.
type compiler struct {
	node
	out  *compiled
	port *service.PortProgram
	key  []string // namespace, name, port, protocol
	note string
	used map[string]bool // chains that are there already
}

// compile makes the rules of a Service: pure, and always the same.
func compile(n node, p service.Program) (compiled, error) {
	var out compiled
	seen := map[string]bool{}
	for i := range p.Ports {
		port := &p.Ports[i]
		if port.Family != n.family {
			continue
		}
		if !slices.Contains(protocols(), port.Protocol) {
			return compiled{}, fmt.Errorf("port %s: %s: want TCP, UDP or SCTP", port.Port, port.Protocol)
		}
		id := port.Protocol.String() + " " + port.Port
		if seen[id] {
			return compiled{}, fmt.Errorf("port %s %s stands there twice in %s", port.Protocol, port.Port, port.Family)
		}
		seen[id] = true
		c := compiler{
			node: n, out: &out, port: port, used: map[string]bool{},
			key:  []string{p.Name.Namespace, p.Name.Name, port.Port, port.Protocol.String()},
			note: note(p.Name.String() + ":" + port.Port),
		}
		for _, f := range port.Frontends {
			if err := c.check(f); err != nil {
				return compiled{}, err
			}
			c.nat(f)
			c.filter(f)
		}
	}
	return out, nil
}

func (c *compiler) check(f service.Frontend) error {
	if f.Kind != service.NodePort && service.FamilyOf(f.Addr) != c.family {
		return fmt.Errorf("%s: want an %s address", f, c.family)
	}
	for _, b := range slices.Concat(c.port.Cluster, c.port.Local) {
		if service.FamilyOf(b.Addr.Addr()) != c.family {
			return fmt.Errorf("endpoint %s: want an %s address", b.Addr, c.family)
		}
	}
	return nil
}

// routes returns the ways of a frontend by class.
func (c *compiler) routes(f service.Frontend) map[class]service.Route {
	r := map[class]service.Route{host: f.Host, remote: f.Remote}
	if len(c.pods) > 0 {
		r[pod] = f.Pod
	}
	return r
}

// place returns where a frontend stands, and what matches its packets.
func (c *compiler) place(f service.Frontend, vip, nodePort int) (index int, at netip.Addr, match string) {
	ports := "-p " + protoName(c.port.Protocol) + " --dport " + strconv.Itoa(int(f.Port))
	if f.Kind == service.NodePort {
		return nodePort, portAddr(c.port.Protocol, f.Port), ports
	}
	return vip, f.Addr, "-d " + f.Addr.String() + " " + ports
}

// nat makes the rules which lead a frontend's packets to endpoints.
func (c *compiler) nat(f service.Frontend) {
	index, at, match := c.place(f, vips, ports)
	var marked, forwarded class
	targets := map[string]bool{}
	for _, r := range c.byRoute(f) {
		if r.chain == "" {
			continue
		}
		forwarded |= r.class
		targets[r.chain] = true
		if r.masquerade {
			marked |= r.class
		}
	}
	all := forwarded == c.classes()
	var rules []string
	switch {
	case forwarded == 0:
	case all && len(targets) == 1 && !f.Restricted:
		rules = c.mark(match, marked)
		for chain := range targets {
			rules = append(rules, match+" -j "+chain)
		}
	default:
		rules = []string{match + " -j " + c.policy(f, marked)}
	}
	if !all || f.Restricted {
		// Nobody else is to take what is refused or dropped in the table filter.
		rules = append(rules, match+" -j ACCEPT")
	}
	c.out.spots = append(c.out.spots, spot{index: index, at: at, rules: rules})
}

type classRoute struct {
	class      class
	chain      string // "": to no endpoint
	masquerade bool
}

// byRoute returns where packets go, by class in order, and makes the chains that choose an endpoint.
func (c *compiler) byRoute(f service.Frontend) []classRoute {
	routes := c.routes(f)
	var out []classRoute
	for _, k := range []class{pod, host, remote} {
		r, there := routes[k]
		if !there {
			continue
		}
		to := classRoute{class: k}
		if endpoints := c.chosen(r.Action); len(endpoints) > 0 {
			kind := byte('C')
			if r.Action == service.ToLocal {
				kind = 'L'
			}
			to.chain, to.masquerade = c.choice(kind, endpoints), r.Masquerade
		}
		out = append(out, to)
	}
	return out
}

// chosen returns the endpoints that an action sends to; none for the others.
func (c *compiler) chosen(a service.Action) []service.Backend {
	switch a {
	case service.ToCluster:
		return c.port.Cluster
	case service.ToLocal:
		return c.port.Local
	}
	return nil
}

func (c *compiler) mark(match string, m class) []string {
	rules, chain := c.marking(match, m)
	if chain {
		c.out.marks = append(c.out.marks, m&c.classes())
	}
	return rules
}

// policy makes the chain of a frontend whose packets do not all go the same way, and that of its source ranges.
func (c *compiler) policy(f service.Frontend, marked class) string {
	var list []classRule
	id := []string{strconv.Itoa(int(marked))}
	for _, r := range c.byRoute(f) {
		target := "-j RETURN"
		if r.chain != "" {
			target = "-j " + r.chain
		}
		list = append(list, classRule{r.class, target})
		id = append(id, target)
	}
	b := body{note: c.note, rules: append(c.mark("", marked), c.byClass(list)...)}
	name := c.chain('X', b, id...)
	if !f.Restricted {
		return name
	}
	b = body{note: c.note}
	for _, r := range c.ranges(c.port.SourceRanges) {
		b.rules = append(b.rules, "-s "+r.String()+" -j "+name)
	}
	return c.chain('F', b, id...)
}

// choice makes the chain that chooses one of the endpoints.
func (c *compiler) choice(kind byte, endpoints []service.Backend) string {
	name := c.names.hashed(kind, c.key...)
	if c.used[name] {
		return name
	}
	b := body{note: c.note}
	targets := make([]string, len(endpoints))
	for i, e := range endpoints {
		targets[i] = c.to(e.Addr)
		if c.port.Affinity > 0 {
			chain := c.endpoint(e.Addr, targets[i])
			targets[i] = "-j " + chain
			b.rules = append(b.rules, fmt.Sprintf("-m recent --name %s --rcheck --seconds %d --reap -j %s", chain, c.port.Affinity/time.Second, chain))
		}
		if e.Local {
			a := e.Addr.Addr()
			rule := fmt.Sprintf("-s %s -d %s -j MASQUERADE --random-fully", a, a)
			c.out.spots = append(c.out.spots, spot{index: hairpins, at: a, rules: []string{rule}})
		}
	}
	for i, t := range targets {
		if left := len(targets) - i; left > 1 {
			t = "-m statistic --mode random --probability " + strconv.FormatFloat(1/float64(left), 'f', 10, 64) + " " + t
		}
		b.rules = append(b.rules, t)
	}
	return c.chain(kind, b)
}

// to returns the translation to an endpoint.
func (c *compiler) to(e netip.AddrPort) string {
	return "-p " + protoName(c.port.Protocol) + " -j DNAT --to-destination " + e.String()
}

// endpoint makes the chain of an endpoint that clients stay with: it remembers them.
func (c *compiler) endpoint(e netip.AddrPort, dnat string) string {
	name := c.names.hashed('E', append(slices.Clone(c.key), e.String())...)
	return c.chain('E', body{note: c.note, rules: []string{"-m recent --name " + name + " --set " + dnat}}, e.String())
}

// chain adds a chain of the port, once.
func (c *compiler) chain(kind byte, b body, more ...string) string {
	name := c.names.hashed(kind, append(slices.Clone(c.key), more...)...)
	if !c.used[name] {
		c.used[name] = true
		c.out.chains = append(c.out.chains, chain{name, b})
	}
	return name
}

// filter makes the rules for packets of a frontend that did not go to an endpoint.
func (c *compiler) filter(f service.Frontend) {
	index, at, match := c.place(f, filterVIPs, filterPorts)
	if rules := c.refusals(f, match); len(rules) > 0 {
		c.out.spots = append(c.out.spots, spot{index: index, at: at, rules: rules})
	}
	if f.Kind == service.ClusterIP { // nobody listens on another port (kubernetes#72236)
		c.out.spots = append(c.out.spots, spot{index: index, at: at, last: true, rules: []string{"-d " + f.Addr.String() + " -j REJECT"}})
	}
}

func (c *compiler) refusals(f service.Frontend, match string) []string {
	const reject, drop = "-j REJECT", "-j DROP"
	var list []classRule
	rejects, drops := false, f.Restricted
	routes := c.routes(f)
	for _, k := range []class{pod, host, remote} {
		r, there := routes[k]
		if !there {
			continue
		}
		rule := classRule{k, drop} // stands for forwarded classes too, whose packets do not come here
		switch {
		case r.Action == service.Reject:
			rule.target, rejects = reject, true
		case r.Action == service.Drop, len(c.chosen(r.Action)) == 0:
			drops = true
		}
		list = append(list, rule)
	}
	switch {
	case f.Restricted && rejects:
		var rules []string
		for _, s := range c.ranges(c.port.SourceRanges) {
			rules = append(rules, match+" -s "+s.String()+" "+reject)
		}
		return append(rules, match+" "+drop)
	case rejects && drops:
		var rules []string
		for _, r := range c.byClass(list) {
			rules = append(rules, match+" "+r)
		}
		return rules
	case rejects:
		return []string{match + " " + reject}
	case drops:
		return []string{match + " " + drop}
	}
	return nil
}
