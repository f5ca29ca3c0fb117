package bridge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
)

func prefixes(words ...string) (ps []netip.Prefix) {
	for _, w := range words {
		ps = append(ps, netip.MustParsePrefix(w))
	}
	return ps
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		config bridge.Config
		want   []string // one per fault, contained in its line
	}{
		{"zero", bridge.Config{}, nil},
		{"dual-stack", bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/24", "fd00:1::1/64"), MTU: 1450, MAC: rtnl.MAC{2, 1}}, nil},
		{"switch only", bridge.Config{Name: "br-lan"}, nil},
		{"several subnets", bridge.Config{Name: "cni0", Gateways: prefixes("10.0.0.1/24", "10.0.1.1/24", "fd00::1/64", "fd00:0:0:1::1/64")}, nil},
		{"no name", bridge.Config{MTU: 1500}, []string{`bridge: Name "": want a device name`}},
		{"name", bridge.Config{Name: "cni%d"}, []string{`bridge: Name "cni%d": want a device name`}},
		{"every fault at once", bridge.Config{Name: "much-too-long-a-name", Gateways: prefixes("10.0.0.0/24", "10.0.1.1/24", "10.0.1.2/25", "fd00::1/64"), MTU: 1000, MAC: rtnl.MAC{1}}, []string{
			`bridge: Name "much-too-long-a-name"`,
			`bridge: Gateways[0] 10.0.0.0/24: want an address of a host`,
			`bridge: Gateways[2] 10.0.1.2/25: overlaps Gateways[1] 10.0.1.1/24`,
			`bridge: MTU 1000: want at least 1280`,
			`bridge: MAC 01:00:00:00:00:00: want a unicast address`,
		}},
		{"same twice", bridge.Config{Name: "cni0", Gateways: prefixes("10.0.1.1/24", "10.0.1.1/24")}, []string{"Gateways[1] 10.0.1.1/24: overlaps Gateways[0]"}},
	} {
		t.Run(c.name, func(t *testing.T) { wantFaults(t, c.config.Validate(), c.want) })
	}
}

func wantFaults(t *testing.T, err error, want []string) {
	t.Helper()
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
	}
	if len(got) != len(want) {
		t.Fatalf("faults:\n%v\nwant %d: %q", err, len(want), want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("fault %d: %q; want it to contain %q", i, got[i], want[i])
		}
	}
}

func TestHardwareAddr(t *testing.T) {
	base := bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/24", "fd00:1::1/64")}
	mac := base.HardwareAddr()
	if mac.IsZero() || mac.IsMulticast() || mac[0]&2 == 0 {
		t.Errorf("derived MAC %s; want a locally administered unicast address", mac)
	}
	turned := bridge.Config{Name: "cni0", Gateways: prefixes("fd00:1::1/64", "10.244.1.1/24"), MTU: 1450}
	if got := turned.HardwareAddr(); got != mac {
		t.Errorf("MAC with the gateways in another order is %s; want %s", got, mac)
	}
	other := bridge.Config{Name: "cni0", Gateways: prefixes("10.244.2.1/24")}
	if got := other.HardwareAddr(); got == mac {
		t.Errorf("another node has the same MAC %s", got)
	}
	pinned := base
	pinned.MAC = rtnl.MAC{2, 3, 4, 5, 6, 7}
	if got := pinned.HardwareAddr(); got != pinned.MAC {
		t.Errorf("MAC %s; want the given one", got)
	}
	if got := (bridge.Config{Name: "cni0"}).HardwareAddr(); !got.IsZero() {
		t.Errorf("MAC %s of a bridge without gateway; want none", got)
	}
}
