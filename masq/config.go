package masq

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Config is everything that is wanted. The zero Config owns nothing: applying it removes the rules.
type Config struct {
	// PodCIDRs are the address ranges of the pods on this node, any number per family. They must not overlap.
	PodCIDRs []netip.Prefix

	// ClusterCIDRs are the ranges of all pods of the cluster: between them nothing is translated. They must not overlap. Where a family
	// has cluster ranges, its PodCIDRs lie inside them; where it has none, this node's PodCIDRs are taken for the whole cluster.
	ClusterCIDRs []netip.Prefix

	// NonMasquerade are destinations outside the cluster that see the pods' own addresses, because they know a way back to them.
	// Overlaps are allowed. It does not change what the node itself sends to remote pods: that needs the translation (rule 6).
	NonMasquerade []netip.Prefix

	// Forward also accepts forwarded traffic from and to the cluster ranges, because Docker sets the policy of the iptables FORWARD
	// chain to DROP. It takes effect in the iptables backend only: in nftables a verdict in our own chain cannot overrule a drop in
	// another table, so there the accept rules belong into the table that drops (with Docker: its DOCKER-USER chain).
	Forward bool
}

// special are ranges that cannot be pods.
var special = [...]struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/127"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// Validate returns every fault of c, each with field, value and what is allowed.
func (c Config) Validate() error {
	var errs []error
	fields := []struct {
		name string
		list []netip.Prefix
		pods bool
	}{{"PodCIDRs", c.PodCIDRs, true}, {"ClusterCIDRs", c.ClusterCIDRs, true}, {"NonMasquerade", c.NonMasquerade, false}}
	for _, f := range fields {
		for i, p := range f.list {
			if err := checkPrefix(p, f.pods); err != nil {
				errs = append(errs, fmt.Errorf("%s[%d] %q: %w", f.name, i, p, err))
				continue
			}
			if !f.pods {
				continue
			}
			for j, q := range f.list[:i] {
				if p.Overlaps(q) {
					errs = append(errs, fmt.Errorf("%s[%d] %q overlaps %s[%d] %q: ranges must not overlap", f.name, i, p, f.name, j, q))
				}
			}
		}
	}
	for i, p := range c.PodCIDRs {
		cluster := ofFamily(c.ClusterCIDRs, familyOf(p))
		inside := func(q netip.Prefix) bool { return contains(q, p) }
		if p.IsValid() && len(cluster) > 0 && !slices.ContainsFunc(cluster, inside) {
			errs = append(errs, fmt.Errorf("PodCIDRs[%d] %q is outside ClusterCIDRs %v: a pod range lies inside a cluster range of its family", i, p, cluster))
		}
	}
	if len(c.PodCIDRs) == 0 && len(c.ClusterCIDRs) == 0 {
		if len(c.NonMasquerade) > 0 {
			errs = append(errs, fmt.Errorf("NonMasquerade %v is set without PodCIDRs or ClusterCIDRs: give the ranges of the pods too", c.NonMasquerade))
		}
		if c.Forward {
			errs = append(errs, fmt.Errorf("%s true is set without PodCIDRs or ClusterCIDRs: give the ranges of the pods too", "Forward"))
		}
	}
	return errors.Join(errs...)
}

func checkPrefix(p netip.Prefix, pods bool) error {
	switch {
	case !p.IsValid():
		return errors.New("not a CIDR: give address/length")
	case p.Addr().Is4In6():
		return fmt.Errorf("IPv4 written as IPv6: write %s as an IPv4 CIDR", p.Addr().Unmap())
	case p.Bits() == 0:
		return errors.New("covers every address: give a length of at least 1")
	case p != p.Masked():
		return fmt.Errorf("has host bits: write %s", p.Masked())
	}
	for _, s := range special {
		if pods && p.Overlaps(s.prefix) {
			return fmt.Errorf("overlaps %s (%s): give unicast ranges", s.prefix, s.name)
		}
	}
	return nil
}

// contains reports whether q covers p.
func contains(q, p netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }

func ofFamily(list []netip.Prefix, f Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		if p.IsValid() && familyOf(p) == f {
			out = append(out, p)
		}
	}
	return out
}

// merged returns list sorted and without what another entry covers: nft before 1.0.2 refuses overlaps in one set.
func merged(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Prefix.Compare)
	list = slices.Compact(list)
	var out []netip.Prefix
	for _, p := range list {
		covers := func(q netip.Prefix) bool { return q != p && contains(q, p) }
		if !slices.ContainsFunc(list, covers) {
			out = append(out, p)
		}
	}
	return out
}
