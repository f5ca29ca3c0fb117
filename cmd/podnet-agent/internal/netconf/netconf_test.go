package netconf

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParse(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")
	for _, tt := range []struct {
		name, text string
		want       Config
	}{
		{"flannel's own example", `{"Network": "10.244.0.0/16", "EnableNFTables": false, "SubnetLen": 24, "SubnetMin": "10.244.10.0", "Backend": {"Type": "vxlan"}}`,
			Config{Networks: []netip.Prefix{v4}, Backend: Backend{Type: VXLAN, VNI: 1, Port: 8472}, Notes: []string{
				"SubnetLen: without effect: who hands out podCIDRs (the controller manager) decides their size and place, as in flannel's Kubernetes mode",
				"SubnetMin: without effect: who hands out podCIDRs (the controller manager) decides their size and place, as in flannel's Kubernetes mode"}}},
		{"nftables, and keys for Windows", `{"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan", "Name": "flannel.4096", "MacPrefix": "0E-2A"}}`,
			Config{Networks: []netip.Prefix{v4}, Backend: Backend{Type: VXLAN, VNI: 1, Port: 8472}, NFTables: true,
				Notes: []string{"Backend.MacPrefix: without effect: for Windows nodes", "Backend.Name: without effect: for Windows nodes"}}},
		{"dual-stack, all keys", `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "NonMasqueradeCIDRs": ["192.0.2.0/24"],
			"Backend": {"Type": "VXLAN", "VNI": 7, "Port": 4789, "MTU": 1400, "DirectRouting": true, "GBP": false, "Learning": false}}`,
			Config{Networks: []netip.Prefix{v4, v6}, NonMasqueradeCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
				Backend: Backend{Type: VXLAN, VNI: 7, Port: 4789, MTU: 1400, DirectRouting: true}}},
		{"IPv6 only", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "host-gw"}}`,
			Config{Networks: []netip.Prefix{v6}, Backend: Backend{Type: HostGW, VNI: 1, Port: 8472}}},
		{"keys in lower case", `{"network": "10.244.0.0/16", "backend": {"type": "none"}}`,
			Config{Networks: []netip.Prefix{v4}, Backend: Backend{Type: Alloc, VNI: 1, Port: 8472}}},
		{"no backend", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00:10:244::/48"}`,
			Config{Networks: []netip.Prefix{v4}, Backend: Backend{Type: VXLAN, VNI: 1, Port: 8472}}},
		{"port and MTU 0", `{"Network": "10.244.0.0/16", "Backend": {"Port": 0, "MTU": 0}}`,
			Config{Networks: []netip.Prefix{v4}, Backend: Backend{Type: VXLAN, VNI: 1, Port: 8472}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseFaults(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{``, `json: EOF`},
		{`{"Network": "10.244.0.0/16"} {}`, `more than one JSON value: want one object`},
		{`[]`, `a JSON array: want an object`},
		{`{}`, `Network: not set though EnableIPv4 is true: want a CIDR such as 10.244.0.0/16`},
		{`{"Network": "10.244.0.0/16", "EnableIPv6": true}`, `IPv6Network: not set though EnableIPv6 is true: want a CIDR such as fd00:10:244::/48`},
		{`{"EnableIPv4": false}`, `EnableIPv4 and EnableIPv6: both false: want one family at least`},
		{`{"Network": "10.244.0.0"}`, `Network "10.244.0.0": want an IPv4 CIDR such as 10.244.0.0/16`},
		{`{"Network": "fd00::/48"}`, `Network "fd00::/48": want an IPv4 CIDR such as 10.244.0.0/16`},
		{`{"Network": "10.244.1.0/16"}`, `Network "10.244.1.0/16": has host bits; want 10.244.0.0/16: want a CIDR such as 10.244.0.0/16`},
		{`{"Network": "224.0.0.0/8"}`, `Network "224.0.0.0/8": want unicast addresses, not loopback, link-local, multicast or unspecified: want a CIDR such as 10.244.0.0/16`},
		{`{"Network": 7}`, `Network: a JSON number: want a string`},
		{`{"Network": "10.244.0.0/16", "Netwrok": 1}`, `"Netwrok": unknown key: want Network, IPv6Network, EnableIPv4, EnableIPv6, NonMasqueradeCIDRs, or Backend with Type, VNI, Port, MTU, DirectRouting`},
		{`{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["192.0.2.1/24"]}`, `NonMasqueradeCIDRs[0] "192.0.2.1/24": want a CIDR without host bits, such as 192.0.2.0/24`},
		{`{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard"}}`, `Backend.Type "wireguard": want vxlan, host-gw, or alloc (none)`},
		{`{"Network": "10.244.0.0/16", "Backend": {"VNI": 16777216}}`, `Backend.VNI 16777216: want 1 to 16777215`},
		{`{"Network": "10.244.0.0/16", "Backend": {"Port": 65536}}`, `Backend.Port 65536: want 0 (8472) or 1 to 65535`},
		{`{"Network": "10.244.0.0/16", "Backend": {"MTU": 100}}`, `Backend.MTU 100: want 0 (from the uplink) or 576 to 65535`},
		{`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/48", "Backend": {"MTU": 1200}}`, `Backend.MTU 1200: want 0 (from the uplink) or 1280 to 65535`},
		{`{"Network": "10.244.0.0/16", "Backend": {"VNI": 1.5}}`, `Backend.VNI: a JSON number 1.5: want a whole number`},
		{`{"Network": "10.244.0.0/16", "Backend": {"GBP": true}}`, `Backend.GBP: not supported with Type "vxlan": leave it out`},
		{`{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw", "DirectRouting": true}}`, `Backend.DirectRouting: not supported with Type "host-gw": leave it out`},
	} {
		t.Run(tt.text, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net-conf.json")
	if err := os.WriteFile(path, []byte(strings.Repeat(" ", maxSize+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || err.Error() != "more than 1048576 bytes" {
		t.Errorf("got %v", err)
	}
}
