package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestOwnerValidate(t *testing.T) {
	for _, test := range []struct {
		id, ifname string
		field      string // "" is valid
	}{
		{"a", "eth0", ""}, {"A9_.-z", "net1", ""}, {strings.Repeat("f", 128), "abcdefghijklmno", ""}, {"0", "eth0.100", ""}, {"a", "x;reboot", ""},
		{"", "eth0", "containerID"}, {strings.Repeat("f", 129), "eth0", "containerID"}, {"..", "eth0", "containerID"}, {"a..b", "eth0", "containerID"},
		{"../x", "eth0", "containerID"}, {"a/b", "eth0", "containerID"}, {"a\x00", "eth0", "containerID"}, {"a\n", "eth0", "containerID"},
		{".a", "eth0", "containerID"}, {"-a", "eth0", "containerID"}, {"ä", "eth0", "containerID"}, {"a b", "eth0", "containerID"},
		{"a", "", "ifname"}, {"a", "abcdefghijklmnop", "ifname"}, {"a", "eth%d", "ifname"}, {"a", "a/b", "ifname"}, {"a", "a b", "ifname"},
		{"a", "a:1", "ifname"}, {"a", ".", "ifname"}, {"a", "..", "ifname"}, {"a", "a\t", "ifname"}, {"a", "\x7f", "ifname"}, {"a", "eth\xff", "ifname"},
	} {
		var e *OwnerError
		err := Owner{test.id, test.ifname}.Validate()
		if test.field == "" && err != nil || test.field != "" && (!errors.As(err, &e) || e.Field != test.field || !errors.Is(err, ErrInvalidOwner)) {
			t.Errorf("%q %q: %v, want a fault of %q", test.id, test.ifname, err, test.field)
		}
	}
	p := mustPods(t, NewMemoryStore(), sets("10.0.0.0/29"))
	bad := Owner{"../x", "eth0"}
	_, err1 := p.Allocate(bg, bad, Request{})
	_, err2 := p.Lookup(bg, bad)
	for i, err := range []error{err1, err2, p.Release(bg, bad)} {
		if !errors.Is(err, ErrInvalidOwner) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestPodConfigFaults(t *testing.T) {
	a, sub := netip.MustParseAddr, netip.MustParsePrefix
	one := func(r Range) PodConfig { return PodConfig{RangeSets: [][]Range{{r}}} }
	for _, test := range []struct {
		cfg  PodConfig
		want string
	}{
		{PodConfig{}, "rangeSets 0: want 1 to 4 sets"},
		{sets("10.0.0.0/24", "10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24"), "rangeSets 5"},
		{PodConfig{RangeSets: [][]Range{{}}}, "rangeSets[0] []: want at least one range"},
		{one(Range{}), "rangeSets[0][0].subnet invalid Prefix: want a CIDR"},
		{sets("10.0.0.1/24"), "rangeSets[0][0].subnet 10.0.0.1/24: has host bits: want 10.0.0.0/24"},
		{sets("10.0.0.0/31"), "too small: want /30 or larger"},
		{sets("10.0.0.0/32"), "too small"},
		{sets("fd00::/127"), "too small: want /126 or larger"},
		{sets("0.0.0.0/0"), "want less than the whole address space"},
		{sets("::/0"), "want less than the whole address space"},
		{sets("224.0.0.0/24"), "overlaps multicast 224.0.0.0/4"},
		{sets("ff02::/64"), "multicast"},
		{sets("127.0.0.0/24"), "loopback"},
		{sets("::/64"), "loopback"},
		{sets("169.254.0.0/24"), "link-local"},
		{sets("fe80::/64"), "link-local"},
		{one(Range{Subnet: netip.PrefixFrom(a("::ffff:10.0.0.0"), 120)}), "want plain IPv4"},
		{sets("10.0.0.0/24 fd00::/64"), "rangeSets[0][1].subnet fd00::/64: want the family of rangeSets[0][0]"},
		{sets("10.0.0.0/24 10.0.0.0/25"), "rangeSets[0][1] 10.0.0.1-10.0.0.126: overlaps rangeSets[0][0] 10.0.0.1-10.0.0.254"},
		{sets("10.0.0.0/24", "10.0.0.0/24"), "rangeSets[1][0]"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Start: a("10.0.1.1")}), "rangeSets[0][0].start 10.0.1.1: want an address in 10.0.0.0/24"},
		{one(Range{Subnet: sub("10.0.0.0/24"), End: a("fd00::1")}), "rangeSets[0][0].end fd00::1: want an address in 10.0.0.0/24"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Start: a("10.0.0.9"), End: a("10.0.0.8")}), "rangeSets[0][0].start 10.0.0.9: want no more than end 10.0.0.8"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Start: a("::ffff:10.0.0.9")}), "start ::ffff:10.0.0.9"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Gateway: a("10.0.1.1")}), "rangeSets[0][0].gateway 10.0.1.1: want a host address in 10.0.0.0/24"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Gateway: a("10.0.0.0")}), "gateway 10.0.0.0"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Gateway: a("10.0.0.255")}), "gateway 10.0.0.255"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Gateway: a("fe80::1")}), "gateway fe80::1"},
		{one(Range{Subnet: sub("10.0.0.0/24"), Start: a("10.0.0.1"), End: a("10.0.0.1")}), "rangeSets[0] 10.0.0.1-10.0.0.1: want an address that is neither gateway nor reserved"},
		{PodConfig{RangeSets: sets("10.0.0.0/24").RangeSets, ReuseDelay: -1}, "reuseDelay -1ns"},
		{PodConfig{RangeSets: sets("10.0.0.0/24").RangeSets, Reserved: []netip.Addr{{}}}, "reserved[0] invalid IP: want an address"},
		{PodConfig{RangeSets: sets("10.0.0.0/31", "0.0.0.0/0").RangeSets, ReuseDelay: -1}, "reuseDelay"}, // all faults at once
		{PodConfig{RangeSets: sets("10.0.0.0/31", "0.0.0.0/0").RangeSets, ReuseDelay: -1}, "rangeSets[1][0].subnet"},
	} {
		err := test.cfg.Validate()
		var e *ConfigError
		if err == nil || !strings.Contains(err.Error(), test.want) || !errors.As(err, &e) {
			t.Errorf("%v, want %q", err, test.want)
		}
		if _, err := NewPodAllocator(NewMemoryStore(), test.cfg); err == nil {
			t.Errorf("%q: accepted by NewPodAllocator", test.want)
		}
	}
}
