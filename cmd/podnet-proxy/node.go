package main

import (
	"net/netip"
	"time"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
)

// nodeWait is how long a Node may be without what the configuration asks of it, before Services are programmed without that. As kube-proxy, which begins after 30 s too;
// only where local pods are known by the Node's podCIDRs there is no end to it: every connection would be masqueraded wrongly.
const nodeWait = 30 * time.Second

// node makes the service.Node of the configuration and of what is known of the Node. It reports false while that is too little.
func node(c proxyconfig.Config, mode string, n kube.Node, serviceCIDRs []netip.Prefix, waited time.Duration) (service.Node, bool) {
	addrs := n.Addrs
	if c.BindAddress.IsValid() {
		addrs = append([]netip.Addr{c.BindAddress}, addrs...)
	}
	out := service.Node{
		Name: c.NodeName, Zone: n.Zone, Addrs: addrs, MasqueradeAll: c.MasqueradeAll, ExternalIPs: c.ExternalCIDRs,
		ServiceCIDRs: serviceCIDRs, PodCIDRs: c.DetectLocal.ClusterCIDRs,
	}
	ready := true
	switch c.DetectLocal.Mode {
	case proxyconfig.DetectClusterCIDR:
		out.LocalPods.CIDRs = c.DetectLocal.ClusterCIDRs
	case proxyconfig.DetectNodeCIDR:
		out.LocalPods.CIDRs = n.PodCIDRs
		ready = len(n.PodCIDRs) > 0
	case proxyconfig.DetectBridge:
		out.LocalPods.Interface = c.DetectLocal.Bridge
	case proxyconfig.DetectPrefix:
		out.LocalPods.InterfacePrefix = c.DetectLocal.Prefix
	}
	out.NodePortAddrs = c.NodePorts.CIDRs
	if primaryOnly(c, mode) {
		out.NodePortAddrs = nil
		for _, a := range (kube.Node{Addrs: addrs}).Primary() {
			out.NodePortAddrs = append(out.NodePortAddrs, netip.PrefixFrom(a, a.BitLen()))
		}
		ready = ready && (len(addrs) > 0 || c.Services != "" || waited >= nodeWait)
	}
	return out, ready
}

// primaryOnly reports whether NodePorts are served on the node's primary addresses only.
func primaryOnly(c proxyconfig.Config, mode string) bool {
	return c.NodePorts.Primary || c.NodePorts.Default && mode == proxyconfig.NFTables
}
