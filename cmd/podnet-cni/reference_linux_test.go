package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// referenceDir finds the containernetworking plugins bridge and host-local: built ones, or those of the Debian package.
func referenceDir(t *testing.T) string {
	t.Helper()
	dirs := []string{os.Getenv("PODNET_REFERENCE_CNI"), "/opt/cni/bin", "/usr/lib/cni"}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); dir != "" && err == nil {
			return dir
		}
	}
	t.Skipf("no reference plugins: want bridge and host-local in %s or in $PODNET_REFERENCE_CNI (make bench builds them from their Go module)", strings.Join(dirs[1:], ", "))
	return ""
}

// TestKernelAsReference runs the same configurations through bridge + host-local and compares results and what is in the pod.
func TestKernelAsReference(t *testing.T) {
	rtnltest.RequireKernel(t, "two nodes")
	dir := referenceDir(t)
	for _, tc := range []struct{ name, version, conf string }{
		{"default gateway", "1.0.0", `"isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DATADIR","ranges":[[{"subnet":"10.1.0.0/24"}]]}`},
		{"dual-stack", "1.1.0", `"isDefaultGateway":true,"hairpinMode":true,"mtu":1400,"ipam":{"type":"host-local","dataDir":"DATADIR","ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd01::/64"}]]}`},
		{"legacy range", "0.3.1", `"isGateway":true,"ipam":{"type":"host-local","dataDir":"DATADIR","subnet":"10.1.0.0/24","rangeStart":"10.1.0.20","rangeEnd":"10.1.0.29","gateway":"10.1.0.254","routes":[{"dst":"0.0.0.0/0"}]}`},
		{"old version", "0.2.0", `"isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DATADIR","subnet":"10.1.0.0/24"}`},
		{"no gateway", "0.4.0", `"ipam":{"type":"host-local","dataDir":"DATADIR","subnet":"10.1.0.0/24"}`},
		{"routes", "1.1.0", `"isGateway":true,"ipam":{"type":"host-local","dataDir":"DATADIR","ranges":[[{"subnet":"10.1.0.0/24"}]],` +
			`"routes":[{"dst":"0.0.0.0/0","priority":7},{"dst":"192.0.2.0/24","gw":"10.1.0.77"},{"dst":"198.51.100.0/24","table":77},{"dst":"203.0.113.0/24","scope":0}]}`},
		{"two ranges in a set", "1.0.0", `"isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DATADIR","ranges":[[{"subnet":"10.1.0.0/30"},{"subnet":"10.2.0.0/24"}]]}`},
		{"dns", "1.0.0", `"isDefaultGateway":true,"dns":{"nameservers":["10.9.9.9"],"search":["a.b"]},"ipam":{"type":"host-local","dataDir":"DATADIR","subnet":"10.1.0.0/24"}`},
		{"requests", "1.0.0", `"isDefaultGateway":true,"args":{"cni":{"ips":["10.1.0.50"],"mac":"02:00:00:00:00:05"}},"ipam":{"type":"host-local","dataDir":"DATADIR","subnet":"10.1.0.0/24"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var seen [2]string
			for i, plugin := range []string{"bridge", "podnet-cni"} {
				k := newKernelNode(t)
				if plugin == "bridge" {
					k.cni = containerRuntime(dir, t.TempDir())
				}
				pod := rtnltest.NewNetns(t)
				conf := fmt.Sprintf(`{"cniVersion":%q,"name":"net","plugins":[{"type":%q,%s}]}`, tc.version, plugin, tc.conf)
				seen[i] = summary(t, k.mustAdd(conf, "c1", pod.Path()), pod)
				k.mustDel(conf, "c1", pod.Path())
			}
			if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
				t.Errorf("(-bridge + host-local, +podnet-cni):\n%s", diff)
			}
		})
	}
}

var protocol = regexp.MustCompile(` proto \S+`)

// summary prints what a user of a plugin sees: the result without what is chosen by chance, and addresses and routes in the pod.
func summary(t *testing.T, r *current.Result, pod *rtnltest.Netns) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "version %s, dns %v\n", r.CNIVersion, r.DNS)
	for _, i := range r.Interfaces {
		name := i.Name
		if strings.HasPrefix(name, "veth") {
			name = "veth"
		}
		fmt.Fprintf(&b, "interface %s sandbox %t mac %t\n", name, i.Sandbox != "", i.Mac != "")
	}
	for _, ip := range r.IPs {
		index := -1
		if ip.Interface != nil {
			index = *ip.Interface
		}
		fmt.Fprintf(&b, "ip %s gateway %s interface %d\n", ip.Address.String(), ip.Gateway, index)
	}
	for _, route := range r.Routes {
		fmt.Fprintf(&b, "result route %s\n", route)
	}
	ctx, c := context.Background(), pod.Conn(t)
	link, err := c.Link(ctx, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "mtu %d\n", link.MTU)
	addrs, err := c.Addrs(ctx, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			fmt.Fprintf(&b, "addr %s\n", a.Prefix)
		}
	}
	for _, table := range []uint32{rtnl.TableMain, 77} {
		routes, err := c.Routes(ctx, rtnl.RouteFilter{Table: table, Link: "eth0"})
		if err != nil {
			t.Fatal(err)
		}
		for _, route := range routes {
			if !route.Dst.Addr().IsLinkLocalUnicast() {
				fmt.Fprintln(&b, protocol.ReplaceAllString(route.String(), ""))
			}
		}
	}
	return b.String()
}
