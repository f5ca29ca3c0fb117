package kubenode

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

// converter makes of a Kubernetes Node what the agent works with.
type converter struct {
	keys flannel.Keys
	net  netconf.Config
}

// errNoPodCIDR says that a node has none yet: it was made a moment ago, or nobody gives podCIDRs here. It is no fault of the node.
var errNoPodCIDR = errors.New("no podCIDR")

// peer converts another node. annotated says that its agent has published where it is reached.
func (c converter) peer(n kubeapi.Node) (out node.Node, annotated bool, err error) {
	out.Name = n.Name
	said, err := c.keys.Decode(n.Annotations)
	if err != nil {
		return out, false, err
	}
	if len(n.PodCIDRs) == 0 {
		return out, said.Managed, errNoPodCIDR
	}
	if err := c.fits(said); err != nil {
		return out, said.Managed, err
	}
	if out.PodCIDRs, err = podCIDRs(n.PodCIDRs); err != nil {
		return out, said.Managed, err
	}
	for _, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		c.add(&out, f, said.Of(f).PublicIP, address(n.Addresses, kubeapi.InternalIP, f), address(n.Addresses, kubeapi.ExternalIP, f))
	}
	c.macs(&out, said)
	return out, said.Managed, out.Validate()
}

// fits returns why packets to a node with such a backend would not arrive.
func (c converter) fits(said flannel.Annotations) error {
	if c.net.Backend.Type != netconf.VXLAN || said.BackendType == "" {
		return nil // without a tunnel, it does not matter what the other end would understand
	}
	if said.BackendType != netconf.VXLAN {
		if said.BackendType == netconf.HostGW && c.net.Backend.DirectRouting {
			return nil
		}
		return fmt.Errorf("its backend-type is %s, and %s here", said.BackendType, c.net.Backend.Type)
	}
	for _, f := range c.net.Families() {
		if vni := said.Of(f).Data.VNI; vni != 0 && vni != c.vni() {
			return fmt.Errorf("its VNI is %d, and %d here", vni, c.vni())
		}
	}
	return nil
}

func (c converter) vni() uint32 {
	if c.net.Backend.VNI == 0 {
		return vxlan.DefaultVNI
	}
	return c.net.Backend.VNI
}

// own converts this node. What is faulty is left out: the agent says what it lacks, and its own annotations are its own to repair.
func (c converter) own(n kubeapi.Node) (out node.Node, said flannel.Annotations, err error) {
	out.Name = n.Name
	said, err = c.keys.Decode(n.Annotations)
	var fault error
	if out.PodCIDRs, fault = podCIDRs(n.PodCIDRs); fault != nil {
		err = errors.Join(err, fault)
	}
	for _, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		have := said.Of(f)
		from := []netip.Addr{have.NodePublicIP, address(n.Addresses, kubeapi.InternalIP, f), have.PublicIP, address(n.Addresses, kubeapi.ExternalIP, f)}
		if out.PodCIDR(f).IsValid() {
			from = append(from, unspecified(f))
		}
		c.add(&out, f, from...)
	}
	c.macs(&out, said)
	return out, said, err
}

// unspecified stands for the first address of the uplink. Kubelets report none of a family that they are not told to use, and none at all before a
// cloud's controller has seen the node; what the agent finds is published, so peers know it.
func unspecified(f rtnl.Family) netip.Addr {
	if f == rtnl.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// add adds the first of some addresses that is one.
func (c converter) add(n *node.Node, f rtnl.Family, from ...netip.Addr) {
	for _, a := range from {
		if a.IsValid() {
			n.Addresses = append(n.Addresses, a)
			return
		}
	}
}

// macs takes over the MAC addresses of the VTEPs. One that is not said is derived from the name, also if that of the other family is said.
func (c converter) macs(n *node.Node, said flannel.Annotations) {
	if said.BackendType != netconf.VXLAN {
		return
	}
	n.VTEPMAC, n.VTEPMAC6 = said.Of(rtnl.IPv4).Data.MAC, said.Of(rtnl.IPv6).Data.MAC
	if !n.VTEPMAC.IsZero() && n.VTEPMAC6.IsZero() {
		n.VTEPMAC6 = vxlan.MACFor(n.Name, vxlan.DeviceName(c.vni(), rtnl.IPv6))
	}
}

// same reports whether two forms of a node come to the same: a MAC that is said may be the one that was derived before.
func (c converter) same(a, b node.Node) bool {
	return a.Equal(b) || c.net.Backend.Type == netconf.VXLAN && c.derived(a).Equal(c.derived(b))
}

// derived fills in the MACs that are not said.
func (c converter) derived(n node.Node) node.Node {
	if n.Name == "" {
		return n
	}
	four := n.VTEPMAC
	if four.IsZero() {
		n.VTEPMAC = vxlan.MACFor(n.Name, vxlan.DeviceName(c.vni(), rtnl.IPv4))
	}
	if n.VTEPMAC6.IsZero() {
		if n.VTEPMAC6 = four; four.IsZero() {
			n.VTEPMAC6 = vxlan.MACFor(n.Name, vxlan.DeviceName(c.vni(), rtnl.IPv6))
		}
	}
	return n
}

func podCIDRs(texts []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(texts))
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, fmt.Errorf("podCIDR %.64q: not a CIDR", t)
		}
		out = append(out, p)
	}
	return out, nil
}

// address returns the first address of a type and family; kubelets put the main one first.
func address(from []kubeapi.Address, kind string, f rtnl.Family) netip.Addr {
	for _, a := range from {
		if a.Type != kind {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil && rtnl.FamilyOf(ip) == f {
			return ip
		}
	}
	return netip.Addr{}
}

// oneLine makes an error of several lines one.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
