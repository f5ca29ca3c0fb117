package rtnl_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"syscall"
	"testing"

	"github.com/podnet/podnet/rtnl"
)

var (
	ip  = netip.MustParseAddr
	pfx = netip.MustParsePrefix
)

func TestChangeString(t *testing.T) {
	mac := rtnl.MAC{0x0a, 0x58, 10, 244, 0, 1}
	for _, tt := range []struct {
		verb   rtnl.Verb
		object rtnl.Object
		want   string
	}{
		{rtnl.Add, rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge, MTU: 1450, MAC: mac, Alias: "podnet:bridge", Up: rtnl.On},
			`link add cni0 up mtu 1450 address 0a:58:0a:f4:00:01 alias "podnet:bridge" type bridge`},
		{rtnl.Add, rtnl.Link{Name: "veth1", Kind: rtnl.KindVeth, Master: "cni0", Hairpin: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: "/run/netns/pod", PeerMAC: mac}},
			"link add veth1 master cni0 hairpin on type veth peer eth0 address 0a:58:0a:f4:00:01 netns /run/netns/pod"},
		{rtnl.Add, rtnl.Link{Name: "podnet.1", Kind: rtnl.KindVXLAN, TxChecksum: rtnl.Off, VXLAN: rtnl.VXLAN{VNI: 1, Port: 8472, Local: ip("192.0.2.1"), Underlay: "eth0", Learning: rtnl.Off}},
			"link add podnet.1 tx-checksum off type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning"},
		{rtnl.Set, rtnl.Link{Name: "cni0", Up: rtnl.Off}, "link set cni0 down"},
		{rtnl.Delete, rtnl.Link{Name: "cni0"}, "link del cni0"},
		{rtnl.Add, rtnl.Addr{Link: "cni0", Prefix: pfx("fd00::1/64"), NoDAD: true}, "addr add fd00::1/64 dev cni0 nodad"},
		{rtnl.Replace, rtnl.Route{Dst: pfx("10.1.0.0/24"), Gateway: ip("10.1.0.0"), Link: "podnet.1", Onlink: true, Protocol: rtnl.ProtocolVXLAN, MTU: 1400},
			"route replace 10.1.0.0/24 via 10.1.0.0 dev podnet.1 proto 112 mtu 1400 onlink"},
		{rtnl.Add, rtnl.Route{Dst: pfx("10.1.0.0/24"), Nexthop: 7, Table: 100, Priority: 5}, "route add 10.1.0.0/24 nhid 7 table 100 metric 5"},
		{rtnl.Add, rtnl.Route{Dst: pfx("10.1.0.0/24"), Type: rtnl.Blackhole, Protocol: rtnl.ProtocolStatic}, "route add blackhole 10.1.0.0/24 proto static"},
		{rtnl.Add, rtnl.Route{Dst: pfx("::/0"), Type: rtnl.Unreachable}, "route add unreachable ::/0"},
		{rtnl.Add, rtnl.Route{Dst: pfx("10.1.0.0/24"), Link: "cni0", Scope: rtnl.ScopeLink, Src: ip("10.1.0.1"), AdvMSS: 1300},
			"route add 10.1.0.0/24 dev cni0 scope link src 10.1.0.1 advmss 1300"},
		{rtnl.Replace, rtnl.Neigh{Link: "podnet.1", IP: ip("10.1.0.0"), MAC: mac, Permanent: true}, "neigh replace 10.1.0.0 lladdr 0a:58:0a:f4:00:01 dev podnet.1 nud permanent"},
		{rtnl.Delete, rtnl.Neigh{Link: "podnet.1", IP: ip("10.1.0.0")}, "neigh del 10.1.0.0 dev podnet.1"},
		{rtnl.Add, rtnl.FDB{Link: "podnet.1", MAC: mac, Dst: ip("192.0.2.1")}, "fdb add 0a:58:0a:f4:00:01 dev podnet.1 dst 192.0.2.1 self permanent"},
		{rtnl.Delete, rtnl.FDB{Link: "podnet.1", MAC: mac}, "fdb del 0a:58:0a:f4:00:01 dev podnet.1 self permanent"},
		{rtnl.Add, rtnl.Nexthop{ID: 7, Gateway: ip("10.1.0.0"), Link: "podnet.1", Onlink: true, Protocol: rtnl.ProtocolVXLAN}, "nexthop add id 7 via 10.1.0.0 dev podnet.1 proto 112 onlink"},
		{rtnl.Set, rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}, "sysctl -w net/ipv4/ip_forward=1"},
		{rtnl.Add, nil, "invalid change"},
		{0, rtnl.Link{Name: "a"}, "link invalid a"},
	} {
		if have := (rtnl.Change{Verb: tt.verb, Object: tt.object}).String(); have != tt.want {
			t.Errorf("have %s\nwant %s", have, tt.want)
		}
	}
	plan := rtnl.Plan{{Verb: rtnl.Delete, Object: rtnl.Link{Name: "a"}}, {Verb: rtnl.Delete, Object: rtnl.Nexthop{ID: 1}}}
	if have := plan.String(); have != "link del a\nnexthop del id 1\n" || plan.Empty() || !(rtnl.Plan{}).Empty() {
		t.Errorf("plan prints as %q", have)
	}
}

func TestCanonical(t *testing.T) {
	for _, tt := range []struct{ in, want rtnl.Route }{
		{rtnl.Route{Dst: pfx("10.1.0.9/24"), Gateway: ip("10.0.0.1")}, rtnl.Route{Dst: pfx("10.1.0.0/24"), Gateway: ip("10.0.0.1"), Table: 254}},
		{rtnl.Route{Dst: pfx("10.1.0.0/24"), Link: "a", Scope: rtnl.ScopeAuto}, rtnl.Route{Dst: pfx("10.1.0.0/24"), Link: "a", Table: 254, Scope: rtnl.ScopeLink}},
		{rtnl.Route{Dst: pfx("10.1.0.0/24"), Gateway: ip("10.0.0.1"), Scope: rtnl.ScopeAuto}, rtnl.Route{Dst: pfx("10.1.0.0/24"), Gateway: ip("10.0.0.1"), Table: 254}},
		{rtnl.Route{Dst: pfx("10.1.0.0/24"), Nexthop: 1, Scope: rtnl.ScopeAuto}, rtnl.Route{Dst: pfx("10.1.0.0/24"), Nexthop: 1, Table: 254}},
		{rtnl.Route{Dst: pfx("10.1.0.0/24"), Type: rtnl.Blackhole, Scope: rtnl.ScopeAuto}, rtnl.Route{Dst: pfx("10.1.0.0/24"), Type: rtnl.Blackhole, Table: 254}},
		{rtnl.Route{Dst: pfx("fd00::9/64"), Link: "a", Scope: rtnl.ScopeLink},
			rtnl.Route{Dst: pfx("fd00::/64"), Link: "a", Table: 254, Priority: 1024, Protocol: rtnl.ProtocolBoot}},
		{rtnl.Route{Dst: pfx("fd00::/64"), Link: "a", Table: 7, Priority: 8, Protocol: 9}, rtnl.Route{Dst: pfx("fd00::/64"), Link: "a", Table: 7, Priority: 8, Protocol: 9}},
	} {
		have := tt.in.Canonical()
		if have != tt.want || have.Canonical() != have {
			t.Errorf("%+v\nhave %+v\nwant %+v", tt.in, have, tt.want)
		}
	}
}

func TestMAC(t *testing.T) {
	for _, s := range []string{"", "0a:58", "0a:58:0a:f4:00:01:02:03", "0a:58:0a:f4:00:zz", "10.0.0.1"} {
		if m, err := rtnl.ParseMAC(s); err == nil {
			t.Errorf("%q gives %v", s, m)
		}
	}
	m, err := rtnl.ParseMAC("0A-58-0a-f4-00-01")
	if err != nil || m.String() != "0a:58:0a:f4:00:01" || m.IsZero() || m.IsMulticast() {
		t.Errorf("have %v, %v", m, err)
	}
	if group, err := rtnl.ParseMAC("33:33:00:00:00:01"); err != nil || !group.IsMulticast() {
		t.Errorf("%v is a group, %v", group, err)
	}
	if (rtnl.MAC{}).String() != "" || !(rtnl.MAC{}).IsZero() {
		t.Error("the zero MAC is none")
	}
	type file struct{ A, B rtnl.MAC }
	text, err := json.Marshal(file{A: m})
	if err != nil || string(text) != `{"A":"0a:58:0a:f4:00:01","B":""}` {
		t.Errorf("have %s, %v", text, err)
	}
	back := file{B: m}
	if err := json.Unmarshal(text, &back); err != nil || back != (file{A: m}) {
		t.Errorf("have %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"A":"x"}`), &back); err == nil {
		t.Error("a bad MAC is taken")
	}
}

func TestError(t *testing.T) {
	for _, tt := range []struct {
		err             rtnl.Error
		missing, exists bool
		text            string
	}{
		{rtnl.Error{Op: "route del", Object: "10.0.0.0/8", Errno: syscall.ESRCH, Missing: true}, true, false, "route del 10.0.0.0/8: no such process"},
		{rtnl.Error{Op: "link add", Object: "a", Errno: syscall.EEXIST, Detail: "too late"}, false, true, "link add a: file exists (too late)"},
		{rtnl.Error{Op: "addr add", Object: "10.0.0.1/8 dev a", Errno: syscall.EINVAL}, false, false, "addr add 10.0.0.1/8 dev a: invalid argument"},
	} {
		err := fmt.Errorf("cni0: %w", &tt.err)
		if errors.Is(err, fs.ErrNotExist) != tt.missing || errors.Is(err, fs.ErrExist) != tt.exists || !errors.Is(err, tt.err.Errno) || tt.err.Error() != tt.text {
			t.Errorf("%v: missing %v, exists %v", err, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist))
		}
	}
}

func TestFamilyOf(t *testing.T) {
	if rtnl.FamilyOf(netip.Addr{}) != rtnl.AnyFamily || rtnl.FamilyOf(ip("10.0.0.1")) != rtnl.IPv4 || rtnl.FamilyOf(ip("::1")) != rtnl.IPv6 {
		t.Error("families are mixed up")
	}
}
