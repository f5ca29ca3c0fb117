package ipvs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/service"
)

func key(text string) Key {
	protocol, addr, _ := strings.Cut(text, " ")
	a := netip.MustParseAddrPort(addr)
	return Key{Family: service.FamilyOf(a.Addr()), Protocol: map[string]service.Protocol{"tcp": service.TCP, "udp": service.UDP, "sctp": service.SCTP}[protocol], Addr: a}
}

// procText is /proc/net/ip_vs of Linux 6.1.
const procText = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
UDP  0A60000A:0050 rr  
  -> 0AF40102:1F90      Masq    1      0          8         
  -> 0AF40002:1F90      Local   0      12         7         
TCP  [fd0a:0000:0000:0000:0000:0000:0000:0010]:01BB wrr persistent 25000 80000000
  -> [fd03:0000:0000:0000:0000:0000:0000:0002]:1F90      Route   100    0          4         
ICMP  0A600001:0050 rr  
  -> 0AF40001:0050      Masq    1      0          0         
SCTP 0A60000B:0050 mh  
FWM  AA400001 rr 
  -> [fd02:0000:0000:0000:0000:0000:0000:0001]:1F90      Masq    1      0          0         
FWM  AA400002 rr 
`

func TestParseProc(t *testing.T) {
	var got []string
	err := parseProc(strings.NewReader(procText), func(k Key) { got = append(got, k.String()) }, func(k Key, r Real) { got = append(got, fmt.Sprintf("%s: %+v", k, r)) })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-u 10.96.0.10:80",
		"-u 10.96.0.10:80: {Addr:10.244.1.2:8080 Weight:1 Active:0 Inactive:8 Foreign:false}",
		"-u 10.96.0.10:80: {Addr:10.244.0.2:8080 Weight:0 Active:12 Inactive:7 Foreign:false}",
		"-t [fd0a::10]:443",
		"-t [fd0a::10]:443: {Addr:[fd03::2]:8080 Weight:100 Active:0 Inactive:4 Foreign:true}",
		"--sctp-service 10.96.0.11:80",
		"-f 2856321025",
		"-f 2856321025 -6: {Addr:[fd02::1]:8080 Weight:1 Active:0 Inactive:0 Foreign:false}",
		"-f 2856321026",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"TCP  0A60000A:005 rr", "TCP  0A60000:0050 rr", "  -> 0AF40102:1F90 Masq 1 0", "FWM  XYZ rr", "TCP  [fd0a]:0050 rr", "  -> 0AF40102:1F90 Masq x 0 0", "lonely"} {
		if err := parseProc(strings.NewReader("1\n2\n3\n"+bad+"\n"), func(Key) {}, func(Key, Real) {}); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
}

func FuzzParseProc(f *testing.F) {
	f.Add(procText)
	f.Fuzz(func(t *testing.T, text string) {
		_ = parseProc(strings.NewReader(text), func(k Key) { _ = k.String() }, func(k Key, r Real) {
			if !r.Addr.IsValid() || !k.known() {
				t.Errorf("%v %v", k, r)
			}
		})
	})
}

func TestParseScheduler(t *testing.T) {
	for _, tt := range []struct {
		text, name string
		flags      Flags
		bad        string
	}{
		{"rr", "rr", 0, ""},
		{"mh", "mh", Sched2, ""},
		{"mh:mh-fallback", "mh", Sched1, ""},
		{"sh", "sh", 0, ""},
		{"sh:sh-port,sh-fallback", "sh", Sched1 | Sched2, ""},
		{"", "", 0, "unknown"},
		{"RR", "", 0, "unknown"},
		{"rr:sh-port", "", 0, "flag"},
		{"sh:", "", 0, "flag"},
		{"sh:mh-port", "", 0, "flag"},
	} {
		name, flags, err := parseScheduler(tt.text)
		if name != tt.name || flags != tt.flags || (err != nil) != (tt.bad != "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
			t.Errorf("%q: %q, %v, %v", tt.text, name, flags, err)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		release string
		strict  bool
		want    string
	}{
		{"6.1.0-56-amd64", false, "conntrack=1 expire_nodest_conn=1 expire_quiescent_template=1 conn_reuse_mode=1"},
		{"5.9.0", false, "conntrack=1 expire_nodest_conn=1 expire_quiescent_template=1 conn_reuse_mode=1"},
		{"5.8.18-100.fc31", false, "conntrack=1 expire_nodest_conn=1 expire_quiescent_template=1 conn_reuse_mode=0"},
		{"4.1", false, "conntrack=1 expire_nodest_conn=1 expire_quiescent_template=1 conn_reuse_mode=0"},
		{"3.10.0-1160.el7", false, "conntrack=1 expire_nodest_conn=1 expire_quiescent_template=1"},
		{"5.10", true, "conntrack=1 expire_nodest_conn=1 expire_quiescent_template=1 conn_reuse_mode=1 arp_ignore=1 arp_announce=2"},
	} {
		var got []string
		for _, s := range settingsFor(tt.release, Options{StrictARP: tt.strict}) {
			got = append(got, fmt.Sprintf("%s=%d", s.name[strings.LastIndex(s.name, "/")+1:], s.value))
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s: %s; want %s", tt.release, text, tt.want)
		}
	}
	atLeast := setting{name: "net/x", value: 1}
	for have, want := range map[string]bool{"0": true, "1": false, "2": false, "x": true, " 1\n": false} {
		if _, differs := atLeast.change(have); differs != want {
			t.Errorf("%q: %v", have, differs)
		}
	}
}

func TestOptions(t *testing.T) {
	if err := (Options{}).Validate(); err != nil {
		t.Error(err)
	}
	err := Options{Scheduler: "best", MaxDrain: -1, CheckPeriod: -1, DrainPeriod: -1}.Validate()
	for _, want := range []string{"Scheduler", "MaxDrain", "CheckPeriod", "DrainPeriod"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
}

// FuzzMark: marks are injective, have the tag, and never the bits of others.
func FuzzMark(f *testing.F) {
	f.Add(uint32(0), uint32(1))
	f.Add(uint32(maxMark-1), uint32(1<<lowBits))
	f.Fuzz(func(t *testing.T, a, b uint32) {
		a, b = a%maxMark, b%maxMark
		m := makeMark(a)
		if n, ok := markNumber(m); !ok || n != a || m&markMask != markTag || m&0xc000 != 0 || (m == makeMark(b)) != (a == b) {
			t.Errorf("%d -> %#x -> %d, %v", a, m, n, ok)
		}
	})
}

// FuzzFrontendKey: the keys of elements are injective.
func FuzzFrontendKey(f *testing.F) {
	f.Add([]byte{10, 96, 0, 1}, uint8(6), uint16(80))
	f.Fuzz(func(t *testing.T, addr []byte, protocol uint8, port uint16) {
		a, ok := netip.AddrFromSlice(addr)
		if !ok || a.Is4In6() {
			return
		}
		k := frontendKey(service.FamilyOf(a), a, service.Protocol(protocol), port)
		got, p, n, ok := parseFrontendKey(k)
		if a.IsUnspecified() {
			a = netip.Addr{}
		}
		if !ok || got != a || uint8(p) != protocol || n != port {
			t.Errorf("%s %d %d -> %x -> %s %d %d %v", a, protocol, port, k, got, p, n, ok)
		}
	})
}

// TestKeys: what names things in the kernel is never the same for two.
func TestKeys(t *testing.T) {
	seen := map[string]string{}
	for _, k := range []Key{key("tcp 10.0.0.1:80"), key("udp 10.0.0.1:80"), key("tcp 10.0.0.1:81"), key("tcp 10.0.0.2:80"), key("sctp 10.0.0.1:80"), key("tcp [fd00::1]:80"),
		{Family: service.IPv4, Mark: 7}, {Family: service.IPv6, Mark: 7}} {
		if other, twice := seen[k.String()]; twice {
			t.Errorf("%#v and %s", k, other)
		}
		seen[k.String()] = k.String()
		if got, ok := recorded(record(k)); !ok || got != k {
			t.Errorf("%s is recorded as %s", k, got)
		}
	}
}

func TestDistinct(t *testing.T) {
	var in []netip.Prefix
	for _, p := range []string{"10.96.1.0/24", "10.96.0.5/16", "fd00::/108", "10.96.0.0/16", "10.97.0.0/16"} {
		in = append(in, netip.MustParsePrefix(p))
	}
	if got := fmt.Sprint(distinct(in)); got != "[10.96.0.0/16 10.97.0.0/16 fd00::/108]" {
		t.Error(got)
	}
}
