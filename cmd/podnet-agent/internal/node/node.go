// Package node is what the agent knows about a node of the cluster, whoever tells it: node descriptions in files, or the Kubernetes API.
//
// What it does: it holds values, and [Node.Validate] checks one node by itself. Whether nodes contradict each other (the same podCIDR,
// address or VTEP MAC) is found by the backends, which leave the loser out.
//
// What it owns, what it touches: nothing.
//
// Failure: [Node.Validate] returns every fault with field, value and what is allowed.
//
// Privileges: none. Concurrency: values; nothing is shared.
package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

// Node is one node of the cluster.
type Node struct {
	Name      string
	PodCIDRs  []netip.Prefix // at most one per family
	Addresses []netip.Addr   // in the underlay, at most one per family
	VTEPMAC   rtnl.MAC       // zero: derived from the name
	VTEPMAC6  rtnl.MAC       // of the IPv6 VTEP, if it is another one
}

// Snapshot is all that a source knows at one moment. It is never changed after it was handed out.
type Snapshot struct {
	// Synced says that the source was read at least once. An agent changes nothing before.
	Synced bool
	Nodes  []Node
	// Problems are the descriptions that are not used, or not used as they stand now, one line each, sorted.
	Problems []string
}

// Equal reports whether n and o say the same.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.VTEPMAC == o.VTEPMAC && n.VTEPMAC6 == o.VTEPMAC6 && slices.Equal(n.PodCIDRs, o.PodCIDRs) && slices.Equal(n.Addresses, o.Addresses)
}

// PodCIDR returns the node's podCIDR of a family; the zero Prefix if there is none.
func (n Node) PodCIDR(f rtnl.Family) netip.Prefix {
	for _, p := range n.PodCIDRs {
		if rtnl.FamilyOf(p.Addr()) == f {
			return p
		}
	}
	return netip.Prefix{}
}

// Address returns the node's underlay address of a family; the zero Addr if there is none.
func (n Node) Address(f rtnl.Family) netip.Addr {
	for _, a := range n.Addresses {
		if rtnl.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// MAC returns the MAC address of the node's VTEP of a family; zero if it is derived.
func (n Node) MAC(f rtnl.Family) rtnl.MAC {
	if f == rtnl.IPv6 && !n.VTEPMAC6.IsZero() {
		return n.VTEPMAC6
	}
	return n.VTEPMAC
}

// podCIDRBits are the shortest and longest prefix of a podCIDR: the shortest has room for a cluster, the longest for the
// VTEP's address, the gateway and one pod.
var podCIDRBits = map[rtnl.Family][2]int{rtnl.IPv4: {8, 30}, rtnl.IPv6: {16, 126}}

// Validate returns every fault of n, each with its field and value.
func (n Node) Validate() error {
	faults := []error{checkName(n.Name)}
	if len(n.PodCIDRs) == 0 {
		faults = append(faults, errors.New("podCIDRs: none: want one CIDR per family, such as 10.244.1.0/24"))
	}
	if len(n.Addresses) == 0 {
		faults = append(faults, errors.New("addresses: none: want one address per family, such as 192.168.1.11"))
	}
	var seen [2]map[rtnl.Family]bool
	seen[0], seen[1] = map[rtnl.Family]bool{}, map[rtnl.Family]bool{}
	for i, p := range n.PodCIDRs {
		field := fmt.Sprintf("podCIDRs[%d] %q", i, p)
		faults = append(faults, twice(field, seen[0], rtnl.FamilyOf(p.Addr())), checkPodCIDR(field, p))
	}
	for i, a := range n.Addresses {
		field := fmt.Sprintf("addresses[%d] %q", i, a)
		faults = append(faults, twice(field, seen[1], rtnl.FamilyOf(a)), checkAddress(field, a))
		for _, p := range n.PodCIDRs {
			if p.Bits() > 0 && p.Contains(a) {
				faults = append(faults, fmt.Errorf("%s: lies in the node's own podCIDR %v: want an address of the underlay", field, p))
			}
		}
	}
	for _, mac := range []rtnl.MAC{n.VTEPMAC, n.VTEPMAC6} {
		if mac.IsMulticast() {
			faults = append(faults, fmt.Errorf("vtepMAC %q: a multicast address: want a unicast one, such as 02:00:0a:f4:01:00", mac))
		}
	}
	return errors.Join(faults...)
}

func twice(field string, seen map[rtnl.Family]bool, f rtnl.Family) error {
	if f != rtnl.AnyFamily && seen[f] {
		return fmt.Errorf("%s: the second of IPv%d: want at most one per family", field, f)
	}
	seen[f] = true
	return nil
}

// checkName allows what Kubernetes allows for the name of a node (a DNS subdomain, RFC 1123).
func checkName(name string) error {
	const want = "want 1 to 253 lower case letters, digits, '-' and '.', with a letter or digit at both ends"
	ok := len(name) > 0 && len(name) <= 253 && alnum(name[0]) && alnum(name[len(name)-1])
	for i := range len(name) {
		ok = ok && (alnum(name[i]) || name[i] == '-' || name[i] == '.')
	}
	if !ok {
		if len(name) > 253 {
			name = name[:32] + "..."
		}
		return fmt.Errorf("name %q: %s", name, want)
	}
	return nil
}

// CheckName returns an error that says what the name of a node may be, if it is not one.
func CheckName(name string) error { return checkName(name) }

func alnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func checkPodCIDR(field string, p netip.Prefix) error {
	if !p.IsValid() {
		return fmt.Errorf("%s: not a CIDR: want one such as 10.244.1.0/24 or fd00:244:0:1::/64", field)
	}
	if err := checkUnicast(field, p.Addr()); err != nil {
		return err
	}
	if m := p.Masked(); m != p {
		return fmt.Errorf("%s: has host bits: want %v", field, m)
	}
	if b := podCIDRBits[rtnl.FamilyOf(p.Addr())]; p.Bits() < b[0] || p.Bits() > b[1] {
		return fmt.Errorf("%s: want a prefix length of %d to %d", field, b[0], b[1])
	}
	return nil
}

func checkAddress(field string, a netip.Addr) error {
	if !a.IsValid() || a.Zone() != "" {
		return fmt.Errorf("%s: not an address: want one such as 192.168.1.11 or fd00:192::11", field)
	}
	return checkUnicast(field, a)
}

// checkUnicast refuses what no pod or node can have, so that a hostile description cannot divert such traffic.
func checkUnicast(field string, a netip.Addr) error {
	for _, no := range []struct {
		is   bool
		what string
	}{
		{a.Is4In6(), "IPv4-mapped IPv6"},
		{a.IsUnspecified(), "unspecified"},
		{a.IsLoopback() || a.Is4() && a.As4()[0] == 127, "loopback"},
		{a.IsMulticast(), "multicast"},
		{a.IsLinkLocalUnicast(), "link-local"},
		{a.Is4() && a.As4()[0] == 0, "of the reserved network 0.0.0.0/8"},
		{a.Is4() && a.As4()[0] >= 240, "of the reserved network 240.0.0.0/4"},
	} {
		if no.is {
			return fmt.Errorf("%s: %s: want unicast addresses of a network", field, no.what)
		}
	}
	return nil
}
