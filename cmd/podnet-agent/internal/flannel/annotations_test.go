package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
)

func keys(t testing.TB) Keys {
	t.Helper()
	k, err := NewKeys(DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const prefix = "flannel.alpha.coreos.com/"

func TestNewKeys(t *testing.T) {
	for _, c := range []struct{ in, managed string }{
		{"flannel.alpha.coreos.com", "flannel.alpha.coreos.com/kube-subnet-manager"},
		{"flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/kube-subnet-manager"},
		{"flannel.alpha.coreos.com/foo", "flannel.alpha.coreos.com/foo-kube-subnet-manager"},
		{"flannel.alpha.coreos.com/foo-", "flannel.alpha.coreos.com/foo-kube-subnet-manager"},
		{"a.b", "a.b/kube-subnet-manager"},
		{"", ""}, {"a.b/c/d", ""}, {"org", ""}, {"a.b/C", ""}, {"A.b", ""}, {"a..b", ""}, {" a.b", ""}, {strings.Repeat("a", 250) + ".com", ""},
	} {
		k, err := NewKeys(c.in)
		if k.Managed != c.managed || (err == nil) != (c.managed != "") {
			t.Errorf("NewKeys(%q) = %q, %v; want %q", c.in, k.Managed, err, c.managed)
		}
	}
}

// What flannel v0.28 leaves on nodes.
func TestDecode(t *testing.T) {
	mac := rtnl.MAC{0x8e, 0x12, 0xfe, 0x33, 0x01, 0x02}
	for _, c := range []struct {
		name string
		in   map[string]string
		want func(*Annotations)
	}{
		{"none", map[string]string{"other": "x"}, func(*Annotations) {}},
		{"vxlan", map[string]string{"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "192.168.1.11", "backend-data": `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`},
			func(a *Annotations) {
				a.Managed, a.BackendType = true, VXLAN
				*a.Of(rtnl.IPv4) = Family{Data: Data{true, 1, mac}, PublicIP: netip.MustParseAddr("192.168.1.11")}
			}},
		{"old vxlan, without VNI", map[string]string{"backend-type": "vxlan", "backend-data": `{"VtepMAC":"8e:12:fe:33:01:02"}`},
			func(a *Annotations) { a.BackendType, a.Of(rtnl.IPv4).Data = VXLAN, Data{true, 0, mac} }},
		{"dual-stack", map[string]string{"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "192.168.1.11", "backend-data": "null",
			"public-ipv6": "fd00::11", "backend-v6-data": `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`, "public-ipv6-overwrite": "fd00::12", "node-public-ip": "192.168.1.12"},
			func(a *Annotations) {
				a.Managed, a.BackendType = true, VXLAN
				*a.Of(rtnl.IPv4) = Family{Data: Data{Present: true}, PublicIP: netip.MustParseAddr("192.168.1.11"), NodePublicIP: netip.MustParseAddr("192.168.1.12")}
				*a.Of(rtnl.IPv6) = Family{Data: Data{true, 1, mac}, PublicIP: netip.MustParseAddr("fd00::11"), Overwrite: netip.MustParseAddr("fd00::12")}
			}},
		{"host-gw, IPv6 only", map[string]string{"backend-type": "host-gw", "backend-data": "null", "public-ip": "0.0.0.0", "backend-v6-data": "null", "public-ipv6": "fd00::1"},
			func(a *Annotations) {
				a.BackendType = HostGW
				a.Of(rtnl.IPv4).Data.Present = true
				*a.Of(rtnl.IPv6) = Family{Data: Data{Present: true}, PublicIP: netip.MustParseAddr("fd00::1")}
			}},
		{"wireguard", map[string]string{"backend-type": "wireguard", "backend-data": `{"PublicKey":"x"}`},
			func(a *Annotations) { a.BackendType, a.Of(rtnl.IPv4).Data.Present = "wireguard", true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := map[string]string{}
			for k, v := range c.in {
				in[prefix+k] = v
			}
			var want Annotations
			c.want(&want)
			got, err := keys(t).Decode(in)
			if err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		})
	}
}

// Whoever may annotate a node may write anything (CVE-2026-32241 was a shell command).
func TestDecodeHostile(t *testing.T) {
	huge := strings.Repeat("x", 256<<10)
	for _, c := range []struct{ key, value, want string }{
		{"kube-subnet-manager", "yes", `"yes": want true or false`},
		{"backend-type", "$(reboot)", `"$(reboot)": want the name of a backend, such as vxlan or host-gw`},
		{"backend-data", "{", `want JSON such as {"VNI":1,"VtepMAC":"02:00:0a:f4:01:00"}`},
		{"backend-data", `{"VtepMAC":7}`, "want JSON"},
		{"backend-data", `[]`, "want JSON"},
		{"backend-data", `{}`, "VtepMAC: missing"},
		{"backend-data", `{"VNI":1.5,"VtepMAC":"8e:12:fe:33:01:02"}`, "want JSON"},
		{"backend-data", `{"VNI":16777216,"VtepMAC":"8e:12:fe:33:01:02"}`, "VNI 16777216: want 1 to 16777215"},
		{"backend-data", `{"VNI":-1,"VtepMAC":"8e:12:fe:33:01:02"}`, "VNI -1"},
		{"backend-data", `{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`, `VtepMAC "01:00:5e:00:00:01": want a unicast MAC address`},
		{"backend-data", `{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}`, "want a unicast MAC"},
		{"backend-v6-data", `{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`, "want a unicast MAC"},
		{"backend-v6-data", `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02:03:04"}`, "want a unicast MAC address of 6 bytes"},
		{"public-ip", "192.168.1.11/24", "want an address of IPv4"},
		{"public-ip", "fd00::1", "want an address of IPv4"},
		{"public-ip", "::ffff:10.0.0.1", "want an address of IPv4"},
		{"public-ip", "127.0.0.1", "loopback"},
		{"public-ip", "224.0.0.1", "multicast"},
		{"public-ip", "255.255.255.255", "broadcast"},
		{"public-ipv6", "fe80::1%eth0", "zone"},
		{"public-ipv6", "ff02::1", "multicast"},
		{"public-ip-overwrite", "10.0.0.1; reboot", "want an address of IPv4"},
		{"node-public-ipv6", "::1", "loopback"},
		{"backend-data", huge, "262144 bytes or more: want at most 1024"},
		{"public-ip", huge, "bytes or more"},
		{"backend-type", huge, "bytes or more"},
		{"kube-subnet-manager", huge, "bytes or more"},
	} {
		in := map[string]string{prefix + "public-ipv6-overwrite": "fd00::7", prefix + c.key: c.value}
		got, err := keys(t).Decode(in)
		var fault *Error
		if !errors.As(err, &fault) || fault.Key != prefix+c.key || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %.40q: %v, want one with %q", c.key, c.value, err, c.want)
			continue
		}
		if len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d bytes", c.key, len(err.Error()))
		}
		want := Annotations{}
		want.Of(rtnl.IPv6).Overwrite = netip.MustParseAddr("fd00::7")
		if got != want {
			t.Errorf("%s %.40q: read %+v, want what is not faulty, %+v", c.key, c.value, got, want)
		}
	}
}

func TestEncode(t *testing.T) {
	a := Annotations{Managed: true, BackendType: VXLAN}
	*a.Of(rtnl.IPv4) = Family{Data: Data{true, 1, rtnl.MAC{2, 0, 10, 244, 1, 0}}, PublicIP: netip.MustParseAddr("192.168.1.11"), Overwrite: netip.MustParseAddr("192.168.1.12")}
	*a.Of(rtnl.IPv6) = Family{Data: Data{Present: true}, PublicIP: netip.MustParseAddr("fd00::11")}
	want := map[string]string{
		prefix + "kube-subnet-manager": "true",
		prefix + "backend-type":        "vxlan",
		prefix + "backend-data":        `{"VNI":1,"VtepMAC":"02:00:0a:f4:01:00"}`,
		prefix + "backend-v6-data":     "null",
		prefix + "public-ip":           "192.168.1.11",
		prefix + "public-ipv6":         "fd00::11",
	}
	got := keys(t).Encode(a)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for key := range got {
		if !slices.Contains(keys(t).Published(), key) {
			t.Errorf("%s is not among those that are published", key)
		}
	}
}

// FuzzAnnotations: whatever is annotated is either refused or can be written and read again.
func FuzzAnnotations(f *testing.F) {
	f.Add("true", "vxlan", `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`, "192.168.1.11", "10.0.0.1")
	f.Add("true", "host-gw", "null", "0.0.0.0", "")
	f.Add("", "", `{"VtepMAC":"8e:12:fe:33:01:02","VNI":16777215}`, "fd00::1", "::")
	f.Add("false", "extension", `{"VNI":{}}`, "::ffff:1.2.3.4", "fe80::1%x")
	k := keys(f)
	f.Fuzz(func(t *testing.T, managed, backend, data, public, overwrite string) {
		in := map[string]string{k.Managed: managed, k.BackendType: backend}
		for _, f := range k.families {
			in[f.data], in[f.publicIP], in[f.overwrite], in[f.nodePublicIP] = data, public, overwrite, overwrite
		}
		a, err := k.Decode(in)
		if err != nil && len(err.Error()) > 4096 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
		again, err := k.Decode(k.Encode(a))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		for _, f := range families {
			a.Of(f).Overwrite, a.Of(f).NodePublicIP = netip.Addr{}, netip.Addr{}
		}
		if a != again {
			t.Fatalf("read %+v, then %+v", a, again)
		}
	})
}

func ExampleKeys_Decode() {
	k, _ := NewKeys(DefaultPrefix)
	a, err := k.Decode(map[string]string{
		"flannel.alpha.coreos.com/backend-type": "vxlan",
		"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`,
		"flannel.alpha.coreos.com/public-ip":    "127.0.0.1",
	})
	fmt.Println(a.BackendType, a.Of(rtnl.IPv4).Data.MAC)
	fmt.Println(err)
	// Output:
	// vxlan 8e:12:fe:33:01:02
	// annotation flannel.alpha.coreos.com/public-ip "127.0.0.1": 127.0.0.1: want a unicast address, not loopback, link-local, multicast, broadcast or unspecified
}
