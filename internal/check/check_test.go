package check_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podnet/podnet/internal/check"
	"github.com/podnet/podnet/rtnl"
)

func TestDevice(t *testing.T) {
	for name, ok := range map[string]bool{
		"cni0": true, "a": true, "flannel-v6.1": true, "exactly15bytes.": true, "é": true,
		"": false, "sixteen-bytes-xx": false, "eth%d": false, "a/b": false, "a b": false, "a:1": false, ".": false, "..": false,
		"a\x00b": false, "a\tb": false, "a\x7f": false,
	} {
		if err := check.Device(name); (err == nil) != ok {
			t.Errorf("Device(%q) = %v; want ok %v", name, err, ok)
		}
	}
}

func TestMTU(t *testing.T) {
	for _, c := range []struct {
		mtu  int
		ipv6 bool
		ok   bool
	}{
		{0, true, true}, {68, false, true}, {65535, true, true}, {1280, true, true},
		{-1, false, false}, {67, false, false}, {65536, false, false}, {1279, true, false}, {1279, false, true},
	} {
		if err := check.MTU(c.mtu, c.ipv6); (err == nil) != c.ok {
			t.Errorf("MTU(%d, %v) = %v; want ok %v", c.mtu, c.ipv6, err, c.ok)
		}
	}
}

func TestMAC(t *testing.T) {
	for _, c := range []struct {
		mac rtnl.MAC
		ok  bool
	}{{rtnl.MAC{}, true}, {rtnl.MAC{2, 0, 0, 0, 0, 1}, true}, {rtnl.MAC{1, 0, 0x5e, 0, 0, 1}, false}, {rtnl.MAC{255, 255, 255, 255, 255, 255}, false}} {
		if err := check.MAC(c.mac); (err == nil) != c.ok {
			t.Errorf("MAC(%s) = %v; want ok %v", c.mac, err, c.ok)
		}
	}
}

func TestInterfaceAddr(t *testing.T) {
	for text, fault := range map[string]string{
		"10.244.1.1/24": "", "fd00::1/64": "", "10.0.0.0/31": "", "10.0.0.1/31": "", "10.0.0.1/32": "", "fd00::/127": "", "fd00::1/128": "", "2001:db8::5/48": "",
		"10.244.1.0/24": "the subnet's own address", "10.244.1.255/24": "broadcast", "10.0.0.3/30": "broadcast", "fd00::/64": "the subnet's own address",
		"0.0.0.0/0": "unspecified", "10.0.0.1/0": "whole address space", "127.0.0.1/8": "loopback", "::1/128": "loopback", "169.254.1.1/16": "link-local",
		"fe80::1/64": "link-local", "224.0.0.1/24": "multicast", "ff02::1/64": "multicast", "255.255.255.255/32": "broadcast",
		"::ffff:10.0.0.1/120": "IPv4 in IPv6",
	} {
		err := check.InterfaceAddr(netip.MustParsePrefix(text))
		if fault == "" && err != nil || fault != "" && (err == nil || !strings.Contains(err.Error(), fault) || !strings.HasPrefix(err.Error(), text)) {
			t.Errorf("InterfaceAddr(%s) = %v; want %q", text, err, fault)
		}
	}
	if err := check.InterfaceAddr(netip.Prefix{}); err == nil {
		t.Error("InterfaceAddr(zero) = nil; want an error")
	}
}
