package masq

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

// markMasquerade is the bit that kube-proxy sets on packets that it masquerades itself; other bits of the mark do not matter.
const markMasquerade = 0x4000

// multicast is never translated: a group is joined by address, and its members would see the node instead of the pod.
func multicast(f Family) netip.Prefix {
	if f == IPv6 {
		return netip.MustParsePrefix("ff00::/8")
	}
	return netip.MustParsePrefix("224.0.0.0/4")
}

// postrouting returns the rules of one family, without comments but for the reasons. Order is meaning: each rule sees what those before it left.
//
// They are flannel's six rules without negations. A negated match cannot be combined with several CIDRs in iptables, and its translation for
// nftables lost flannel one "!", after which rule 6 was never reached. Here rules 3 and 4 together decide everything for local
// pods, and rule 5 everything from the cluster, so rule 6 is left with exactly "from outside the cluster to a remote pod".
func postrouting(c Config, f Family) []Rule {
	pods, cluster := merged(ofFamily(c.PodCIDRs, f)), merged(ofFamily(c.ClusterCIDRs, f))
	if len(cluster) == 0 {
		cluster = pods
	}
	if len(cluster) == 0 {
		return nil
	}
	untouched := merged(slices.Concat(cluster, ofFamily(c.NonMasquerade, f), []netip.Prefix{multicast(f)}))
	rules := []Rule{{Mark: markMasquerade, Verdict: Return, Comment: "rule 1: marked, the service proxy masquerades"}}
	if len(pods) > 0 {
		rules = append(rules,
			Rule{Src: pods, Dst: cluster, Verdict: Return, Comment: "rule 2: local pod to cluster, keep pod address"},
			Rule{Src: cluster, Dst: pods, Verdict: Return, Comment: "rule 3: cluster to local pod, keep pod address"},
			Rule{Dst: pods, Verdict: Return, Comment: "rule 4: outside to local pod, keep client address"})
	}
	rules = append(rules,
		Rule{Src: cluster, Dst: untouched, Verdict: Return, Comment: "rule 5: cluster to cluster, multicast or exception, keep"},
		Rule{Src: cluster, Verdict: Masquerade, Comment: "rule 5: cluster to outside, take node address"})
	if slices.Equal(cluster, pods) {
		return rules // there are no remote pods
	}
	return append(rules,
		Rule{Dst: cluster, Verdict: Masquerade, Comment: "rule 6: node to remote pod, reply through the tunnel"})
}

// forward returns the rules that let pod traffic pass an iptables FORWARD chain whose policy is DROP.
func forward(c Config, f Family) []Rule {
	cluster := merged(slices.Concat(ofFamily(c.PodCIDRs, f), ofFamily(c.ClusterCIDRs, f)))
	if !c.Forward || len(cluster) == 0 {
		return nil
	}
	return []Rule{
		{Src: cluster, Verdict: Accept, Comment: "forward from cluster"},
		{Dst: cluster, Verdict: Accept, Comment: "forward to cluster"},
	}
}

// splitRules gives each rule one source and one destination at most: that is how iptables stores them.
func splitRules(rules []Rule) []Rule {
	each := func(list []netip.Prefix) [][]netip.Prefix {
		if len(list) == 0 {
			return [][]netip.Prefix{nil}
		}
		out := make([][]netip.Prefix, len(list))
		for i := range list {
			out[i] = list[i : i+1]
		}
		return out
	}
	var out []Rule
	for _, r := range rules {
		sources, destinations := each(r.Src), each(r.Dst)
		for _, r.Src = range sources {
			for _, r.Dst = range destinations {
				out = append(out, r)
			}
		}
	}
	return out
}

// stamped puts the fingerprint into every comment: hash of the whole set, place, number of rules. Comparing comments in order then finds a
// rule that is missing, added, moved, doubled or from another Config, and reading back needs no decoding of expressions.
func stamped(c Chain, rules []Rule) []Rule {
	h := sha256.New()
	fmt.Fprintln(h, c)
	for _, r := range rules {
		fmt.Fprintln(h, r.nft(c.Family), r.Comment)
	}
	sum := hex.EncodeToString(h.Sum(nil)[:6])
	out := slices.Clone(rules)
	for i := range out {
		out[i].Comment = fmt.Sprintf("podnet %s %d/%d %s", sum, i+1, len(out), out[i].Comment)
	}
	return out
}
