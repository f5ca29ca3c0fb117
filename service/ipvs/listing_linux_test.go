package ipvs

import (
	"net/netip"
	"os/exec"
	"testing"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
)

// TestKernelListing: nft, which others run on the node, can show the tables. It needs no IPVS.
func TestKernelListing(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		rtnltest.Lacking(t, err.Error())
	}
	prefixes := func(p ...string) (out []netip.Prefix) {
		for _, one := range p {
			out = append(out, netip.MustParsePrefix(one))
		}
		return out
	}
	ranges := prefixes("10.96.0.0/16", "fd00:10:96::/112")
	for name, node := range map[string]service.Node{
		"least": {},
		"pods by address": {
			LocalPods:     service.LocalPods{CIDRs: prefixes("10.244.0.0/24", "fd00:10:244::/64")},
			NodePortAddrs: prefixes("192.168.0.0/24", "fd00:192::/64"),
		},
		"pods by device":  {LocalPods: service.LocalPods{Interface: "cni0"}},
		"pods by devices": {LocalPods: service.LocalPods{InterfacePrefix: "veth"}},
	} {
		t.Run(name, func(t *testing.T) {
			ns := rtnltest.NewNetns(t)
			k, err := nfnl.Open(nfnl.Options{Netns: ns.Path()})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			for _, table := range newTables("") {
				var tx nfnl.Transaction
				table.change(&tx, ruleset{node: node, ranges: ranges, lengths: []int{8, 24, 32}}, true)
				if err := k.Commit(t.Context(), &tx); err != nil {
					t.Fatal(err)
				}
			}
			if err := ns.Do(func() error {
				for _, what := range [][]string{{"list", "tables"}, {"list", "ruleset"}, {"-j", "list", "ruleset"}} {
					if out, err := exec.Command("nft", what...).CombinedOutput(); err != nil {
						t.Errorf("nft %v: %v: %s", what, err, out[:min(len(out), 300)])
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
