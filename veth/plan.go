package veth

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

// ends returns the two devices of the owner's link.
func (o Options) ends(want Config) (host, pod rtnl.Link) {
	host = rtnl.Link{Name: o.hostName(), Kind: rtnl.KindVeth, MTU: want.MTU, MAC: o.mac("host"), Alias: Mark(o.ContainerID, o.Ifname), Up: rtnl.On, Master: want.Bridge}
	if want.Bridge != "" {
		host.Hairpin = switchOf(want.Hairpin)
	}
	pod = rtnl.Link{Name: o.Ifname, Kind: rtnl.KindVeth, MTU: want.MTU, MAC: want.MAC, Up: rtnl.On}
	if pod.MAC.IsZero() {
		pod.MAC = o.mac("pod")
	}
	return host, pod
}

func switchOf(on bool) rtnl.Switch {
	if on {
		return rtnl.On
	}
	return rtnl.Off
}

// owns reports whether the link is the host end of the owner's attachment. A process killed between the two messages that
// make it leaves it without alias, but with the name and the MAC that only we derive.
func (o Options) owns(host rtnl.Link) bool {
	return host.Kind == rtnl.KindVeth && (host.Alias == Mark(o.ContainerID, o.Ifname) || host.Alias == "" && host.MAC == o.mac("host"))
}

// plan returns what turns have into want.
func plan(o Options, want Config, have snapshot) (Plan, error) {
	remove := rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: o.hostName()}}
	exists := have.host.Name != ""
	if want.isZero() {
		if exists && o.owns(have.host) {
			return Plan{Host: rtnl.Plan{remove}}, nil
		}
		return Plan{}, nil
	}
	if exists && !o.owns(have.host) {
		return Plan{}, fmt.Errorf("the device exists already and is not that of container %s, interface %s (kind %q, alias %q); it is left alone",
			o.ContainerID, o.Ifname, have.host.Kind, have.host.Alias)
	}
	if have.pod.Name != "" && !(exists && have.paired()) {
		return Plan{}, fmt.Errorf("interface %s exists already in the pod (%s) and is not the other end; want a free name", o.Ifname, o.Netns)
	}
	if err := checkIPv6(want, have); err != nil {
		return Plan{}, err
	}
	host, pod := o.ends(want)
	var p Plan
	if exists && have.paired() {
		p.Host = slices.Concat(changedSettings(hostSysctls(o, want), have.hostSysctls), setLink(host, have.host))
		p.Pod = slices.Concat(changedSettings(podSysctls(o, want, have.ipv6Off), have.podSysctls), planAddrs(o, want, have.addrs),
			setLink(pod, have.pod), planRoutes(o, want, have.routes))
		return p, nil
	}
	if exists { // a link to a namespace that the pod does not have any more
		p.Host = append(p.Host, remove)
	}
	born := host
	born.Veth = rtnl.Veth{Peer: o.Ifname, PeerNetns: o.Netns, PeerMAC: pod.MAC}
	p.Host = slices.Concat(p.Host, rtnl.Plan{{Verb: rtnl.Add, Object: born}}, firstSettings(hostSysctls(o, want), have.ipv6Off))
	// Up comes before the addresses: they are announced once, when the bridge forwards, and not before that to no avail.
	up := rtnl.Plan{{Verb: rtnl.Set, Object: rtnl.Link{Name: o.Ifname, Up: rtnl.On}}}
	p.Pod = slices.Concat(firstSettings(podSysctls(o, want, have.ipv6Off), have.ipv6Off), up, planAddrs(o, want, nil), planRoutes(o, want, nil))
	return p, nil
}

// setLink returns the change that gives have the fields of want that differ, none if none does.
func setLink(want, have rtnl.Link) rtnl.Plan {
	key := rtnl.Link{Name: want.Name}
	set := key
	if want.MTU != 0 && want.MTU != have.MTU {
		set.MTU = want.MTU
	}
	if want.MAC != have.MAC {
		set.MAC = want.MAC
	}
	if want.Alias != have.Alias {
		set.Alias = want.Alias
	}
	if want.Up != have.Up {
		set.Up = want.Up
	}
	if want.Master != "" && want.Master != have.Master {
		set.Master, set.Hairpin = want.Master, want.Hairpin // a new port begins without hairpin
	}
	if want.Hairpin != have.Hairpin && want.Master != "" {
		set.Hairpin = want.Hairpin
	}
	if set == key {
		return nil
	}
	return rtnl.Plan{{Verb: rtnl.Set, Object: set}}
}

// ipv6Off is what a new device in the pod inherits; it exists if the kernel has IPv6. Container runtimes switch IPv6 off with "all", which sets this one too.
const ipv6Off = "net/ipv6/conf/default/disable_ipv6"

func sysctl(family, ifname, name, value string) rtnl.Sysctl {
	return rtnl.Sysctl{Name: "net/" + family + "/conf/" + ifname + "/" + name, Value: value}
}

// hostSysctls returns the settings of the host end. A bridge port takes no router advertisements.
func hostSysctls(o Options, want Config) []rtnl.Sysctl {
	if want.Bridge != "" {
		return nil
	}
	return []rtnl.Sysctl{sysctl("ipv6", o.hostName(), "accept_ra", "0")} // the pod could announce itself as a router
}

// podSysctls returns the settings of the pod's end.
func podSysctls(o Options, want Config, ipv6Off string) []rtnl.Sysctl {
	s := []rtnl.Sysctl{
		sysctl("ipv6", o.Ifname, "accept_ra", "0"), // another pod could announce itself as a router (CVE-2020-10749)
	}
	if !want.Quiet {
		s = append(s, sysctl("ipv4", o.Ifname, "arp_notify", "1")) // neighbours learn who has a reused address now
	}
	if want.hasIPv6() {
		s = append(s,
			sysctl("ipv6", o.Ifname, "disable_ipv6", "0"),
			// The link-local address keeps its duplicate address detection (accept_dad): without, the kernel sends its multicast report at
			// once, to every port of the bridge, and all other IPv6 work waits for it: 5 ms of an ADD among 1,000 pods (Linux 6.18).
			sysctl("ipv6", o.Ifname, "keep_addr_on_down", "1")) // as IPv4 addresses do
		if !want.Quiet {
			s = append(s, sysctl("ipv6", o.Ifname, "ndisc_notify", "1"))
		}
		if ipv6Off != "0" { // whoever switched IPv6 off did so on lo as well
			s = append(s, sysctl("ipv6", "lo", "disable_ipv6", "0"))
		}
	}
	return s
}

// checkIPv6 returns an error if there are IPv6 addresses and a kernel without IPv6.
func checkIPv6(want Config, have snapshot) error {
	if have.ipv6Off != "" {
		return nil
	}
	var faults []error
	for _, a := range want.Addrs {
		if a.Addr().Is6() {
			faults = append(faults, fmt.Errorf("address %s: this kernel has no IPv6 (no net/ipv6/conf); want IPv4 only", a))
		}
	}
	return errors.Join(faults...)
}

// changedSettings plans the settings that differ. What does not exist cannot differ.
func changedSettings(settings []rtnl.Sysctl, have map[string]string) (p rtnl.Plan) {
	for _, s := range settings {
		if value, ok := have[s.Name]; ok && value != s.Value {
			p = append(p, rtnl.Change{Verb: rtnl.Set, Object: s})
		}
	}
	return p
}

// firstSettings plans the settings of a new link, without those that the kernel does not have. That IPv6 is on is taken for granted until the kernel
// refuses an address: the setting would cost the lock of all of rtnetlink.
func firstSettings(settings []rtnl.Sysctl, ipv6Off string) (p rtnl.Plan) {
	for _, s := range settings {
		if ipv6 := strings.HasPrefix(s.Name, "net/ipv6/"); ipv6 && (ipv6Off == "" || strings.HasSuffix(s.Name, "/disable_ipv6")) {
			continue
		}
		p = append(p, rtnl.Change{Verb: rtnl.Set, Object: s})
	}
	return p
}

// planAddrs plans the missing addresses. Others on the link stay: chained plugins and the pod itself may add some, and nothing on an address tells whose it is.
func planAddrs(o Options, want Config, have []rtnl.Addr) (p rtnl.Plan) {
	for _, a := range want.Addrs {
		i := slices.IndexFunc(have, func(h rtnl.Addr) bool { return h.Prefix == a })
		switch {
		case i < 0:
		case have[i].DADFailed: // it will never be usable: no retry in the kernel
			p = append(p, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Addr{Link: o.Ifname, Prefix: a}})
		default:
			continue
		}
		p = append(p, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: o.Ifname, Prefix: a, NoDAD: a.Addr().Is6()}})
	}
	return p
}

// routeKey is what the kernel tells two routes apart by.
type routeKey struct {
	dst      netip.Prefix
	table    uint32
	priority uint32
}

func keyOf(r rtnl.Route) routeKey {
	r = r.Canonical()
	return routeKey{r.Dst, r.Table, r.Priority}
}

// routes returns want's routes in full, those without gateway first: they may be the way to the gateways. Those that the kernel makes by
// itself for an address are left out.
func routes(o Options, want Config) (rs []rtnl.Route) {
	for _, r := range want.Routes {
		if !r.Gateway.IsValid() && r.Priority == 0 && r.Canonical().Table == rtnl.TableMain && want.isConnected(r.Dst) {
			continue
		}
		r.Link = o.Ifname
		if r.Protocol == rtnl.ProtocolUnspec {
			r.Protocol = rtnl.ProtocolStatic
		}
		rs = append(rs, r.Canonical())
	}
	slices.SortStableFunc(rs, func(a, b rtnl.Route) int {
		switch via, bVia := a.Gateway.IsValid(), b.Gateway.IsValid(); {
		case via == bVia:
			return 0
		case via:
			return 1
		}
		return -1
	})
	return rs
}

// planRoutes plans the missing routes, and replaces those of the link that lead elsewhere. Others stay, like the addresses. A route of another link with the
// same destination and priority makes the kernel refuse ours: two default routes need two priorities.
func planRoutes(o Options, want Config, have []rtnl.Route) (p rtnl.Plan) {
	for _, r := range routes(o, want) {
		verb := rtnl.Add
		if i := slices.IndexFunc(have, func(h rtnl.Route) bool { return keyOf(h) == keyOf(r) }); i >= 0 {
			present := have[i]
			present.Protocol = r.Protocol // a chained plugin may have written it again
			if present == r {
				continue
			}
			verb = rtnl.Replace
		}
		p = append(p, rtnl.Change{Verb: verb, Object: r})
	}
	return p
}

// tables returns the routing tables that the routes are in.
func tables(rs []rtnl.Route) (ts []uint32) {
	for _, r := range rs {
		if t := r.Canonical().Table; !slices.Contains(ts, t) {
			ts = append(ts, t)
		}
	}
	return ts
}

// missing returns what of want is not there.
func missing(o Options, want Config, have snapshot) error {
	switch {
	case want.isZero():
		return nil
	case have.host.Name == "":
		return errors.New("the host end is missing")
	case !o.owns(have.host):
		return fmt.Errorf("the device is not that of container %s, interface %s (kind %q, alias %q)", o.ContainerID, o.Ifname, have.host.Kind, have.host.Alias)
	case have.pod.Name == "":
		return fmt.Errorf("interface %s is missing in the pod", o.Ifname)
	case !have.paired():
		return fmt.Errorf("interface %s in the pod is not the other end", o.Ifname)
	}
	var faults []error
	for _, a := range want.Addrs {
		if !slices.ContainsFunc(have.addrs, func(h rtnl.Addr) bool { return h.Prefix == a }) {
			faults = append(faults, fmt.Errorf("address %s is missing on %s in the pod", a, o.Ifname))
		}
	}
	for _, r := range routes(o, want) {
		if !slices.ContainsFunc(have.routes, func(h rtnl.Route) bool { return keyOf(h) == keyOf(r) && h.Gateway == r.Gateway }) {
			faults = append(faults, fmt.Errorf("%s is missing in the pod", r))
		}
	}
	return errors.Join(faults...)
}
