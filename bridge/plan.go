package bridge

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/rtnl"
)

// plan returns the changes that turn have into want.
func plan(want Config, have snapshot) (rtnl.Plan, error) {
	if want.isZero() {
		return cleanup(have.links), nil
	}
	link, owned, err := planLink(want, have)
	if err != nil {
		return nil, err
	}
	settings, err := planSysctls(want, have)
	if err != nil {
		return nil, err
	}
	before, addrs, after, err := planAddrs(want, have.addrs, owned)
	if err != nil {
		return nil, err
	}
	p := link
	for _, part := range []rtnl.Plan{settings, before, addrs, after} {
		p = append(p, part...)
	}
	return p, nil
}

func cleanup(links []rtnl.Link) (p rtnl.Plan) {
	for _, l := range links {
		if l.Kind == rtnl.KindBridge && l.Alias == Mark {
			p = append(p, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: l.Name}})
		}
	}
	return p
}

// planLink plans the device itself, and tells whether it is ours.
func planLink(want Config, have snapshot) (p rtnl.Plan, owned bool, err error) {
	mac := want.HardwareAddr()
	if have.link.Name == "" {
		if mac.IsZero() {
			mac = have.random
		}
		// The MAC is given at creation: the kernel then never takes that of a port, nor udev its own (systemd MACAddressPolicy).
		p = append(p, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: want.Name, Kind: rtnl.KindBridge, MAC: mac, Alias: Mark, Up: rtnl.On}})
		if want.MTU != 0 {
			// Only an MTU that is set afterwards keeps the bridge from following its smallest port (BROPT_MTU_SET_BY_USER, Linux 4.17).
			p = append(p, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: want.Name, MTU: want.MTU}})
		}
		return p, true, nil
	}
	if have.link.Kind != rtnl.KindBridge {
		return nil, false, fmt.Errorf("bridge: Name %q: is a device of kind %q already; want the name of a bridge or a free one", want.Name, have.link.Kind)
	}
	set := rtnl.Link{Name: want.Name}
	change := set
	// A process killed between the two messages that make a bridge leaves it without alias, but with the MAC that only we derive.
	owned = have.link.Alias == Mark || have.link.Alias == "" && !mac.IsZero() && want.MAC.IsZero() && have.link.MAC == mac
	if owned {
		if have.link.Alias != Mark {
			change.Alias = Mark
		}
		if want.MTU != 0 && have.link.MTU != want.MTU {
			change.MTU = want.MTU
		}
		if !mac.IsZero() && have.link.MAC != mac {
			change.MAC = mac
		}
	}
	if have.link.Up != rtnl.On {
		change.Up = rtnl.On
	}
	if change != set {
		p = append(p, rtnl.Change{Verb: rtnl.Set, Object: change})
	}
	return p, owned, nil
}

// setting is a sysctl of the bridge or of the node, and where a bridge that is still to be made gets its value from.
type setting struct {
	rtnl.Sysctl
	inherited string
}

// sysctls returns the settings that want needs.
func sysctls(want Config) []setting {
	own := func(family, name, value string) setting {
		return setting{rtnl.Sysctl{Name: "net/" + family + "/conf/" + want.Name + "/" + name, Value: value}, "net/" + family + "/conf/default/" + name}
	}
	global := func(name, value string) setting { return setting{rtnl.Sysctl{Name: name, Value: value}, name} }
	// A pod could announce itself as a router (CVE-2020-10749).
	s := []setting{own("ipv6", "accept_ra", "0")}
	if hasFamily(want.Gateways, rtnl.IPv4) {
		s = append(s, global("net/ipv4/ip_forward", "1"), own("ipv4", "forwarding", "1"))
	}
	if hasFamily(want.Gateways, rtnl.IPv6) {
		// Without duplicate address detection: the node asks for a pod on behalf of others from the bridge's link-local address, and not
		// before that is usable. The default makes the first IPv6 packets to a new node's pods wait 1 to 2 s (measured, Linux 6.18).
		s = append(s, own("ipv6", "disable_ipv6", "0"), own("ipv6", "accept_dad", "0"), global("net/ipv6/conf/all/forwarding", "1"), own("ipv6", "forwarding", "1"))
	}
	return s
}

func hasFamily(ps []netip.Prefix, f rtnl.Family) bool {
	for _, p := range ps {
		if rtnl.FamilyOf(p.Addr()) == f {
			return true
		}
	}
	return false
}

func planSysctls(want Config, have snapshot) (p rtnl.Plan, err error) {
	_, ipv6 := have.sysctls["net/ipv6/conf/"+want.Name+"/accept_ra"]
	var faults []error
	for i, gw := range want.Gateways {
		if gw.Addr().Is6() && !ipv6 {
			faults = append(faults, fmt.Errorf("bridge: Gateways[%d] %s: this kernel has no IPv6 (no net/ipv6/conf); want IPv4 only", i, gw))
		}
	}
	for _, s := range sysctls(want) {
		if value, ok := have.sysctls[s.Name]; ok && value != s.Value {
			p = append(p, rtnl.Change{Verb: rtnl.Set, Object: s.Sysctl})
		}
	}
	return p, errors.Join(faults...)
}

// planAddrs plans the gateway addresses: what is in the way goes before, what is only too much goes after.
func planAddrs(want Config, have []rtnl.Addr, owned bool) (before, add, after rtnl.Plan, err error) {
	wanted := map[netip.Prefix]bool{}
	for _, gw := range want.Gateways {
		wanted[gw] = true
	}
	var faults []error
	for _, a := range have {
		if a.Prefix.Addr().IsLinkLocalUnicast() || wanted[a.Prefix] && !a.DADFailed {
			delete(wanted, a.Prefix)
			continue
		}
		remove := rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Addr{Link: a.Link, Prefix: a.Prefix}}
		switch gw, blocks := inTheWay(want.Gateways, a.Prefix); {
		case blocks && (owned || want.ForceAddress || gw == a.Prefix):
			before = append(before, remove)
		case blocks:
			faults = append(faults, fmt.Errorf("bridge %s: address %s, which podnet did not set, is in the way of gateway %s: remove it or set ForceAddress", want.Name, a.Prefix, gw))
		case owned:
			after = append(after, remove)
		}
	}
	for _, gw := range want.Gateways {
		if wanted[gw] {
			add = append(add, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: want.Name, Prefix: gw, NoDAD: gw.Addr().Is6()}})
		}
	}
	return before, add, after, errors.Join(faults...)
}

// inTheWay returns the gateway that cannot be beside a. In IPv4 that is any gateway, since the connected route of an old node's
// subnet would draw in the traffic of the node that has it now; several IPv6 subnets on one bridge are usual (the reference plugin's rule).
func inTheWay(gateways []netip.Prefix, a netip.Prefix) (netip.Prefix, bool) {
	for _, gw := range gateways {
		if gw.Overlaps(a) || gw.Addr().Is4() && a.Addr().Is4() {
			return gw, true
		}
	}
	return netip.Prefix{}, false
}
