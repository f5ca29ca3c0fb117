package main

import (
	"errors"
	"flag"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/veth"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", path, diff)
	}
}

const subnetEnv = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\n" +
	"FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// describe prints what a test looks at.
func describe(c config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "network %s in %s\n", c.name, c.dataDir)
	fmt.Fprintf(&b, "bridge %s gateway=%t default=%t force=%t mtu=%d hairpin=%t mac=%q\n", c.bridge, c.gateway, c.defaultGateway, c.forceAddress, c.mtu, c.hairpin, c.mac)
	fmt.Fprintf(&b, "masq %t backend=%q cluster=%v not=%v\n", c.masq, c.masqBackend, c.networks, c.nonMasquerade)
	for i, s := range c.rangeSets {
		fmt.Fprintf(&b, "set %d request=%v\n", i, s.request)
		for _, r := range s.ranges {
			fmt.Fprintf(&b, "  %s from %s to %s gateway %s\n", r.subnet, r.start, r.end, r.gateway)
		}
	}
	for _, r := range c.routes {
		fmt.Fprintf(&b, "route %s\n", r.kernel(func(netip.Addr) netip.Addr { return netip.Addr{} }))
	}
	fmt.Fprintf(&b, "dns %v\n", c.dns)
	return b.String()
}

func TestConfig(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		base := strings.TrimSuffix(filepath.Base(f), ".json")
		t.Run(base, func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(strings.Replace(string(text), "SUBNETFILE", writeFile(t, "subnet.env", subnetEnv), 1))
			c, err := load(&skel.CmdArgs{StdinData: text, Args: "IgnoreUnknown=1;K8S_POD_NAME=x;MAC=02:00:00:00:00:03"})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "config/"+base+".txt", describe(c))
		})
	}
}

func TestConfigFaults(t *testing.T) {
	const v4 = `"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}]]}`
	missing := filepath.Join(t.TempDir(), "subnet.env")
	cut := writeFile(t, "subnet.env", subnetEnv[:70])
	whole := writeFile(t, "subnet.env", subnetEnv)
	for _, tc := range []struct {
		name, conf, args string
		code             uint
		want             string
	}{
		{"not JSON", `{`, "", 6, `decode the configuration: unexpected end of JSON input`},
		{"wrong type", `{"mtu":"big"}`, "", 6, `decode the configuration: json: cannot unmarshal string into Go struct field confJSON.mtu of type int`},
		{"no range", `{}`, "", 7, `ipam.ranges: no range: want at least one, or subnetFile (attachments without an address are not supported)`},
		{"vlan", `{"vlan":7,"promiscMode":true,` + v4 + `}`, "", 2, `unsupported field in the network configuration: vlan: 7; promiscMode: true`},
		{"DAD", `{"enabledad":true,` + v4 + `}`, "", 2, `unsupported field in the network configuration: enabledad: true`},
		{"trunk", `{"vlanTrunk":[{"id":5}],` + v4 + `}`, "", 2, `unsupported field in the network configuration: vlanTrunk: [{"id":5}]`},
		{"other ipam", `{"ipam":{"type":"dhcp"}}`, "", 2, `unsupported field in the network configuration: ipam.type: "dhcp" (want host-local or none: addresses are allocated in process)`},
		{"bridge name", `{"bridge":"a bridge",` + v4 + `}`, "", 7, `bridge "a bridge": must not hold " ": want printable ASCII without space, '/', ':', ';' and '%'`},
		{"bridge too long", `{"bridge":"bridge0123456789",` + v4 + `}`, "", 7, `bridge "bridge0123456789": 16 bytes: want at most 15`},
		{"MTU IPv4", `{"mtu":500,` + v4 + `}`, "", 7, `mtu 500: want 0 (the kernel's default) or 576 to 65535`},
		{"MTU IPv6", `{"mtu":1200,"ipam":{"subnet":"fd00::/64"}}`, "", 7, `mtu 1200: want 0 (the kernel's default) or 1280 to 65535`},
		{"MTU negative", `{"mtu":-1,` + v4 + `}`, "", 7, `mtu -1: want 0 (the kernel's default) or 576 to 65535`},
		{"backend", `{"ipMasqBackend":"ebtables",` + v4 + `}`, "", 7, `ipMasqBackend "ebtables": want nftables, iptables or none`},
		{"data directory", `{"ipam":{"dataDir":"x","subnet":"10.0.0.0/24"}}`, "", 7, `ipam.dataDir "x": want an absolute path`},
		{"host bits", `{"ipam":{"subnet":"10.1.0.5/24"}}`, "", 7, `ipam.subnet 10.1.0.5/24: has host bits set: want 10.1.0.0/24`},
		{"no CIDR", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0"}]]}}`, "", 7, `ipam.ranges[0][0].subnet "10.1.0.0": want a CIDR such as 10.244.1.0/24 or fd00:244:0:1::/64`},
		{"leading zeros", `{"ipam":{"subnet":"010.1.0.0/24"}}`, "", 7, `ipam.subnet "010.1.0.0/24": want a CIDR such as 10.244.1.0/24 or fd00:244:0:1::/64`},
		{"mapped", `{"ipam":{"subnet":"::ffff:10.1.0.0/120"}}`, "", 7, `ipam.subnet ::ffff:10.1.0.0/120: is an IPv4-mapped IPv6 network: want plain IPv4 or IPv6`},
		{"everything", `{"ipam":{"subnet":"0.0.0.0/0"}}`, "", 7, `ipam.subnet 0.0.0.0/0: covers every address: want a prefix length of 1 or more`},
		{"multicast", `{"ipam":{"subnet":"ff00::/64"}}`, "", 7, `ipam.subnet ff00::/64: is multicast: want unicast addresses`},
		{"loopback", `{"ipam":{"subnet":"127.0.0.0/24"}}`, "", 7, `ipam.subnet 127.0.0.0/24: is loopback: want addresses of a network`},
		{"link-local", `{"ipam":{"subnet":"169.254.0.0/24"}}`, "", 7, `ipam.subnet 169.254.0.0/24: is link-local: want routable addresses`},
		{"too small", `{"ipam":{"subnet":"10.1.0.0/31"}}`, "", 7, `ipam.subnet 10.1.0.0/31: too small: want a prefix length of at most 30`},
		{"start outside", `{"ipam":{"subnet":"10.1.0.0/24","rangeStart":"10.2.0.1","gateway":"x"}}`, "", 7,
			`ipam.rangeStart 10.2.0.1: want an address in 10.1.0.0/24; ipam.gateway: ip "x": want an address such as 10.244.1.7 or fd00:244::7`},
		{"start behind end", `{"ipam":{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9","rangeEnd":"10.1.0.3"}}`, "", 7, `ipam.rangeStart 10.1.0.9: lies behind rangeEnd 10.1.0.3`},
		{"sets overlap", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/8"}],[{"subnet":"10.1.0.0/24"}]]}}`, "", 7, `ipam.ranges[1] 10.1.0.0/24: overlaps with ipam.ranges[0] 10.0.0.0/8`},
		{"set overlaps itself", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/8"},{"subnet":"10.1.0.0/24"}]]}}`, "", 7, `ipam.ranges[0][1].subnet 10.1.0.0/24: overlaps with 10.0.0.0/8 of the same range set`},
		{"mixed set", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/8"},{"subnet":"fd00::/64"}]]}}`, "", 7, `ipam.ranges[0][1].subnet fd00::/64: is of another family than 10.0.0.0/8: want one family in a range set`},
		{"empty set", `{"ipam":{"ranges":[[]]}}`, "", 7, `ipam.ranges[0]: an empty range set: want at least one range`},
		{"two addresses in an old version", `{"cniVersion":"0.2.0","ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.1.0/24"}]]}}`, "", 7,
			`ipam.ranges: more than one address per family: want cniVersion 0.3.0 or later, not "0.2.0"`},
		{"route", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"10.0.0.1/8","gw":"fd00::1","mtu":-1,"scope":300}]}}`, "", 7,
			`ipam.routes[0].dst 10.0.0.1/8: has host bits set: want 10.0.0.0/8; ipam.routes[0].mtu -1: want 0 to 65535; ipam.routes[0].scope 300: want 0 (universe) to 254 (host)`},
		{"route family", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"fd00::/8"},{"dst":"10.0.0.0/8","gw":"fd00::1"}]}}`, "", 7,
			`ipam.routes[0].dst fd00::/8: the pod gets no address of that family; ipam.routes[1].gw fd00::1: is of another family than dst 10.0.0.0/8`},
		{"resolvConf", `{"ipam":{"subnet":"10.0.0.0/24","resolvConf":"resolv.conf"}}`, "", 7, `ipam.resolvConf "resolv.conf": want an absolute path`},
		{"MAC", `{"args":{"cni":{"mac":"01:00:5e:00:00:01"}},"runtimeConfig":{"mac":"00:00:00:00:00:00"},` + v4 + `}`, "", 7,
			`args.cni.mac: mac "01:00:5e:00:00:01": must not be a multicast address; runtimeConfig.mac: mac "00:00:00:00:00:00": must not be zero`},
		{"MAC in CNI_ARGS", `{` + v4 + `}`, "MAC=x", 4, `CNI_ARGS MAC: mac "x": want six octets such as 0a:58:0a:f4:00:01`},
		{"unknown in CNI_ARGS", `{` + v4 + `}`, "A=1;B=2", 4, `CNI_ARGS ["A=1" "B=2"]: want MAC, IP and IgnoreUnknown, or IgnoreUnknown=1`},
		{"no pair in CNI_ARGS", `{` + v4 + `}`, "A", 4, `CNI_ARGS "A": want KEY=VALUE`},
		{"IP outside", `{` + v4 + `}`, "IP=10.2.0.1", 7, `requested ip 10.2.0.1: is in none of the ranges`},
		{"two IPs for one set", `{"runtimeConfig":{"ips":["10.1.0.4"]},` + v4 + `}`, "IP=10.1.0.3", 7, `requested ip 10.1.0.4: a second one of the same range set: want one per set`},
		{"non-masquerade", `{"nonMasqueradeCIDRs":["10.0.0.1/8"],` + v4 + `}`, "", 7, `nonMasqueradeCIDRs[0] 10.0.0.1/8: has host bits set: want 10.0.0.0/8`},
		{"subnet file and ranges", `{"subnetFile":"` + whole + `",` + v4 + `}`, "", 7, `ipam.ranges[0]: is given beside subnetFile: want one of them`},
		{"subnet file relative", `{"subnetFile":"x"}`, "", 7, `subnetFile "x": want an absolute path`},
		{"subnet file missing", `{"subnetFile":"` + missing + `"}`, "", 11,
			`subnetFile ` + missing + `: does not exist yet; the node agent (podnet-agent) writes it once the node has a podCIDR: is it running on this node?`},
		{"subnet file cut", `{"subnetFile":"` + cut + `"}`, "", 11, `subnetFile: read subnet file ` + cut + `: line 3 "FLANNEL_IPV": want KEY=VALUE; the node agent (podnet-agent) writes it`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(&skel.CmdArgs{StdinData: []byte(tc.conf), Args: tc.args})
			var e *types.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want one of CNI", err)
			}
			if e.Code != tc.code || e.Error() != tc.want {
				t.Errorf("code %d, error\n  %s\nwant code %d, error\n  %s", e.Code, e.Error(), tc.code, tc.want)
			}
		})
	}
}

func TestResolvConf(t *testing.T) {
	path := writeFile(t, "resolv.conf", "# comment\n; too\nnameserver 192.0.2.53\nnameserver 2001:db8::53\ndomain example.org\nsearch a b\nsearch c\noptions ndots:5 edns0\nnameserver\n\nsortlist x\n")
	got, err := readResolvConf(path)
	if err != nil {
		t.Fatal(err)
	}
	want := types.DNS{Nameservers: []string{"192.0.2.53", "2001:db8::53"}, Domain: "example.org", Search: []string{"a", "b", "c"}, Options: []string{"ndots:5", "edns0"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DNS (-want +got):\n%s", diff)
	}
	if _, err := readResolvConf("/nonexistent/resolv.conf"); err == nil {
		t.Error("a missing file was read")
	}
}

// FuzzConfig looks that nothing on standard input or in CNI_ARGS makes the plugin panic, and that every refusal has a code of CNI.
func FuzzConfig(f *testing.F) {
	files, _ := filepath.Glob("testdata/config/*.json")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "IP=10.1.0.4;MAC=02:00:00:00:00:01")
	}
	f.Fuzz(func(t *testing.T, conf []byte, args string) {
		if strings.Contains(strings.ToLower(string(conf)), "subnetfile") || strings.Contains(strings.ToLower(string(conf)), "resolvconf") {
			return // reads files of this machine
		}
		_, err := load(&skel.CmdArgs{StdinData: conf, Args: args})
		var e *types.Error
		if err != nil && (!errors.As(err, &e) || e.Msg == "") {
			t.Errorf("error without code: %v", err)
		}
	})
}

// TestDocumentation looks that docs/cni-plugin.md has a row or a sentence for every key.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/cni-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(reflect.TypeFor[confJSON](), "") {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("docs/cni-plugin.md does not explain %s", key)
		}
	}
}

// keysOf returns the keys of a JSON object, those of objects in it with a dot.
func keysOf(of reflect.Type, prefix string) (keys []string) {
	for field := range fields(of) {
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous:
			keys = append(keys, keysOf(field.Type, prefix)...)
		case field.Type.Kind() == reflect.Struct && !strings.HasPrefix(field.Type.PkgPath(), "github.com/containernetworking"):
			keys = append(keys, keysOf(field.Type, prefix+key+".")...)
		default:
			keys = append(keys, prefix+key)
		}
	}
	return keys
}

func fields(of reflect.Type) iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		for i := range of.NumField() {
			if !yield(of.Field(i)) {
				return
			}
		}
	}
}

// TestExamples loads the configurations that docs/cni-plugin.md shows.
func TestExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/cni-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```")
	env := writeFile(t, "subnet.env", subnetEnv)
	shown := 0
	for _, b := range blocks {
		conf, isJSON := strings.CutPrefix(b, "json\n")
		if !isJSON {
			continue
		}
		shown++
		list, err := libcni.ConfListFromBytes([]byte(strings.ReplaceAll(conf, "/run/podnet/subnet.env", env)))
		if err != nil {
			t.Error(err)
			continue
		}
		c, err := load(&skel.CmdArgs{StdinData: list.Plugins[0].Bytes})
		if err == nil {
			err = c.rehearse()
		}
		if err != nil {
			t.Errorf("%v\n%s", err, conf)
		}
	}
	if shown != 2 {
		t.Errorf("%d examples, want 2", shown)
	}
}

// TestDerivedMAC proves that an announcement is left out only where nobody can know an address under another MAC.
func TestDerivedMAC(t *testing.T) {
	set := func(subnet string) rangeSet {
		return rangeSet{ranges: []addrRange{{subnet: netip.MustParsePrefix(subnet)}}}
	}
	asked := set("fd00:1::/64")
	asked.request = netip.MustParseAddr("fd00:1::7")
	cut := set("fd00:1::/64")
	cut.ranges[0].endSet = true
	for _, c := range []struct {
		name  string
		sets  []rangeSet
		addrs []string
		mac   string
		known bool
	}{
		{"IPv4", []rangeSet{set("10.1.0.0/24")}, []string{"10.1.0.2/24"}, "0a:58:0a:01:00:02", true},
		{"IPv6", []rangeSet{set("fd00:1::/120")}, []string{"fd00:1::2/120"}, veth.MACFor(netip.MustParseAddr("fd00:1::2")).String(), true},
		{"dual-stack", []rangeSet{set("fd00:1::/64"), set("10.1.0.0/24")}, []string{"fd00:1::2/64", "10.1.0.2/24"}, "0a:58:0a:01:00:02", true},
		{"dual-stack, few IPv6 addresses", []rangeSet{set("10.1.0.0/24"), set("fd00:1::/112")}, []string{"10.1.0.2/24", "fd00:1::2/112"}, "0a:58:0a:01:00:02", false},
		{"dual-stack, part of an IPv6 subnet", []rangeSet{set("10.1.0.0/24"), cut}, []string{"10.1.0.2/24", "fd00:1::2/64"}, "0a:58:0a:01:00:02", false},
		{"dual-stack, IPv6 address asked for", []rangeSet{set("10.1.0.0/24"), asked}, []string{"10.1.0.2/24", "fd00:1::7/64"}, "0a:58:0a:01:00:02", false},
	} {
		var addrs []ipam.Address
		for _, a := range c.addrs {
			addrs = append(addrs, ipam.Address{Prefix: netip.MustParsePrefix(a)})
		}
		mac, known := config{rangeSets: c.sets}.derivedMAC(addrs)
		if mac.String() != c.mac || known != c.known {
			t.Errorf("%s: %s, %v; want %s, %v", c.name, mac, known, c.mac, c.known)
		}
	}
}
