package agent

import (
	"context"
	"net/netip"
	"regexp"
	"testing"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestUplinkChoice is on the fake kernel, of which every call asks anew: what is chosen changes with what is there.
func TestUplinkChoice(t *testing.T) {
	add := func(o rtnl.Object) rtnl.Change { return rtnl.Change{Verb: rtnl.Add, Object: o} }
	device := func(name string, addrs ...string) (p rtnl.Plan) {
		p = rtnl.Plan{add(rtnl.Link{Name: name, Kind: rtnl.KindBridge, Up: rtnl.On})}
		for _, a := range addrs {
			p = append(p, add(rtnl.Addr{Link: name, Prefix: netip.MustParsePrefix(a), NoDAD: netip.MustParsePrefix(a).Addr().Is6()}))
		}
		return p
	}
	for _, tt := range []struct {
		name   string
		u      Uplink
		change rtnl.Plan // of the node: eth0 has the node's address, eth1 the default route
		want   string    // device, and the addresses sent from; or the error
	}{
		{"the node's own address", Uplink{}, nil, "eth0 192.168.0.1 fd00:192::1"},
		{"the default route, without it", Uplink{}, rtnl.Plan{{Verb: rtnl.Delete, Object: rtnl.Link{Name: "eth0"}}}, "eth1 10.0.0.5 fd00:10::5"},
		{"by name", Uplink{Ifaces: []string{"eth1"}}, nil, "eth1 10.0.0.5 fd00:10::5"},
		{"the first name that is here", Uplink{Ifaces: []string{"eth7", "eth1", "eth0"}}, nil, "eth1 10.0.0.5 fd00:10::5"},
		{"by address", Uplink{Ifaces: []string{"172.16.0.9"}}, device("eth2", "172.16.0.8/24", "172.16.0.9/24", "fd00:172::9/64"), "eth2 172.16.0.9 fd00:172::9"},
		{"expression: an address before a name", Uplink{Regexps: []*regexp.Regexp{regexp.MustCompile(`^10\.|^eth0$`)}}, nil, "eth1 10.0.0.5 fd00:10::5"},
		{"expression: a name", Uplink{Regexps: []*regexp.Regexp{regexp.MustCompile(`^eth[1-9]$`)}}, nil, "eth1 10.0.0.5 fd00:10::5"},
		{"names before expressions", Uplink{Ifaces: []string{"eth0"}, Regexps: []*regexp.Regexp{regexp.MustCompile(`^eth1$`)}}, nil, "eth0 192.168.0.1 fd00:192::1"},
		{"by what it reaches, through the default route", Uplink{CanReach: netip.MustParseAddr("8.8.8.8")}, nil, "eth1 10.0.0.5 fd00:10::5"},
		{"by what it reaches, on its segment", Uplink{CanReach: netip.MustParseAddr("192.168.0.77")}, nil, "eth0 192.168.0.1 fd00:192::1"},
		{"by what it reaches, IPv6", Uplink{CanReach: netip.MustParseAddr("fd00:192::77")}, nil, "eth0 192.168.0.1 fd00:192::1"},
		{"nothing of what was asked for", Uplink{Ifaces: []string{"eth7"}}, nil, "no uplink (yet): none of eth7 is here"},
		{"no address on it", Uplink{Ifaces: []string{"eth2"}}, device("eth2"), "uplink eth2 has no IPv4 address (yet)"},
		{"the address changed", Uplink{Ifaces: []string{"eth1"}}, rtnl.Plan{
			{Verb: rtnl.Delete, Object: rtnl.Addr{Link: "eth1", Prefix: netip.MustParsePrefix("10.0.0.5/24")}},
			add(rtnl.Addr{Link: "eth1", Prefix: netip.MustParsePrefix("10.0.0.6/24")})}, "eth1 10.0.0.6 fd00:10::5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := rtnltest.NewKernel().Netns("node")
			p := append(device("eth0", "192.168.0.1/24", "fd00:192::1/64"), device("eth1", "10.0.0.5/24", "fd00:10::5/64")...)
			p = append(p, add(rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1"), Link: "eth1", Protocol: rtnl.ProtocolStatic}.Canonical()))
			for _, plan := range []rtnl.Plan{p, tt.change} {
				for _, err := range k.Write(context.Background(), plan) {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			d, err := split([]node.Node{nodeA()}, "a", dualStack(netconf.VXLAN))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if d, err = New(Options{Uplink: tt.u, Kernel: k}).findUplink(t.Context(), d); err != nil {
				got = err.Error()
			} else {
				got = d.Uplink.Name + " " + d.Locals[0].Addr.String() + " " + d.Locals[1].Addr.String()
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
