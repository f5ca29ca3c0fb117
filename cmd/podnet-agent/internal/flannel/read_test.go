package flannel

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/podnet/podnet/rtnl"
)

// TestFlannelReadsThis reads what podnet publishes in the ways in which flannel v0.28 does: a peer decodes the backend data as JSON with a MAC address in text, and a
// flanneld that starts on the node takes its own MAC from between the last `:"` and `"}`.
func TestFlannelReadsThis(t *testing.T) {
	want := map[rtnl.Family]rtnl.MAC{rtnl.IPv4: {0x02, 0x42, 0x0a, 0xf4, 0x01, 0x00}, rtnl.IPv6: {0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54}}
	a := Annotations{Managed: true, BackendType: VXLAN}
	*a.Of(rtnl.IPv4) = Family{Data: Data{true, 1, want[rtnl.IPv4]}, PublicIP: netip.MustParseAddr("192.168.1.11")}
	*a.Of(rtnl.IPv6) = Family{Data: Data{true, 1, want[rtnl.IPv6]}, PublicIP: netip.MustParseAddr("fd00:192::11")}
	out := keys(t).Encode(a)
	if out[prefix+"kube-subnet-manager"] != "true" || out[prefix+"backend-type"] != "vxlan" {
		t.Errorf("%v", out)
	}
	for f, key := range map[rtnl.Family][2]string{rtnl.IPv4: {"backend-data", "public-ip"}, rtnl.IPv6: {"backend-v6-data", "public-ipv6"}} {
		text := out[prefix+key[0]]
		var peer struct {
			VNI     uint32
			VtepMAC string
		}
		if err := json.Unmarshal([]byte(text), &peer); err != nil || peer.VNI != 1 {
			t.Errorf("%s: %v, %+v", text, err, peer)
		}
		parts := strings.Split(strings.Trim(text, `"}`), `:"`)
		if len(parts) != 2 {
			t.Fatalf("%s: a starting flanneld finds no MAC", text)
		}
		for _, mac := range []string{peer.VtepMAC, parts[1]} {
			if got, err := net.ParseMAC(mac); err != nil || rtnl.MAC(got) != want[f] {
				t.Errorf("%s: %v, %v", text, got, err)
			}
		}
		if net.ParseIP(out[prefix+key[1]]) == nil {
			t.Errorf("%s: %q", key[1], out[prefix+key[1]])
		}
	}
	host := Annotations{Managed: true, BackendType: HostGW}
	*host.Of(rtnl.IPv4) = Family{Data: Data{Present: true}, PublicIP: netip.MustParseAddr("192.168.1.11")}
	if out := keys(t).Encode(host); out[prefix+"backend-data"] != "null" || out[prefix+"backend-type"] != "host-gw" {
		t.Errorf("host-gw: %v", out)
	}
}
