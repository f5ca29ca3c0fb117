package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

// Desired is what one pass works towards. What it holds is never changed.
type Desired struct {
	Net    netconf.Config
	Node   node.Node   // this node
	Peers  []node.Node // the others
	Uplink rtnl.Link   // zero: unknown
	Locals []Local     // one per enabled family that this node has
}

// Local is this node in one address family.
type Local struct {
	Family  rtnl.Family
	Addr    netip.Addr // on the uplink
	PodCIDR netip.Prefix
}

// PodMTU is the MTU of pods: the smallest of what the families can carry, since a pod's link has one MTU.
func (d Desired) PodMTU() int {
	mtu := 0
	for _, l := range d.Locals {
		if m := d.mtu(l.Family); mtu == 0 || m < mtu {
			mtu = m
		}
	}
	return mtu
}

// mtu is the MTU of a family's VTEP, or of the uplink where there is none. A smaller one can be configured.
func (d Desired) mtu(f rtnl.Family) int {
	mtu := d.Uplink.MTU
	if d.Net.Backend.Type == netconf.VXLAN {
		mtu = vxlan.MTUFor(mtu, f)
	}
	if c := d.Net.Backend.MTU; c != 0 && c < mtu {
		mtu = c
	}
	return mtu
}

// VTEPMAC is the MAC address of this node's VTEP of a family.
func (d Desired) VTEPMAC(f rtnl.Family) rtnl.MAC {
	if mac := d.Node.MAC(f); !mac.IsZero() {
		return mac
	}
	return vxlan.MACFor(d.Node.Name, vxlan.DeviceName(d.Net.Backend.VNI, f))
}

func (d Desired) equal(o Desired) bool {
	sameNet := slices.Equal(d.Net.Networks, o.Net.Networks) && d.Net.Backend == o.Net.Backend
	return sameNet && d.Node.Equal(o.Node) && slices.Equal(d.Locals, o.Locals) && slices.EqualFunc(d.Peers, o.Peers, node.Node.Equal) &&
		d.Uplink.Name == o.Uplink.Name && d.Uplink.Index == o.Uplink.Index && d.Uplink.MTU == o.Uplink.MTU
}

// split finds this node among the nodes, and what of it the enabled families need.
func split(nodes []node.Node, name string, c netconf.Config) (Desired, error) {
	d := Desired{Net: c, Peers: make([]node.Node, 0, len(nodes))}
	for _, n := range nodes {
		if n.Name == name {
			d.Node = n
		} else {
			d.Peers = append(d.Peers, n)
		}
	}
	if d.Node.Name == "" {
		return d, fmt.Errorf("no description of this node, %q, among %d", name, len(nodes))
	}
	var faults []error
	for _, f := range c.Families() {
		pods, addr := d.Node.PodCIDR(f), d.Node.Address(f)
		switch network := c.Network(f); {
		case !pods.IsValid():
			faults = append(faults, fmt.Errorf("node %q has no IPv%d podCIDR, though the network %v is enabled", name, f, network))
		case !inside(network, pods):
			faults = append(faults, fmt.Errorf("node %q: podCIDR %v is outside the network %v", name, pods, network))
		case !addr.IsValid() && c.Backend.Type != netconf.Alloc:
			faults = append(faults, fmt.Errorf("node %q has a podCIDR but no address of IPv%d", name, f))
		default:
			d.Locals = append(d.Locals, Local{Family: f, Addr: addr, PodCIDR: pods})
		}
	}
	return d, errors.Join(faults...)
}

func inside(network, p netip.Prefix) bool {
	return network.Bits() <= p.Bits() && network.Contains(p.Addr())
}

// Kernel is what the agent itself reads of the network namespace, to find the uplink, and the sysctls that it keeps.
type Kernel interface {
	Links(ctx context.Context) ([]rtnl.Link, error)
	Addrs(ctx context.Context, link string) ([]rtnl.Addr, error)
	Routes(ctx context.Context, f rtnl.RouteFilter) ([]rtnl.Route, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
}

// findUplink completes d with the uplink and the addresses on it: the device that is named, else the one with the node's own address, else
// that of the default route. The last is for nodes whose described address is translated on the way (a cloud's public one); they
// send from the first address of that device.
func findUplink(ctx context.Context, k Kernel, d Desired, iface string) (Desired, error) {
	links, err := k.Links(ctx)
	if err != nil {
		return d, fmt.Errorf("find uplink: %w", err)
	}
	addrs, err := k.Addrs(ctx, "")
	if err != nil {
		return d, fmt.Errorf("find uplink: %w", err)
	}
	name := iface
	if name == "" {
		name = deviceOf(addrs, d.Node.Addresses)
	}
	if name == "" {
		if name, err = defaultRouteDevice(ctx, k); err != nil {
			return d, err
		}
	}
	if name == "" {
		return d, fmt.Errorf("no device has an address of this node (%v), and there is no default route; name one with --iface", d.Node.Addresses)
	}
	i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == name })
	if i < 0 {
		return d, fmt.Errorf("uplink %q does not exist (yet)", name)
	}
	d.Uplink = links[i]
	d.Locals = slices.Clone(d.Locals)
	for i, l := range d.Locals {
		if d.Locals[i].Addr = localAddr(addrs, name, l.Addr); !d.Locals[i].Addr.IsValid() && d.Net.Backend.Type != netconf.Alloc {
			return d, fmt.Errorf("uplink %s has no IPv%d address (yet)", name, l.Family)
		}
	}
	return d, nil
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

// localAddr returns want if it is on any device, else the first global one of its family on link. With a tunnel, the address that
// the packets leave from has to be the node's own.
func localAddr(addrs []rtnl.Addr, link string, want netip.Addr) netip.Addr {
	var first netip.Addr
	for _, a := range addrs {
		have := a.Prefix.Addr()
		if have == want {
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
