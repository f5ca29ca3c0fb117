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
	VTEPs  [2]string   // names of the VXLAN devices, IPv4 and IPv6; "" = podnet's own

	flannel bool            // flannel has set this node up, and nothing is to be taken over
	byRoute bool            // it was a route that decided about the uplink
	seen    map[string]bool // the devices that there were, but for the pods'
}

// VTEP is the name of the VXLAN device of a family.
func (d Desired) VTEP(f rtnl.Family) string {
	name := d.VTEPs[0]
	if f == rtnl.IPv6 {
		name = d.VTEPs[1]
	}
	if name == "" {
		name = vxlan.DeviceName(d.Net.Backend.VNI, f)
	}
	return name
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
		d.VTEPs == o.VTEPs && d.Uplink.Name == o.Uplink.Name && d.Uplink.Index == o.Uplink.Index && d.Uplink.MTU == o.Uplink.MTU
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
	RouteTo(ctx context.Context, dst netip.Addr) (rtnl.Route, error)
	Sysctl(ctx context.Context, name string) (string, error)
	Write(ctx context.Context, p rtnl.Plan) []error
}
