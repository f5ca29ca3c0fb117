package flowtable

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"sigs.k8s.io/yaml"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// node is the node of a table; the README.md of the tables says what the fields mean.
type node struct {
	Name      string       `json:"name"`
	Zone      string       `json:"zone"`
	Addresses []netip.Addr `json:"addresses"`
	NodeIPs   []netip.Addr `json:"nodeIPs"`
	LocalPods struct {
		CIDRs           []netip.Prefix `json:"cidrs"`
		Interface       string         `json:"interface"`
		InterfacePrefix string         `json:"interfacePrefix"`
	} `json:"localPods"`
	NodePortAddresses []string       `json:"nodePortAddresses"`
	MasqueradeAll     bool           `json:"masqueradeAll"`
	ExternalIPs       []netip.Prefix `json:"externalIPs"`
	ServiceCIDRs      []netip.Prefix `json:"serviceCIDRs"`
	PodCIDRs          []netip.Prefix `json:"podCIDRs"`
}

func machine(keys map[string]json.RawMessage) (servicetest.Machine, error) {
	text, err := json.Marshal(keys)
	if err != nil {
		return servicetest.Machine{}, err
	}
	var n node
	if err := yaml.UnmarshalStrict(text, &n); err != nil {
		return servicetest.Machine{}, fmt.Errorf("node: %w", err)
	}
	m := servicetest.Machine{Local: n.Addresses, Node: service.Node{
		Name: n.Name, Zone: n.Zone, Addrs: n.NodeIPs, MasqueradeAll: n.MasqueradeAll,
		LocalPods:   service.LocalPods{CIDRs: n.LocalPods.CIDRs, Interface: n.LocalPods.Interface, InterfacePrefix: n.LocalPods.InterfacePrefix},
		ExternalIPs: n.ExternalIPs, ServiceCIDRs: n.ServiceCIDRs, PodCIDRs: n.PodCIDRs,
	}}
	for _, a := range n.NodePortAddresses {
		if a == "primary" {
			for _, ip := range n.NodeIPs {
				m.NodePortAddrs = append(m.NodePortAddrs, netip.PrefixFrom(ip, ip.BitLen()))
			}
			continue
		}
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return servicetest.Machine{}, fmt.Errorf("node: nodePortAddresses: %w", err)
		}
		m.NodePortAddrs = append(m.NodePortAddrs, p)
	}
	return m, nil
}

func protocol(s string) (service.Protocol, error) {
	for _, p := range []service.Protocol{service.TCP, service.UDP, service.SCTP} {
		if s == p.String() || s == "" {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q", s)
}
