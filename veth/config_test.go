package veth_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

var (
	gateways = prefixes("10.244.1.1/24", "fd00:1::1/64")
	bridged  = bridge.Config{Name: "cni0", Gateways: gateways, MTU: 1450}
)

// config returns the usual link of the pod with host number i.
func config(i int) veth.Config {
	return veth.Config{
		Bridge: "cni0", MTU: 1450,
		Addrs:  prefixes(fmt.Sprintf("10.244.1.%d/24", i), fmt.Sprintf("fd00:1::%x/64", i)),
		Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.1"), via("::/0", "fd00:1::1")},
	}
}

func prefixes(words ...string) (ps []netip.Prefix) {
	for _, w := range words {
		ps = append(ps, netip.MustParsePrefix(w))
	}
	return ps
}

func via(dst, gateway string) rtnl.Route {
	r := rtnl.Route{Dst: netip.MustParsePrefix(dst)}
	if gateway != "" {
		r.Gateway = netip.MustParseAddr(gateway)
	}
	return r
}

func TestValidate(t *testing.T) {
	dual := prefixes("10.244.1.2/24", "fd00:1::2/64")
	with := func(change func(*rtnl.Route), r rtnl.Route) veth.Config {
		change(&r)
		return veth.Config{Addrs: dual, Routes: []rtnl.Route{r}}
	}
	for _, c := range []struct {
		name   string
		config veth.Config
		want   []string
	}{
		{"zero", veth.Config{}, nil},
		{"usual", veth.Config{Bridge: "cni0", MTU: 1450, Hairpin: true, Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.1"), via("::/0", "fd00:1::1"), via("10.244.0.0/16", "10.244.1.1")}}, nil},
		{"two default routes of different priority", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.1"), {Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.244.1.3"), Priority: 10}}}, nil},
		{"gateway through a link route", veth.Config{Addrs: prefixes("10.0.0.2/32"), Routes: []rtnl.Route{via("169.254.1.1/32", ""), via("0.0.0.0/0", "169.254.1.1")}}, nil},
		{"gateway onlink", with(func(r *rtnl.Route) { r.Onlink = true }, via("0.0.0.0/0", "192.0.2.1")), nil},
		{"link-local gateway", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("::/0", "fe80::1")}}, nil},
		{"every fault at once", veth.Config{Bridge: "a/b", MTU: 1000, MAC: rtnl.MAC{1}, Addrs: prefixes("10.0.0.2/24", "10.0.0.2/16", "fd00::/64", "fd00::3/64"), Routes: []rtnl.Route{{}, via("10.9.0.1/16", "10.0.0.1")}}, []string{
			`veth: Bridge "a/b": want a device name`,
			"veth: MTU 1000: want at least 1280",
			"veth: MAC 01:00:00:00:00:00: want a unicast",
			"veth: Addrs[1] 10.0.0.2/16: is there twice",
			"veth: Addrs[2] fd00::/64: want an address of a host",
			"veth: Routes[0].Dst is missing",
			"veth: Routes[1].Dst 10.9.0.1/16: has host bits; want 10.9.0.0/16",
		}},
		{"hairpin without bridge", veth.Config{Hairpin: true}, []string{"veth: Hairpin true: want a Bridge"}},
		{"route of another family", veth.Config{Addrs: prefixes("10.0.0.2/24"), Routes: []rtnl.Route{via("::/0", "fe80::1")}}, []string{"Routes[0].Dst ::/0: want an address of the same family"}},
		{"two default routes", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.1"), via("0.0.0.0/0", "10.244.1.3")}}, []string{"veth: Routes[1].Dst 0.0.0.0/0: has the table and priority of Routes[0]"}},
		{"two IPv6 default routes, one by the kernel's default priority", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("::/0", "fd00:1::1"), {Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00:1::3"), Priority: 1024}}}, []string{"Routes[1].Dst ::/0: has the table"}},
		{"gateway not on the link", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "10.0.0.1")}}, []string{"Routes[0].Gateway 10.0.0.1: want an address in the subnet"}},
		{"gateway is the pod", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.2")}}, []string{"Gateway 10.244.1.2: is the pod's own"}},
		{"gateway of another family", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "fd00:1::1")}}, []string{"Gateway fd00:1::1: want the address family of Dst"}},
		{"gateway multicast", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "224.0.0.1")}}, []string{"Gateway 224.0.0.1: want a unicast"}},
		{"gateway mapped", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("0.0.0.0/0", "::ffff:10.244.1.1")}}, []string{"IPv4 in IPv6"}},
		{"own subnet via gateway", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("10.244.1.0/24", "10.244.1.1")}}, []string{"Dst 10.244.1.0/24: is the subnet of one of Addrs"}},
		{"link", with(func(r *rtnl.Route) { r.Link = "eth1" }, via("0.0.0.0/0", "10.244.1.1")), []string{`Link "eth1": want none`}},
		{"nexthop", with(func(r *rtnl.Route) { r.Nexthop = 7 }, via("0.0.0.0/0", "")), []string{"Nexthop 7"}},
		{"type", with(func(r *rtnl.Route) { r.Type = rtnl.Blackhole }, via("10.9.0.0/16", "")), []string{"Type 1: want a unicast"}},
		{"mtu", with(func(r *rtnl.Route) { r.MTU = 67 }, via("10.9.0.0/16", "")), []string{"MTU 67"}},
		{"advmss", with(func(r *rtnl.Route) { r.AdvMSS = -1 }, via("10.9.0.0/16", "")), []string{"AdvMSS -1"}},
		{"src", with(func(r *rtnl.Route) { r.Src = netip.MustParseAddr("10.244.1.9") }, via("10.9.0.0/16", "")), []string{"Src 10.244.1.9: want one of Addrs"}},
		{"onlink without gateway", with(func(r *rtnl.Route) { r.Onlink = true }, via("10.9.0.0/16", "")), []string{"Onlink true: want a Gateway"}},
		{"loopback destination", veth.Config{Addrs: dual, Routes: []rtnl.Route{via("127.0.0.0/8", "10.244.1.1")}}, []string{"Dst 127.0.0.0/8: want a unicast"}},
	} {
		t.Run(c.name, func(t *testing.T) { wantFaults(t, c.config.Validate(), c.want) })
	}
}

func TestValidateOptions(t *testing.T) {
	good := veth.Options{ContainerID: "c1", Ifname: "eth0", Netns: "/run/netns/pod1"}
	for _, c := range []struct {
		name   string
		change func(*veth.Options)
		want   []string
	}{
		{"good", func(*veth.Options) {}, nil},
		{"no netns is for removal", func(o *veth.Options) { o.Netns = "" }, nil},
		{"empty", func(o *veth.Options) { *o = veth.Options{} }, []string{`veth: ContainerID "": want 1 to 227 letters`, `veth: Ifname "": want a device name`}},
		{"dots first", func(o *veth.Options) { o.ContainerID = "../../x" }, []string{`ContainerID "../../x"`}},
		{"space", func(o *veth.Options) { o.ContainerID = "a b" }, []string{`ContainerID "a b"`}},
		{"long", func(o *veth.Options) { o.ContainerID = strings.Repeat("a", 228) }, []string{"ContainerID"}},
		{"ifname", func(o *veth.Options) { o.Ifname = "eth%d" }, []string{`Ifname "eth%d"`}},
		{"host name", func(o *veth.Options) { o.HostName = "much-too-long-name" }, []string{"HostName"}},
		{"relative netns", func(o *veth.Options) { o.Netns = "netns/pod1" }, []string{`Netns "netns/pod1": want the absolute path`}},
		{"netns with ..", func(o *veth.Options) { o.Netns = "/run/../etc" }, []string{`Netns "/run/../etc"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good
			c.change(&o)
			wantFaults(t, o.Validate(), c.want)
		})
	}
}

// TestFaultsBeforeTheKernel proves that nothing is asked of the kernel if the input is wrong: there is none.
func TestFaultsBeforeTheKernel(t *testing.T) {
	r := veth.New(nil, nil, veth.Options{ContainerID: "c1", Ifname: "eth0"})
	_, err := r.Apply(context.Background(), veth.Config{MTU: 3})
	wantFaults(t, err, []string{`Netns "": want the absolute path`, "MTU 3"})
	r = veth.New(nil, nil, veth.Options{ContainerID: "c1", Ifname: "eth0", Netns: "/run/netns/pod1"})
	_, err = r.Plan(context.Background(), veth.Config{MTU: 1500})
	wantFaults(t, err, []string{"no connection to the pod's network namespace"})
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

func TestMark(t *testing.T) {
	id, ifname, ok := veth.ParseMark(veth.Mark("0123abc", "eth0"))
	if id != "0123abc" || ifname != "eth0" || !ok {
		t.Errorf("ParseMark(Mark) = %q, %q, %v", id, ifname, ok)
	}
	for _, alias := range []string{"", "podnet:bridge", "podnet:veth ", "podnet:veth c1", "podnet:veth c1 eth%d", "podnet:veth ../x eth0", "podnet:veth c1 eth0 more", "x podnet:veth c1 eth0"} {
		if _, _, ok := veth.ParseMark(alias); ok {
			t.Errorf("ParseMark(%q) is ok; want not", alias)
		}
	}
}

func TestHostName(t *testing.T) {
	a := veth.HostName("c1", "eth0")
	if len(a) != 15 || !strings.HasPrefix(a, "veth") {
		t.Errorf("HostName = %q; want veth and 11 digits", a)
	}
	if veth.HostName("c1", "eth1") == a || veth.HostName("c2", "eth0") == a {
		t.Error("different attachments have one host name")
	}
}
