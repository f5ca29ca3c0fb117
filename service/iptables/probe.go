package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

	"github.com/podnet/podnet/service"
)

// feature is something of the kernel that rules need.
type feature struct {
	name, table, rule string
	module, option    string
	optional          bool // only some Services need it
}

func features() []feature {
	return []feature{
		{"nat", "nat", "-j RETURN", "iptable_nat (legacy) or nft_chain_nat and nft_compat (nft)", "CONFIG_IP_NF_NAT or CONFIG_NFT_NAT and CONFIG_NFT_COMPAT", false},
		{"filter", "filter", "-j RETURN", "iptable_filter (legacy) or nft_compat (nft)", "CONFIG_IP_NF_FILTER or CONFIG_NFT_COMPAT", false},
		{"comment", "nat", "-m comment --comment podnet -j RETURN", "xt_comment", "CONFIG_NETFILTER_XT_MATCH_COMMENT", false},
		{"mark", "nat", "-m mark --mark 0x4000/0x4000 -j RETURN", "xt_mark", "CONFIG_NETFILTER_XT_MARK", false},
		{"MARK", "nat", "-j MARK --or-mark 0x4000", "xt_mark", "CONFIG_NETFILTER_XT_MARK", false},
		{"addrtype", "nat", "-m addrtype --dst-type LOCAL -j RETURN", "xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE", false},
		{"conntrack", "filter", "-m conntrack --ctstate DNAT -j RETURN", "xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK", false},
		{"statistic", "nat", "-m statistic --mode random --probability 0.5 -j RETURN", "xt_statistic", "CONFIG_NETFILTER_XT_MATCH_STATISTIC", false},
		{"tcp and udp", "nat", "-p udp --dport 53 -j RETURN", "xt_tcpudp", "CONFIG_NETFILTER_XTABLES", false},
		{"DNAT", "nat", "-p tcp -j DNAT --to-destination %s", "xt_nat", "CONFIG_NETFILTER_XT_NAT", false},
		{"MASQUERADE", "nat", "-j MASQUERADE --random-fully", "xt_MASQUERADE", "CONFIG_NETFILTER_XT_TARGET_MASQUERADE", false},
		{"REJECT", "filter", "-j REJECT", "ipt_REJECT and ip6t_REJECT", "CONFIG_IP_NF_TARGET_REJECT and CONFIG_IP6_NF_TARGET_REJECT", false},
		{"recent", "nat", "-m recent --name podnet-probe --rcheck --seconds 1 --reap -j RETURN", "xt_recent", "CONFIG_NETFILTER_XT_MATCH_RECENT", true},
		{"sctp", "nat", "-p sctp --dport 1 -j RETURN", "xt_sctp", "CONFIG_NETFILTER_XT_MATCH_SCTP", true},
	}
}

// probe finds out what the kernel of a family lacks, by writing rules into a chain that no packet comes to. The error names everything that is missing and always needed; what
// only some Services need is returned by name.
func (d *Dataplane) probe(ctx context.Context, f service.Family) (lacks map[string]error, err error) {
	if _, err := d.kernel.Save(ctx, f, "nat"); err != nil {
		return nil, err // no program, no privilege, no such family
	}
	all := features()
	if d.tryFeatures(ctx, f, all) == nil {
		return nil, nil
	}
	lacks = map[string]error{}
	var errs []error
	for _, x := range all {
		err := d.tryFeatures(ctx, f, []feature{x})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%w: iptables needs %s: load the module %s (%s)", err, x.name, x.module, x.option)
		if lacks[x.name] = err; !x.optional {
			errs = append(errs, err)
		}
	}
	return lacks, errors.Join(errs...)
}

// tryFeatures writes one rule for each, and removes them.
func (d *Dataplane) tryFeatures(ctx context.Context, f service.Family, list []feature) error {
	chain := d.names.fixed("PROBE")
	to := "192.0.2.1:1"
	if f == service.IPv6 {
		to = "[2001:db8::1]:1"
	}
	rules := map[string]body{}
	for _, x := range list {
		b := rules[x.table]
		b.rules = append(b.rules, strings.ReplaceAll(x.rule, "%s", to))
		rules[x.table] = b
	}
	var input strings.Builder
	var nat, filter []string
	for _, t := range []struct {
		name   string
		chains *[]string
	}{{"nat", &nat}, {"filter", &filter}} {
		b, ok := rules[t.name]
		if !ok {
			continue
		}
		table := newTable(t.name, nil)
		table.touch(chain, service.Name{}, b)
		table.write(&input)
		*t.chains = []string{chain}
	}
	err := d.kernel.Restore(ctx, f, input.String())
	return errors.Join(err, d.kernel.Restore(ctx, f, removal(nat, filter)))
}

// missing reports whether an error means that there is nothing that could hold rules: no program, or a kernel without the family.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound)
}
