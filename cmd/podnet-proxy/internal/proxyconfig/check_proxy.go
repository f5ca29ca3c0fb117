package proxyconfig

import (
	"slices"
	"strings"
	"time"
)

// section returns the name of the section that kube-proxy would read with this file: that of the file's mode. So --mode changes the dataplane and nothing else.
func (c *checker) section() string {
	switch string(c.kube.Mode) {
	case NFTables, IPVS:
		return string(c.kube.Mode)
	}
	return IPTables
}

// masquerade reads masqueradeAll and masqueradeBit. ipvs mode has them in the section iptables, as kube-proxy.
func (c *checker) masquerade() {
	k := &c.kube
	section, bit, all := IPTables, k.IPTables.MasqueradeBit, k.IPTables.MasqueradeAll
	other, otherBit, otherAll := NFTables, k.NFTables.MasqueradeBit, k.NFTables.MasqueradeAll
	if c.section() == NFTables {
		section, bit, all, other, otherBit, otherAll = other, otherBit, otherAll, section, bit, all
	}
	if c.flags.configFile != "" {
		if otherAll && !all {
			c.warn("%s is not used: mode %q reads %s.masqueradeAll, as with kube-proxy", c.name(other+".masqueradeAll"), k.Mode, section)
		}
		if *otherBit != 14 && *otherBit != *bit {
			c.warn("%s is not used: mode %q reads %s.masqueradeBit, as with kube-proxy", c.name(other+".masqueradeBit"), k.Mode, section)
		}
	}
	if !between(int(*bit), 0, 31) {
		c.fault(section+".masqueradeBit", *bit, "want 0 to 31")
	}
	c.out.MasqueradeAll, c.out.MasqueradeBit = all, int(*bit)
}

func (c *checker) local() {
	k := &c.kube
	l := DetectLocal{Mode: string(k.DetectLocalMode), Bridge: k.DetectLocal.BridgeInterface, Prefix: k.DetectLocal.InterfaceNamePrefix}
	switch l.Mode {
	case "":
		l.Mode = DetectClusterCIDR
	case DetectBridge:
		c.device("detectLocal.bridgeInterface", l.Bridge)
	case DetectPrefix:
		c.device("detectLocal.interfaceNamePrefix", l.Prefix)
	case DetectClusterCIDR, DetectNodeCIDR:
	default:
		c.fault("detectLocalMode", l.Mode, "want ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	}
	if k.ClusterCIDR != "" {
		for s := range strings.SplitSeq(k.ClusterCIDR, ",") {
			p, err := parsePrefix(s)
			if err != nil {
				c.fault("clusterCIDR", s, err.Error())
				continue
			}
			l.ClusterCIDRs = append(l.ClusterCIDRs, p)
		}
	} else if l.Mode == DetectClusterCIDR {
		c.warn("%s is empty: traffic of this node's pods is not told from other traffic, so that with externalTrafficPolicy Local they only reach endpoints of this node", c.name("clusterCIDR"))
	}
	c.out.DetectLocal = l
}

// primary is what stands for the node's primary addresses.
const primary = "primary"

func (c *checker) nodePorts() {
	list := c.kube.NodePortAddresses
	c.out.NodePorts.Default = len(list) == 0
	for _, s := range list {
		if s == primary {
			c.out.NodePorts.Primary = true
			if len(list) > 1 {
				c.fault("nodePortAddresses", strings.Join(list, ","), "want primary alone, or CIDRs")
			}
			continue
		}
		p, err := parsePrefix(s)
		if err != nil {
			c.fault("nodePortAddresses", s, err.Error()+", or primary")
		}
		c.out.NodePorts.CIDRs = append(c.out.NodePorts.CIDRs, p)
	}
}

func (c *checker) periods() {
	section := c.section()
	of := map[string][2]time.Duration{
		NFTables: {c.kube.NFTables.SyncPeriod.Duration, c.kube.NFTables.MinSyncPeriod.Duration},
		IPVS:     {c.kube.IPVS.SyncPeriod.Duration, c.kube.IPVS.MinSyncPeriod.Duration},
		IPTables: {c.kube.IPTables.SyncPeriod.Duration, c.kube.IPTables.MinSyncPeriod.Duration},
	}[section]
	c.out.SyncPeriod, c.out.MinSyncPeriod = of[0], of[1]
	if of[0] <= 0 {
		c.fault(section+".syncPeriod", of[0], "want more than 0s")
	}
	if of[1] < 0 {
		c.fault(section+".minSyncPeriod", of[1], "want 0s or more")
	} else if of[1] > of[0] {
		c.fault(section+".minSyncPeriod", of[1], "want at most "+section+".syncPeriod, which is "+of[0].String())
	}
	if c.kube.ConfigSyncPeriod.Duration <= 0 {
		c.fault("configSyncPeriod", c.kube.ConfigSyncPeriod.Duration, "want more than 0s")
	}
}

// schedulers are those of Linux 6.18.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "twos"}

func (c *checker) ipvs() {
	v := c.kube.IPVS
	if v.Scheduler != "" && !slices.Contains(schedulers, v.Scheduler) {
		c.fault("ipvs.scheduler", v.Scheduler, "want one of "+strings.Join(schedulers, ", "))
	}
	c.out.VirtualServer = VirtualServer{Scheduler: v.Scheduler, StrictARP: v.StrictARP, TCPTimeout: v.TCPTimeout.Duration, TCPFinTimeout: v.TCPFinTimeout.Duration, UDPTime: v.UDPTimeout.Duration}
	c.notNegative("ipvs.tcpTimeout", v.TCPTimeout.Duration)
	c.notNegative("ipvs.tcpFinTimeout", v.TCPFinTimeout.Duration)
	c.notNegative("ipvs.udpTimeout", v.UDPTimeout.Duration)
	for _, s := range v.ExcludeCIDRs {
		if _, err := parsePrefix(s); err != nil {
			c.fault("ipvs.excludeCIDRs", s, err.Error())
		}
	}
	if c.out.Mode != IPVS && c.out.Mode != Auto && c.flags.configFile == "" && (v.Scheduler != "" || v.StrictARP || v.TCPTimeout.Duration != 0 || v.TCPFinTimeout.Duration != 0 || v.UDPTimeout.Duration != 0) {
		c.warn("--ipvs-* is not used: mode is %s", c.out.Mode)
	}
}

func (c *checker) notNegative(field string, d time.Duration) {
	if d < 0 {
		c.fault(field, d, "want 0s (as it is) or more")
	}
}

func (c *checker) conntrack() {
	k := c.kube.Conntrack
	for _, n := range []struct {
		field string
		value int32
	}{{"conntrack.maxPerCore", *k.MaxPerCore}, {"conntrack.min", *k.Min}} {
		if n.value < 0 {
			c.fault(n.field, n.value, "want 0 (leave alone) or more")
		}
	}
	c.notNegative("conntrack.tcpEstablishedTimeout", k.TCPEstablishedTimeout.Duration)
	c.notNegative("conntrack.tcpCloseWaitTimeout", k.TCPCloseWaitTimeout.Duration)
	c.notNegative("conntrack.udpTimeout", k.UDPTimeout.Duration)
	c.notNegative("conntrack.udpStreamTimeout", k.UDPStreamTimeout.Duration)
	c.out.Conntrack = Conntrack{MaxPerCore: int(*k.MaxPerCore), Min: int(*k.Min), BeLiberal: k.TCPBeLiberal,
		TCPEstablished: k.TCPEstablishedTimeout.Duration, TCPCloseWait: k.TCPCloseWaitTimeout.Duration, UDP: k.UDPTimeout.Duration, UDPStream: k.UDPStreamTimeout.Duration}
}
