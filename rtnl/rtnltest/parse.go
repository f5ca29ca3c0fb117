package rtnltest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

// ParsePlan reads a plan in the form in which [rtnl.Plan] prints it, one change per line; empty lines and lines that begin with # are
// skipped. As with ip(8), a route without a scope gets the one that fits (rtnl.ScopeAuto).
func ParsePlan(text string) (rtnl.Plan, error) {
	var plan rtnl.Plan
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		c, err := parseChange(line)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		plan = append(plan, c)
	}
	return plan, nil
}

func parseChange(line string) (rtnl.Change, error) {
	p := &parser{words: strings.Fields(line)}
	kind, verb := p.next(), p.next()
	c := rtnl.Change{Verb: map[string]rtnl.Verb{"add": rtnl.Add, "replace": rtnl.Replace, "set": rtnl.Set, "del": rtnl.Delete, "-w": rtnl.Set}[verb]}
	switch kind {
	case "link":
		c.Object = p.link()
	case "addr":
		c.Object = p.addr()
	case "route":
		c.Object = p.route()
	case "neigh":
		c.Object = p.neigh()
	case "fdb":
		c.Object = p.fdb()
	case "nexthop":
		c.Object = p.nexthop()
	case "sysctl":
		name, value, _ := strings.Cut(p.next(), "=")
		c.Object = rtnl.Sysctl{Name: name, Value: strings.Join(append([]string{value}, p.words...), " ")}
	default:
		p.fail("unknown kind of object %q", kind)
	}
	if c.Verb == 0 {
		p.fail("unknown verb %q", verb)
	}
	return c, p.err
}

// parser takes words off a line; the first failure stands.
type parser struct {
	words []string
	err   error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *parser) next() string {
	if len(p.words) == 0 {
		p.fail("a word is missing at the end")
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

// each calls option with each keyword that is left; option takes the keyword's arguments and reports whether it knows it.
func (p *parser) each(option func(keyword string) bool) {
	for p.err == nil && len(p.words) > 0 {
		if keyword := p.next(); !option(keyword) {
			p.fail("unknown word %q", keyword)
		}
	}
}

func (p *parser) need(keyword, value string) {
	if value == "" {
		p.fail("%s is missing", keyword)
	}
}

func (p *parser) number(bits int) uint64 {
	word := p.next()
	n, err := strconv.ParseUint(word, 10, bits)
	if err != nil {
		p.fail("want a number, have %q", word)
	}
	return n
}

func (p *parser) mac() rtnl.MAC {
	m, err := rtnl.ParseMAC(p.next())
	if err != nil {
		p.fail("%w", err)
	}
	return m
}

func (p *parser) ip() netip.Addr {
	a, err := netip.ParseAddr(p.next())
	if err != nil {
		p.fail("%w", err)
	}
	return a
}

func (p *parser) prefix() netip.Prefix {
	word := p.next()
	pfx, err := netip.ParsePrefix(word)
	if err != nil {
		p.fail("%w", err)
	}
	return pfx
}

func (p *parser) onOff() rtnl.Switch {
	switch word := p.next(); word {
	case "on":
		return rtnl.On
	case "off":
		return rtnl.Off
	default:
		p.fail("want on or off, have %q", word)
		return rtnl.Unset
	}
}

func (p *parser) protocol() rtnl.Protocol {
	named := []rtnl.Protocol{rtnl.ProtocolKernel, rtnl.ProtocolBoot, rtnl.ProtocolStatic}
	for _, known := range named {
		if len(p.words) > 0 && p.words[0] == known.String() {
			p.next()
			return known
		}
	}
	return rtnl.Protocol(p.number(8))
}

func (p *parser) link() rtnl.Link {
	l := rtnl.Link{Name: p.next()}
	p.each(func(keyword string) bool {
		switch keyword {
		case "up":
			l.Up = rtnl.On
		case "down":
			l.Up = rtnl.Off
		case "mtu":
			l.MTU = int(p.number(31))
		case "address":
			if l.Kind == rtnl.KindVeth {
				l.Veth.PeerMAC = p.mac()
			} else {
				l.MAC = p.mac()
			}
		case "alias":
			alias, err := strconv.Unquote(p.next())
			if err != nil {
				p.fail("alias: %w", err)
			}
			l.Alias = alias
		case "master":
			l.Master = p.next()
		case "hairpin":
			l.Hairpin = p.onOff()
		case "tx-checksum":
			l.TxChecksum = p.onOff()
		case "type":
			if l.Kind != "" {
				return false
			}
			l.Kind = rtnl.Kind(p.next())
		default:
			return p.linkType(&l, keyword)
		}
		return true
	})
	return l
}

// linkType takes what stands behind "type".
func (p *parser) linkType(l *rtnl.Link, keyword string) bool {
	switch {
	case l.Kind == rtnl.KindVeth && keyword == "peer":
		l.Veth.Peer = p.next()
	case l.Kind == rtnl.KindVeth && keyword == "netns":
		l.Veth.PeerNetns = p.next()
	case l.Kind == rtnl.KindVXLAN && keyword == "id":
		l.VXLAN.VNI = uint32(p.number(32))
	case l.Kind == rtnl.KindVXLAN && keyword == "local":
		l.VXLAN.Local = p.ip()
	case l.Kind == rtnl.KindVXLAN && keyword == "dev":
		l.VXLAN.Underlay = p.next()
	case l.Kind == rtnl.KindVXLAN && keyword == "dstport":
		l.VXLAN.Port = uint16(p.number(16))
	case l.Kind == rtnl.KindVXLAN && keyword == "learning":
		l.VXLAN.Learning = rtnl.On
	case l.Kind == rtnl.KindVXLAN && keyword == "nolearning":
		l.VXLAN.Learning = rtnl.Off
	default:
		return false
	}
	return true
}

func (p *parser) addr() rtnl.Addr {
	a := rtnl.Addr{Prefix: p.prefix()}
	p.each(func(keyword string) bool {
		switch keyword {
		case "dev":
			a.Link = p.next()
		case "nodad":
			a.NoDAD = true
		case "noprefixroute":
			a.NoPrefixRoute = true
		default:
			return false
		}
		return true
	})
	p.need("dev", a.Link)
	return a
}

func (p *parser) route() rtnl.Route {
	r := rtnl.Route{Scope: rtnl.ScopeAuto}
	if len(p.words) > 0 {
		switch p.words[0] {
		case "blackhole":
			r.Type = rtnl.Blackhole
			p.next()
		case "unreachable":
			r.Type = rtnl.Unreachable
			p.next()
		case "local":
			r.Type = rtnl.Local
			p.next()
		}
	}
	r.Dst = p.prefix()
	p.each(func(keyword string) bool {
		switch keyword {
		case "nhid":
			r.Nexthop = uint32(p.number(32))
		case "via":
			r.Gateway = p.ip()
		case "dev":
			r.Link = p.next()
		case "table":
			r.Table = uint32(p.number(32))
		case "proto":
			r.Protocol = p.protocol()
		case "scope":
			r.Scope = p.scope()
		case "src":
			r.Src = p.ip()
		case "metric":
			r.Priority = uint32(p.number(32))
		case "mtu":
			r.MTU = int(p.number(31))
		case "advmss":
			r.AdvMSS = int(p.number(31))
		case "onlink":
			r.Onlink = true
		default:
			return false
		}
		return true
	})
	return r
}

func (p *parser) scope() rtnl.Scope {
	word := p.next()
	for _, s := range []rtnl.Scope{rtnl.ScopeUniverse, rtnl.ScopeLink, rtnl.ScopeHost} {
		if s.String() == word {
			return s
		}
	}
	p.fail("unknown scope %q", word)
	return 0
}

func (p *parser) neigh() rtnl.Neigh {
	n := rtnl.Neigh{IP: p.ip()}
	p.each(func(keyword string) bool {
		switch keyword {
		case "lladdr":
			n.MAC = p.mac()
		case "dev":
			n.Link = p.next()
		case "nud":
			n.Permanent = p.next() == "permanent"
		default:
			return false
		}
		return true
	})
	p.need("dev", n.Link)
	return n
}

func (p *parser) fdb() rtnl.FDB {
	f := rtnl.FDB{MAC: p.mac()}
	p.each(func(keyword string) bool {
		switch keyword {
		case "dev":
			f.Link = p.next()
		case "dst":
			f.Dst = p.ip()
		case "self", "permanent":
		default:
			return false
		}
		return true
	})
	p.need("dev", f.Link)
	return f
}

func (p *parser) nexthop() rtnl.Nexthop {
	var n rtnl.Nexthop
	p.each(func(keyword string) bool {
		switch keyword {
		case "id":
			n.ID = uint32(p.number(32))
		case "via":
			n.Gateway = p.ip()
		case "dev":
			n.Link = p.next()
		case "proto":
			n.Protocol = p.protocol()
		case "onlink":
			n.Onlink = true
		default:
			return false
		}
		return true
	})
	return n
}
