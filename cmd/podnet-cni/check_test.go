package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

func TestCheckFindsDrift(t *testing.T) {
	ctx := context.Background()
	host := veth.HostName("c1", "eth0")
	for _, tc := range []struct {
		name   string
		tamper func(n *node) error
		want   string
	}{
		{"link", func(n *node) error {
			return n.write("node", rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: host}})
		}, "the host end is missing"},
		{"address", func(n *node) error {
			return n.write("pod1", rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Addr{Link: "eth0", Prefix: testAddrs()[0].Prefix}})
		}, "is missing on eth0"},
		{"route", func(n *node) error {
			routes, err := n.kernel.Netns("pod1").Routes(ctx, rtnl.RouteFilter{Family: rtnl.IPv6, Protocol: rtnl.ProtocolStatic})
			if err != nil || len(routes) != 1 {
				return fmt.Errorf("%v %w", routes, err)
			}
			return n.write("pod1", rtnl.Change{Verb: rtnl.Delete, Object: routes[0]})
		}, "route ::/0 via fd00:244:0:1::1 dev eth0"},
		{"gateway", func(n *node) error {
			return n.write("node", rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "cni0", Kind: rtnl.KindBridge, Up: rtnl.Off}})
		}, "bridge cni0: differs"},
		{"rules", func(n *node) error {
			_, err := masq.New(n.masq, masq.Options{Name: masqName("net")}).Apply(ctx, masq.Config{})
			return err
		}, "masquerade rules: differs"},
		{"lease", func(n *node) error {
			clear(n.stores)
			return nil
		}, "c1/eth0 has no lease"},
		{"namespace", func(n *node) error {
			n.kernel.RemoveNetns("pod1")
			return nil
		}, "the host end is missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			conf := strings.Replace(dualConf, `"ipam"`, `"runtimeConfig":{"ips":["10.244.1.5"]},"ipam"`, 1)
			prev := n.must("ADD", "c1", "pod1", conf)
			if err := tc.tamper(n); err != nil {
				t.Fatal(err)
			}
			_, err := n.run("CHECK", "c1", "pod1", withPrev(t, conf, prev))
			if err == nil || err.Code != codeDrifted || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("CHECK: %v, want code %d, %q", err, codeDrifted, tc.want)
			}
		})
	}
}

// TestCheckToleratesOthers lets a chained plugin add an interface with an address and a route, and take a route away.
func TestCheckToleratesOthers(t *testing.T) {
	n := newNode(t)
	out := n.must("ADD", "c1", "pod1", dualConf)
	var r current.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	r.Interfaces = append(r.Interfaces, &current.Interface{Name: "tun0", Sandbox: "/run/netns/pod1"})
	r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(3), Address: ipNet(testAddrs()[1].Prefix)})
	r.Routes = r.Routes[1:] // without 192.0.2.0/24
	changed, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := n.kernel.Netns("pod1").Routes(context.Background(), rtnl.RouteFilter{Family: rtnl.IPv4, Protocol: rtnl.ProtocolStatic})
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		if route.Dst.Bits() == 24 {
			if err := n.write("pod1", rtnl.Change{Verb: rtnl.Delete, Object: route}); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.must("CHECK", "c1", "pod1", withPrev(t, dualConf, string(changed)))
	if _, err := n.run("CHECK", "c1", "pod1", withPrev(t, dualConf, out)); err == nil {
		t.Error("CHECK does not miss the route that is in the result")
	}
	if _, err := n.run("CHECK", "c1", "pod1", dualConf); err == nil || err.Code != 7 || !strings.Contains(err.Error(), "prevResult: missing") {
		t.Errorf("CHECK without a result: %v", err)
	}
}

func (n *node) write(netns string, c rtnl.Change) error {
	return errors.Join(n.kernel.Netns(netns).Write(context.Background(), rtnl.Plan{c})...)
}
