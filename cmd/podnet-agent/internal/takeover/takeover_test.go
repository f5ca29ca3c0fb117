package takeover

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func device(name, alias string, vni uint32, local string) rtnl.Link {
	return rtnl.Link{Name: name, Kind: rtnl.KindVXLAN, Alias: alias, VXLAN: rtnl.VXLAN{VNI: vni, Port: 8472, Local: addr(local), Underlay: "eth0", Learning: rtnl.Off}}
}

func TestFromFlannel(t *testing.T) {
	route := func(dst, via, link string, p rtnl.Protocol, onlink bool) rtnl.Route {
		r := rtnl.Route{Dst: prefix(dst), Link: link, Protocol: p, Onlink: onlink}
		if via != "" {
			r.Gateway = addr(via)
		}
		return r.Canonical()
	}
	node := Node{Networks: []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:244::/48")}, Uplink: "eth0", PodCIDRs: []netip.Prefix{prefix("10.244.2.0/24"), prefix("10.244.3.0/24")}}
	links := []rtnl.Link{
		{Name: "eth0"}, device("flannel.1", "", 1, "192.168.1.1"), device("flannel-v6.1", Alias, 1, "fd00::1"),
		device("flannel.2", "somebody", 2, "192.168.1.1"), // marked by another one
		device("flannel.9", "", 7, "192.168.1.1"),         // not its VNI
		device("vxlan7", "", 8, "192.168.1.1"),
		device("flannel.3", vxlan.Alias, 3, "192.168.1.1"), // ours already
	}
	routes := []rtnl.Route{
		route("10.244.2.0/24", "10.244.2.0", "flannel.1", rtnl.ProtocolBoot, true),
		route("10.244.9.0/24", "10.244.9.0", "flannel.1", rtnl.ProtocolBoot, true), // of a node that is gone
		route("fd00:244:0:2::/64", "fd00:244:0:2::", "flannel-v6.1", rtnl.ProtocolBoot, true),
		route("10.244.3.0/24", "192.168.1.3", "eth0", rtnl.ProtocolBoot, false),   // direct
		route("10.244.8.0/24", "192.168.1.8", "eth0", rtnl.ProtocolBoot, false),   // to no peer: maybe the administrator's
		route("10.244.2.0/24", "192.168.1.2", "eth0", rtnl.ProtocolStatic, false), // the administrator's
		route("10.244.4.0/24", "10.244.4.0", "vxlan7", rtnl.ProtocolBoot, true),   // through another device
		route("172.16.0.0/24", "10.244.2.0", "flannel.1", rtnl.ProtocolBoot, true),
		route("10.244.3.0/24", "", "eth0", rtnl.ProtocolBoot, false), // flannel's have a gateway
		route("10.244.2.0/24", "10.244.2.0", "flannel.1", rtnl.ProtocolVXLAN, true),
		route("0.0.0.0/0", "192.168.1.254", "eth0", rtnl.ProtocolBoot, false),
	}
	want := `link set flannel.1 alias "podnet:vxlan"
link set flannel-v6.1 alias "podnet:vxlan"
route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto 112 onlink
route replace 10.244.9.0/24 via 10.244.9.0 dev flannel.1 proto 112 onlink
route replace fd00:244:0:2::/64 via fd00:244:0:2:: dev flannel-v6.1 proto 112 metric 1024 onlink
route replace 10.244.3.0/24 via 192.168.1.3 dev eth0 proto 112
`
	if diff := cmp.Diff(want, FromFlannel(node, links, routes).String()); diff != "" {
		t.Errorf("vxlan (-want +got):\n%s", diff)
	}
	node.HostGW = true
	if got := FromFlannel(node, links, routes).String(); !strings.Contains(got, "route replace 10.244.3.0/24 via 192.168.1.3 dev eth0 proto 113\n") ||
		!strings.Contains(got, "10.244.2.0 dev flannel.1 proto 112") {
		t.Errorf("host-gw:\n%s", got)
	}
	for _, tt := range []struct {
		takeOver, prefer bool
		vni              uint32
		links            []rtnl.Link
		want             string
	}{
		{false, false, 1, links, "podnet.1"}, {true, false, 1, links, "flannel.1"}, {false, false, 3, links, "flannel.3"},
		{true, false, 2, links, "podnet.2"}, {true, false, 9, links, "podnet.9"}, {false, true, 1, nil, "flannel.1"},
		{false, true, 1, []rtnl.Link{device("podnet.1", vxlan.Alias, 1, "192.168.1.1")}, "podnet.1"},
	} {
		if got := VTEP(tt.links, tt.vni, rtnl.IPv4, tt.takeOver, tt.prefer); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestToFlannel(t *testing.T) {
	links := []rtnl.Link{device("podnet.1", vxlan.Alias, 1, "192.168.1.1"), device("flannel-v6.1", vxlan.Alias, 1, "fd00::1"), device("flannel.5", "", 5, "192.168.1.1")}
	routes := []rtnl.Route{
		{Dst: prefix("10.244.2.0/24"), Nexthop: 7, Protocol: rtnl.ProtocolVXLAN},
		{Dst: prefix("10.244.3.0/24"), Gateway: addr("192.168.1.3"), Link: "eth0", Protocol: rtnl.ProtocolHostGW},
		{Dst: prefix("10.244.4.0/24"), Gateway: addr("10.244.4.0"), Link: "podnet.1", Onlink: true, Protocol: rtnl.ProtocolVXLAN},
		{Dst: prefix("0.0.0.0/0"), Gateway: addr("192.168.1.254"), Link: "eth0", Protocol: rtnl.ProtocolStatic},
	}
	nexthops := []rtnl.Nexthop{{ID: 7, Gateway: addr("10.244.2.0"), Link: "podnet.1", Onlink: true, Protocol: rtnl.ProtocolVXLAN}, {ID: 8, Gateway: addr("10.1.1.1"), Link: "eth0", Protocol: rtnl.ProtocolStatic}}
	renames, p := ToFlannel(links, routes, nexthops)
	got := ""
	for _, r := range renames {
		got += r.String() + "\n"
	}
	want := `link set podnet.1 name flannel.1
link set flannel.1 alias "flannel"
link set flannel-v6.1 alias "flannel"
route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto boot onlink
route replace 10.244.3.0/24 via 192.168.1.3 dev eth0 proto boot
route replace 10.244.4.0/24 via 10.244.4.0 dev flannel.1 proto boot onlink
nexthop del id 7 via 10.244.2.0 dev flannel.1 proto 112 onlink
`
	if diff := cmp.Diff(want, got+p.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// fakeNetfilter has the chains of flannel that it is given.
type fakeNetfilter map[masq.Chain]bool

func (f fakeNetfilter) Observe(_ context.Context, chains []masq.Chain) (map[masq.Chain]masq.Observed, error) {
	out := map[masq.Chain]masq.Observed{}
	for _, c := range chains {
		if f[c] {
			out[c] = masq.Observed{Hooks: 1}
		}
	}
	return out, nil
}

func (f fakeNetfilter) Delete(_ context.Context, c masq.Chain) error {
	delete(f, c)
	return nil
}

func TestRules(t *testing.T) {
	for _, drops := range []bool{false, true} {
		f := fakeNetfilter{}
		for _, c := range rules {
			f[c] = true
		}
		r := Rules{Kernel: f, ForwardDrops: func(_ context.Context, family masq.Family) (bool, error) { return drops && family == masq.IPv4, nil }}
		removed, err := r.Apply(t.Context())
		left := 0
		if drops {
			left = 1
		}
		if err != nil || len(removed) != 6 || len(f) != left || drops && !f[rules[1]] {
			t.Errorf("FORWARD drops %v: removed %v, left %v, %v", drops, removed, f, err)
		}
		if drops && !strings.Contains(removed[1].String(), "stays: the policy of FORWARD is DROP") {
			t.Errorf("%s", removed[1])
		}
		if again, err := r.Apply(t.Context()); err != nil || len(again) != left {
			t.Errorf("again: %v, %v", again, err)
		}
	}
}

func TestFindLists(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"10-flannel.conflist": `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
		"05-old.conf":         `{"name":"net","type":"flannel","subnetFile":"/run/x.env","delegate":{"ipam":{"dataDir":"/data"}}}`,
		"20-else.conflist":    `{"name":"else","plugins":[{"type":"bridge"}]}`,
		"30-evil.conflist":    `{"name":"../../etc","plugins":[{"type":"flannel"}]}`,
		"40-broken.conflist":  `{`,
		"notes.txt":           `{"name":"cbr1","plugins":[{"type":"flannel"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lists, err := FindLists(dir)
	if err != nil || len(lists) != 2 {
		t.Fatalf("%+v, %v", lists, err)
	}
	if l := lists[0]; l.Network != "net" || l.Leases() != "/data/net" || l.FlannelDir != DefaultFlannelDir {
		t.Errorf("%+v", l)
	}
	l := lists[1]
	if l.Leases() != "/var/lib/cni/networks/cbr0" || len(l.Chained) != 1 {
		t.Errorf("%+v", l)
	}
	want := `{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},` +
		`"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`
	if got := string(l.Delegated([]netip.Prefix{prefix("10.244.0.0/16")}, []netip.Prefix{prefix("10.244.1.1/24")}, 1450, true)); got != want {
		t.Errorf("flannel's record of a container: %s\nwant %s", got, want)
	}
	if err := l.SetAside(); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(t.TempDir(), "state", "network.json")
	for range 2 { // by flannel's list, then by the record
		n, err := LoadNetwork(record, dir)
		if err != nil || n.Name != "cbr0" || len(n.Chained) != 1 {
			t.Fatalf("%+v, %v", n, err)
		}
		if err := n.Save(record); err != nil {
			t.Fatal(err)
		}
	}
	if lists, err = FindLists(dir); err != nil || !lists[1].Aside {
		t.Fatalf("%+v, %v", lists, err)
	}
	if err := lists[1].BringBack(); err != nil {
		t.Fatal(err)
	}
}
