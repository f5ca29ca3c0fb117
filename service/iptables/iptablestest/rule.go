package iptablestest

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// rule is a rule as the kernel would have it.
type rule struct {
	args []string // as they were given

	src, dst, in, mark match[string]
	proto              string
	lowPort, highPort  int // of the destination; 0: any
	srcLocal, dstLocal bool
	state              string  // NEW or DNAT
	probability        float64 // 0: no such match
	recent             recent

	target    string
	jump      bool // target is a chain
	goTo      bool // and there is no way back
	to        netip.AddrPort
	or, xor   uint32
	hasTarget bool
}

// match is something a rule may ask for, or ask for the opposite.
type match[T any] struct {
	set, not bool
	value    T
}

type recent struct {
	name    string
	set     bool // remembers; else asks whether it is remembered
	seconds int
}

// parser reads the arguments of a rule.
type parser struct {
	rest []string
	not  bool
	rule rule
}

// parseRule reads what this package knows, and refuses all else.
func parseRule(args []string, family int) (rule, error) {
	p := parser{rest: args, rule: rule{args: args}}
	for len(p.rest) > 0 {
		flag := p.next()
		if flag == "!" {
			p.not = true
			continue
		}
		if err := p.option(flag, family); err != nil {
			return rule{}, err
		}
		if p.not && flag != "-s" && flag != "-i" && flag != "-d" {
			return rule{}, fmt.Errorf("! before %s", flag)
		}
		p.not = false
	}
	return p.rule, p.rule.check()
}

func (p *parser) next() string {
	if len(p.rest) == 0 {
		return ""
	}
	s := p.rest[0]
	p.rest = p.rest[1:]
	return s
}

func (p *parser) option(flag string, family int) (err error) {
	r := &p.rule
	v := ""
	switch flag {
	case "--set", "--rcheck", "--reap", "--random-fully":
	default:
		if v = p.next(); v == "" {
			return fmt.Errorf("option %q requires an argument", flag)
		}
	}
	switch flag {
	case "-s":
		r.src, err = address(v, p.not, family)
	case "-d":
		r.dst, err = address(v, p.not, family)
	case "-i":
		r.in = match[string]{true, p.not, v}
	case "-p":
		r.proto = v
		if v != "tcp" && v != "udp" && v != "sctp" {
			return fmt.Errorf("unknown protocol %q", v)
		}
	case "--dport":
		r.lowPort, r.highPort, err = portRange(v)
	case "-m":
		if !strings.Contains(" comment mark addrtype conntrack statistic recent tcp udp sctp ", " "+v+" ") {
			return fmt.Errorf("couldn't load match %q", v)
		}
	case "--comment":
		if len(v) > 255 {
			return errors.New("comment is too long")
		}
	case "-j", "-g":
		r.target, r.hasTarget, r.goTo = v, true, flag == "-g"
	default:
		return p.extension(flag, v, family)
	}
	return err
}

// extension reads the options of matches and targets.
func (p *parser) extension(flag, v string, family int) (err error) {
	r := &p.rule
	switch flag {
	case "--mark":
		r.mark = match[string]{true, false, v}
	case "--src-type", "--dst-type":
		if v != "LOCAL" {
			return fmt.Errorf("address type %q", v)
		}
		r.srcLocal, r.dstLocal = r.srcLocal || flag == "--src-type", r.dstLocal || flag == "--dst-type"
	case "--ctstate":
		if r.state = v; v != "NEW" && v != "DNAT" {
			return fmt.Errorf("state %q", v)
		}
	case "--mode":
		if v != "random" {
			return fmt.Errorf("mode %q", v)
		}
	case "--probability":
		r.probability, err = strconv.ParseFloat(v, 64)
	case "--name":
		r.recent.name = v
	case "--set":
		r.recent.set = true
	case "--rcheck", "--reap", "--random-fully":
	case "--seconds":
		r.recent.seconds, err = strconv.Atoi(v)
	case "--to-destination":
		if r.to, err = netip.ParseAddrPort(v); err == nil && r.to.Addr().Is4() != (family == 4) {
			err = fmt.Errorf("bad address %q", v)
		}
	case "--or-mark":
		r.or, err = number(v)
	case "--xor-mark":
		r.xor, err = number(v)
	default:
		return fmt.Errorf("unknown option %q", flag)
	}
	return err
}

func address(v string, not bool, family int) (match[string], error) {
	p, err := netip.ParsePrefix(v)
	if a, err2 := netip.ParseAddr(v); err2 == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err == nil && p.Addr().Is4() != (family == 4) {
		err = fmt.Errorf("host/network %q not found", v)
	}
	return match[string]{true, not, p.Masked().String()}, err
}

func portRange(v string) (low, high int, err error) {
	first, last, isRange := strings.Cut(v, ":")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	z, err2 := strconv.ParseUint(last, 10, 16)
	if err := errors.Join(err1, err2); err != nil || z < a {
		return 0, 0, fmt.Errorf("invalid port/service %q", v)
	}
	return int(a), int(z), nil
}

func number(v string) (uint32, error) {
	n, err := strconv.ParseUint(v, 0, 32)
	return uint32(n), err
}

// check refuses combinations that have no meaning.
func (r *rule) check() error {
	switch r.target {
	case "", "ACCEPT", "DROP", "RETURN", "REJECT", "MASQUERADE":
	case "MARK":
		if r.or == 0 && r.xor == 0 {
			return errors.New("MARK: one of --or-mark or --xor-mark is needed")
		}
	case "DNAT":
		if !r.to.IsValid() || r.proto == "" {
			return errors.New("DNAT: a destination and a protocol are needed")
		}
	default:
		r.jump = true
	}
	if r.highPort > 0 && r.proto == "" {
		return errors.New("--dport without -p")
	}
	return nil
}

// needs returns the names of the features that a rule uses, as the probe of service/iptables calls them.
func (r *rule) needs() []string {
	var list []string
	for name, used := range map[string]bool{
		"recent": r.recent.name != "", "sctp": r.proto == "sctp", "statistic": r.probability > 0, "mark": r.mark.set, "addrtype": r.srcLocal || r.dstLocal, "conntrack": r.state != "",
		r.target: r.hasTarget && !r.jump,
	} {
		if used {
			list = append(list, name)
		}
	}
	return list
}
