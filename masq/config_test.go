package masq_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podnet/podnet/masq"
)

// cidrs parses ranges; "" gives none.
func cidrs(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestValidate(t *testing.T) {
	pods, cluster := cidrs("10.244.1.0/24"), cidrs("10.244.0.0/16")
	for _, tt := range []struct {
		name   string
		config masq.Config
		want   []string // parts of the error, one per fault; none: valid
	}{
		{"zero", masq.Config{}, nil},
		{"dual stack", dualStack(), nil},
		{"cluster alone", masq.Config{ClusterCIDRs: cluster}, nil},
		{"pods alone", masq.Config{PodCIDRs: pods}, nil},
		{"families apart", masq.Config{PodCIDRs: cidrs("fd00::/64"), ClusterCIDRs: cluster}, nil},
		{"excepted overlaps", masq.Config{PodCIDRs: pods, NonMasquerade: cidrs("10.0.0.0/8", "10.244.0.0/16", "169.254.0.0/16")}, nil},
		{"whole pod range", masq.Config{PodCIDRs: cluster, ClusterCIDRs: cluster}, nil},
		{"invalid", masq.Config{PodCIDRs: []netip.Prefix{{}}}, []string{`PodCIDRs[0] "invalid Prefix": not a CIDR`}},
		{"host bits", masq.Config{PodCIDRs: cidrs("10.244.1.1/24")}, []string{`PodCIDRs[0] "10.244.1.1/24": has host bits: write 10.244.1.0/24`}},
		{"v4 in v6", masq.Config{ClusterCIDRs: cidrs("::ffff:10.244.0.0/112")}, []string{`ClusterCIDRs[0] "::ffff:10.244.0.0/112": IPv4 written as IPv6`}},
		{"everything", masq.Config{ClusterCIDRs: cidrs("0.0.0.0/0", "::/0")}, []string{`ClusterCIDRs[0] "0.0.0.0/0": covers every`, `ClusterCIDRs[1] "::/0": covers every`}},
		{"excepted everything", masq.Config{PodCIDRs: pods, NonMasquerade: cidrs("0.0.0.0/0")}, []string{`NonMasquerade[0] "0.0.0.0/0": covers every`}},
		{"special", masq.Config{PodCIDRs: cidrs("224.1.0.0/16", "127.0.0.0/8", "169.254.1.0/24", "240.0.0.0/8", "ff02::/16", "fe80::/64", "::1/128", "128.0.0.0/1")},
			[]string{"multicast", "loopback", "link-local", "reserved", "ff02::/16", "fe80::/64", "::1/128", `"128.0.0.0/1": overlaps`}},
		{"overlap", masq.Config{PodCIDRs: cidrs("10.244.0.0/16", "10.244.1.0/24")}, []string{`PodCIDRs[1] "10.244.1.0/24" overlaps PodCIDRs[0] "10.244.0.0/16"`}},
		{"twice", masq.Config{ClusterCIDRs: cidrs("fd00::/48", "fd00::/48")}, []string{`ClusterCIDRs[1] "fd00::/48" overlaps ClusterCIDRs[0]`}},
		{"outside", masq.Config{PodCIDRs: cidrs("10.1.0.0/24"), ClusterCIDRs: cluster}, []string{`PodCIDRs[0] "10.1.0.0/24" is outside ClusterCIDRs [10.244.0.0/16]`}},
		{"excepted alone", masq.Config{NonMasquerade: cidrs("10.0.0.0/8")}, []string{"NonMasquerade [10.0.0.0/8] is set without PodCIDRs"}},
		{"forward alone", masq.Config{Forward: true}, []string{"Forward true is set without PodCIDRs"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.config.Validate()
			if (err != nil) != (len(tt.want) > 0) {
				t.Fatalf("Validate: %v, want %d faults", err, len(tt.want))
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("Validate: %v\nlacks %q", err, part)
				}
			}
			if err != nil && strings.Count(err.Error(), "\n") != len(tt.want)-1 {
				t.Errorf("Validate: %v\nwant %d faults", err, len(tt.want))
			}
		})
	}
}

// FuzzConfig: whatever Validate lets through, rules can be made of.
func FuzzConfig(f *testing.F) {
	f.Add("10.244.1.0/24", "10.244.0.0/16", "10.0.0.0/8")
	f.Add("fd00:1::/64", "", "ff00::/8")
	f.Fuzz(func(t *testing.T, pods, cluster, excepted string) {
		var c masq.Config
		for list, s := range map[*[]netip.Prefix]string{&c.PodCIDRs: pods, &c.ClusterCIDRs: cluster, &c.NonMasquerade: excepted} {
			for part := range strings.SplitSeq(s, ",") {
				if p, err := netip.ParsePrefix(part); err == nil {
					*list = append(*list, p)
				}
			}
		}
		if c.Validate() == nil {
			applyTwice(t, c)
		}
	})
}
