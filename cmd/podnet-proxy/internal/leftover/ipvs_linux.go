package leftover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
)

// virtual is what identifies kube-proxy's IPVS virtual servers.
type virtual struct {
	addrs     map[netip.Addr]bool // of kube-ipvs0
	servers   map[Server]bool     // of the ipsets with addresses
	nodePorts map[Server]bool     // of the ipsets of NodePorts; without address
	local     map[netip.Addr]bool // addresses of the node
	keep      func(Server) bool
}

// identify reads kube-proxy's device and sets. Nothing found identifies nothing.
func identify() virtual {
	v := virtual{addrs: map[netip.Addr]bool{}, servers: map[Server]bool{}, nodePorts: map[Server]bool{}, local: map[netip.Addr]bool{}, keep: func(Server) bool { return false }}
	if link, err := netlink.LinkByName(ipvsDevice); err == nil {
		addrs, _ := netlink.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if ip := addrOf(a.IP); !ip.IsLinkLocalUnicast() { // the kernel's own, of a device that is up
				v.addrs[ip] = true
			}
		}
	}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			v.local[addrOf(n.IP)] = true
		}
	}
	sets, _ := netlink.IpsetListAll()
	for _, s := range sets {
		if slices.Contains(setNames(), s.SetName) {
			v.set(s)
		}
	}
	return v
}

// set reads one ipset.
func (v virtual) set(s netlink.IPSetResult) {
	name := strings.TrimPrefix(strings.TrimPrefix(s.SetName, "KUBE-6-"), "KUBE-")
	for _, e := range s.Entries {
		if e.Port == nil {
			continue
		}
		one := Server{Port: *e.Port}
		if e.Protocol != nil {
			one.Protocol = *e.Protocol
		}
		switch {
		case strings.HasPrefix(name, "NODE-PORT"): // bitmap:port, or hash:ip,port for SCTP
			for suffix, protocol := range map[string]uint8{"-TCP": 6, "-UDP": 17, "-SCTP-HASH": 132} {
				if strings.HasSuffix(name, suffix) {
					one.Protocol = protocol
				}
			}
			v.nodePorts[one] = true
		case name == "CLUSTER-IP", name == "EXTERNAL-IP", name == "EXTERNAL-IP-LOCAL", name == "LOAD-BALANCER", name == "LOAD-BALANCER-LOCAL":
			one.Addr = addrOf(e.IP)
			v.servers[one] = true
		}
	}
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// kubes reports whether kube-proxy made a virtual server.
func (v virtual) kubes(s Server) bool {
	return v.addrs[s.Addr] || v.servers[s] || v.local[s.Addr] && v.nodePorts[Server{Port: s.Port, Protocol: s.Protocol}]
}

// remove removes kube-proxy's virtual servers.
func (v virtual) remove(context.Context) ([]string, error) {
	if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
		return nil, nil // no IPVS here, of which the library would not tell
	}
	handle, err := ipvs.New("")
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	all, err := handle.GetServices()
	if err != nil {
		return nil, err
	}
	n := 0
	var faults []error
	for _, s := range all {
		one := Server{addrOf(s.Address), s.Port, uint8(s.Protocol)}
		if s.FWMark != 0 || !v.kubes(one) || v.keep(one) {
			continue
		}
		if err := handle.DelService(s); err != nil {
			faults = append(faults, fmt.Errorf("%s:%d: %w", s.Address, s.Port, err))
			continue
		}
		n++
	}
	if n == 0 {
		return nil, errors.Join(faults...)
	}
	return []string{fmt.Sprintf("%d IPVS virtual servers", n)}, errors.Join(faults...)
}
