package peers

import (
	"errors"
	"fmt"
	"net/netip"
)

// CheckPodCIDR returns why p cannot be a node's pod range, beginning with its value.
func CheckPodCIDR(p netip.Prefix) error {
	switch a := p.Addr(); {
	case !p.IsValid():
		return errors.New("is missing: want an IPv4 or IPv6 prefix")
	case a.Is4In6():
		return fmt.Errorf("%s: want plain IPv4, not IPv4 in IPv6", p)
	case p != p.Masked():
		return fmt.Errorf("%s: has host bits; want %s", p, p.Masked())
	case p.Bits() == 0:
		return fmt.Errorf("%s: is the whole address space; want a node's share of it", p)
	case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsUnspecified():
		return fmt.Errorf("%s: want unicast addresses, not loopback, link-local, multicast or unspecified", p)
	}
	return nil
}

// CheckAddr returns why a cannot be a node's address, beginning with its value.
func CheckAddr(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("is missing: want an IPv4 or IPv6 address")
	case a.Is4In6():
		return fmt.Errorf("%s: want plain IPv4, not IPv4 in IPv6", a)
	case a.Zone() != "":
		return fmt.Errorf("%s: want an address without a zone", a)
	case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s: want a unicast address, not loopback, link-local, multicast, broadcast or unspecified", a)
	}
	return nil
}

// CheckEndpoint returns every fault of this node's own address and pod range, each beginning with the field's name.
func CheckEndpoint(local netip.Addr, podCIDR netip.Prefix) (faults []error) {
	if err := CheckAddr(local); err != nil {
		faults = append(faults, fault("Local", "%w", err))
	}
	switch err := CheckPodCIDR(podCIDR); {
	case err != nil:
		faults = append(faults, fault("PodCIDR", "%w", err))
	case !local.IsValid():
	case podCIDR.Addr().Is4() != local.Is4():
		faults = append(faults, fault("PodCIDR", "%s: want the address family of Local %s", podCIDR, local))
	case podCIDR.Contains(local):
		faults = append(faults, fault("PodCIDR", "%s: holds Local %s; want pods and nodes in different ranges", podCIDR, local))
	}
	return faults
}

// CheckClusterCIDRs returns every fault of the cluster's pod ranges, each beginning with the field's name.
func CheckClusterCIDRs(ranges []netip.Prefix) (faults []error) {
	for i, p := range ranges {
		if err := CheckPodCIDR(p); err != nil {
			faults = append(faults, fault(fmt.Sprintf("ClusterCIDRs[%d]", i), "%w", err))
		}
	}
	return faults
}
