package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/takeover"
	"github.com/podnet/podnet/rtnl"
)

// Uplink says which device the packets to other nodes leave through. What is given is tried in this order, and the first that is found is taken; nothing given:
// the device that has this node's address, else that of the default route. It is looked at anew in each pass.
type Uplink struct {
	Ifaces   []string         // names or addresses
	Regexps  []*regexp.Regexp // of addresses, else of names
	CanReach netip.Addr       // the device through which the kernel would send there
}

func (u Uplink) given() bool {
	return len(u.Ifaces) > 0 || len(u.Regexps) > 0 || u.CanReach.IsValid()
}

// String returns what is given.
func (u Uplink) String() string {
	var parts []string
	parts = append(parts, u.Ifaces...)
	for _, r := range u.Regexps {
		parts = append(parts, fmt.Sprintf("matches %q", r))
	}
	if u.CanReach.IsValid() {
		parts = append(parts, "reaches "+u.CanReach.String())
	}
	return strings.Join(parts, ", ")
}

// findUplink completes d with the uplink and the addresses on it. The default route is for nodes whose described address is translated on the way (a
// cloud's public one); they send from the first address of that device.
func (a *Agent) findUplink(ctx context.Context, d Desired) (Desired, error) {
	k := a.o.Kernel
	links, err := k.Links(ctx)
	if err != nil {
		return d, fmt.Errorf("find uplink: %w", err)
	}
	if d.Net.Backend.Type == netconf.VXLAN {
		for i, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
			d.VTEPs[i] = takeover.VTEP(links, d.Net.Backend.VNI, f, a.o.TakeOver, a.o.FlannelVTEP)
		}
	}
	d.flannel = !a.o.TakeOver && takeover.Left(links, d.Net.Backend.VNI)
	d.seen = map[string]bool{}
	for _, l := range links {
		if !podsDevice(l.Name) {
			d.seen[l.Name] = true
		}
	}
	addrs, err := k.Addrs(ctx, "")
	if err != nil {
		return d, fmt.Errorf("find uplink: %w", err)
	}
	d.byRoute = a.o.Uplink.CanReach.IsValid() || !a.o.Uplink.given() && deviceOf(addrs, d.Node.Addresses) == ""
	name, from, err := chooseUplink(ctx, k, a.o.Uplink, links, addrs, d.Node.Addresses)
	if err != nil {
		return d, err
	}
	i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == name })
	if i < 0 {
		return d, fmt.Errorf("uplink %q does not exist (yet)", name)
	}
	d.Uplink = links[i]
	d.Locals = slices.Clone(d.Locals)
	for i, l := range d.Locals {
		want := l.Addr
		if rtnl.FamilyOf(from) == l.Family {
			want = from
		}
		if d.Locals[i].Addr = localAddr(addrs, name, want, a.o.Uplink.given()); !d.Locals[i].Addr.IsValid() && d.Net.Backend.Type != netconf.Alloc {
			return d, fmt.Errorf("uplink %s has no IPv%d address (yet)", name, l.Family)
		}
	}
	return d, nil
}

// podsDevice reports whether a device is a pod's end on the node, by the name that podnet-cni and the bridge plugin give it. A busy node makes and
// removes many of them.
func podsDevice(name string) bool { return strings.HasPrefix(name, "veth") }

// chooseUplink returns the device's name, and the address on it if that is what was asked for.
func chooseUplink(ctx context.Context, k Kernel, u Uplink, links []rtnl.Link, addrs []rtnl.Addr, own []netip.Addr) (name string, from netip.Addr, err error) {
	for _, want := range u.Ifaces {
		if ip, err := netip.ParseAddr(want); err == nil {
			if name := deviceOf(addrs, []netip.Addr{ip}); name != "" {
				return name, ip, nil
			}
		} else if slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Name == want }) {
			return want, from, nil
		}
	}
	for _, re := range u.Regexps {
		for _, a := range addrs {
			if ip := a.Prefix.Addr(); !ip.IsLoopback() && re.MatchString(ip.String()) {
				return a.Link, ip, nil
			}
		}
		for _, l := range links {
			if re.MatchString(l.Name) {
				return l.Name, from, nil
			}
		}
	}
	if u.CanReach.IsValid() {
		switch r, err := k.RouteTo(ctx, u.CanReach); {
		case err == nil && r.Link != "":
			return r.Link, r.Src, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() != nil:
			return "", from, fmt.Errorf("find uplink: %w", err)
		}
	}
	if u.given() {
		return "", from, fmt.Errorf("no uplink (yet): none of %s is here", u)
	}
	if name := deviceOf(addrs, own); name != "" {
		return name, from, nil
	}
	if name, err = defaultRouteDevice(ctx, k); err == nil && name == "" {
		err = fmt.Errorf("no device has an address of this node (%v), and there is no default route; name one with --iface", own)
	}
	return name, from, err
}

func deviceOf(addrs []rtnl.Addr, own []netip.Addr) string {
	for _, a := range own {
		for _, have := range addrs {
			if have.Prefix.Addr() == a {
				return have.Link
			}
		}
	}
	return ""
}

// localAddr returns want if it is on a device (on this one or the loopback, if the device was asked for), else the first global one of its family on link. With a tunnel, the
// address that the packets leave from has to be the node's own.
func localAddr(addrs []rtnl.Addr, link string, want netip.Addr, onLink bool) netip.Addr {
	var first netip.Addr
	for _, a := range addrs {
		have := a.Prefix.Addr()
		if have == want && (a.Link == link || a.Link == "lo" || !onLink) {
			return want
		}
		if a.Link == link && !first.IsValid() && rtnl.FamilyOf(have) == rtnl.FamilyOf(want) && have.IsGlobalUnicast() {
			first = have
		}
	}
	return first
}

func defaultRouteDevice(ctx context.Context, k Kernel) (string, error) {
	routes, err := k.Routes(ctx, rtnl.RouteFilter{})
	if err != nil {
		return "", fmt.Errorf("find default route: %w", err)
	}
	best := rtnl.Route{}
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.Link != "" && r.Type == rtnl.Unicast && (best.Link == "" || less(r, best)) {
			best = r
		}
	}
	return best.Link, nil
}

// less prefers IPv4, then the smaller metric.
func less(a, b rtnl.Route) bool {
	if a4, b4 := a.Dst.Addr().Is4(), b.Dst.Addr().Is4(); a4 != b4 {
		return a4
	}
	return a.Priority < b.Priority
}
