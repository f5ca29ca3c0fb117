package main

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podnet/podnet/internal/subnetenv"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestKernelSubnetFile uses the conflist that the agent writes: everything else stands in the subnet file, which comes later than the first ADD.
func TestKernelSubnetFile(t *testing.T) {
	k := newKernelNode(t)
	pod := rtnltest.NewNetns(t)
	path := filepath.Join(t.TempDir(), "podnet", "subnet.env")
	conf := `{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"podnet-cni","subnetFile":"` + path + `","hairpinMode":true,"ipam":{"dataDir":"DATADIR"}}]}`
	wantCode(t, k.status(conf), types.ErrPluginNotAvailable)
	_, err := k.add(conf, "c1", pod.Path())
	wantCode(t, err, types.ErrTryAgainLater)

	for _, env := range []subnetenv.Env{
		{Networks: prefixes("10.244.0.0/16", "fd00:244::/48"), Subnets: prefixes("10.244.7.1/24", "fd00:244:0:7::1/64"), MTU: 1430, IPMasq: true},
		{Networks: prefixes("fd00:9::/64"), Subnets: prefixes("fd00:9::1/64"), MTU: 1400}, // a cluster of one node, IPv6 only, the plugin masquerades
	} {
		if err := subnetenv.Write(path, env); err != nil {
			t.Fatal(err)
		}
		if err := k.status(conf); err != nil {
			t.Errorf("STATUS: %v", err)
		}
		r := k.mustAdd(conf, "c1", pod.Path())
		if len(r.IPs) != len(env.Subnets) || r.Interfaces[podInterface].Mtu != env.MTU {
			t.Errorf("result %+v %+v, want one address of each of %v and MTU %d", r.IPs, r.Interfaces[podInterface], env.Subnets, env.MTU)
		}
		for _, gw := range env.Subnets {
			if err := ping(pod, gw.Addr()); err != nil {
				t.Error(err)
			}
		}
		if err := k.check(conf, "c1", pod.Path()); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		k.mustDel(conf, "c1", pod.Path())
	}
	k.wantNothing()
}

func prefixes(words ...string) (out []netip.Prefix) {
	for _, w := range words {
		out = append(out, netip.MustParsePrefix(w))
	}
	return out
}

func wantCode(t *testing.T, err error, code uint) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), "podnet-agent") {
		t.Errorf("%v, want code %d that says who writes the file", err, code)
	}
}

// TestKernelRequests asks for addresses and a MAC through the capabilities of the runtime.
func TestKernelRequests(t *testing.T) {
	k := newKernelNode(t)
	pod := rtnltest.NewNetns(t)
	rt := runtimeConf("c1", pod.Path())
	rt.CapabilityArgs = map[string]any{"ips": []string{"10.244.1.77/24", "fd00:244:0:1::77"}, "mac": "02:00:00:00:00:77"}
	var result types.Result
	err := k.host.Do(func() (err error) {
		result, err = k.cni.AddNetworkList(context.Background(), k.list(kernelConf), rt)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := current.GetResult(result)
	if err != nil {
		t.Fatal(err)
	}
	if v4, v6 := address(t, r, true), address(t, r, false); v4 != netip.MustParseAddr("10.244.1.77") || v6 != netip.MustParseAddr("fd00:244:0:1::77") {
		t.Errorf("addresses %s and %s, want those asked for", v4, v6)
	}
	link, err := pod.Conn(t).Link(context.Background(), "eth0")
	if err != nil || link.MAC.String() != "02:00:00:00:00:77" || r.Interfaces[podInterface].Mac != link.MAC.String() {
		t.Errorf("MAC %s in the pod, %s in the result, %v: want the one asked for", link.MAC, r.Interfaces[podInterface].Mac, err)
	}
	k.mustDel(kernelConf, "c1", pod.Path())
	k.wantNothing()
}
