package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/filestore"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// kernelNode is a network namespace that plays a node. The real plugin runs in it, through libcni.
type kernelNode struct {
	t       testing.TB
	host    *rtnltest.Netns
	cni     *libcni.CNIConfig
	dir     string // of the plugin
	dataDir string
}

func newKernelNode(t testing.TB) *kernelNode {
	t.Helper()
	host := rtnltest.NewNetns(t) // skips without the privilege
	dir, err := builtPlugin()
	if err != nil {
		t.Fatal(err)
	}
	return &kernelNode{t: t, host: host, dir: dir, dataDir: filepath.Join(t.TempDir(), "state"), cni: containerRuntime(dir, t.TempDir())}
}

// kernelConf is a dual-stack network with everything on.
const kernelConf = `{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"podnet-cni","isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,"mtu":1450,
"capabilities":{"ips":true,"mac":true},
"ipam":{"type":"host-local","dataDir":"DATADIR","ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:0:1::/64"}]],
"routes":[{"dst":"192.0.2.0/24","mtu":1400,"priority":5}]}}]}`

func (k *kernelNode) list(conf string) *libcni.NetworkConfigList {
	k.t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(strings.ReplaceAll(conf, "DATADIR", k.dataDir)))
	if err != nil {
		k.t.Fatal(err)
	}
	return list
}

func runtimeConf(id, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0"}
}

func (k *kernelNode) add(conf, id, netns string) (*current.Result, error) {
	k.t.Helper()
	var r types.Result
	err := k.host.Do(func() (err error) {
		r, err = k.cni.AddNetworkList(context.Background(), k.list(conf), runtimeConf(id, netns))
		return err
	})
	if err != nil {
		return nil, err
	}
	return current.GetResult(r)
}

func (k *kernelNode) mustAdd(conf, id, netns string) *current.Result {
	k.t.Helper()
	r, err := k.add(conf, id, netns)
	if err != nil {
		k.t.Fatalf("ADD %s: %v", id, err)
	}
	return r
}

func (k *kernelNode) check(conf, id, netns string) error {
	return k.host.Do(func() error {
		return k.cni.CheckNetworkList(context.Background(), k.list(conf), runtimeConf(id, netns))
	})
}

func (k *kernelNode) del(conf, id, netns string) error {
	return k.host.Do(func() error {
		return k.cni.DelNetworkList(context.Background(), k.list(conf), runtimeConf(id, netns))
	})
}

func (k *kernelNode) mustDel(conf, id, netns string) {
	k.t.Helper()
	if err := k.del(conf, id, netns); err != nil {
		k.t.Errorf("DEL %s: %v", id, err)
	}
}

// veths returns the node's veth devices.
func (k *kernelNode) veths() []string {
	k.t.Helper()
	links, err := k.host.Conn(k.t).Links(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if strings.HasPrefix(l.Name, "veth") {
			names = append(names, l.Name)
		}
	}
	return names
}

// leases returns the owners of the leases of network "net".
func (k *kernelNode) leases() []string {
	k.t.Helper()
	store, err := filestore.Open(filepath.Join(k.dataDir, "net"), filestore.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	defer store.Close()
	a, err := ipam.NewPodAllocator(store, ipam.PodConfig{RangeSets: [][]ipam.Range{{{Subnet: anySubnet}}}})
	if err != nil {
		k.t.Fatal(err)
	}
	leases, err := a.Leases(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	var owners []string
	for _, l := range leases {
		owners = append(owners, l.Owner.String())
	}
	return owners
}

// wantNothing looks that no pod has left anything.
func (k *kernelNode) wantNothing() {
	k.t.Helper()
	if veths, leases := k.veths(), k.leases(); len(veths)+len(leases) > 0 {
		k.t.Errorf("left: veths %v, leases %v", veths, leases)
	}
}

func address(t testing.TB, r *current.Result, v4 bool) netip.Addr {
	t.Helper()
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		if a = a.Unmap(); a.Is4() == v4 {
			return a
		}
	}
	t.Fatalf("no such address in %v", r.IPs)
	return netip.Addr{}
}

// ping sends one ICMP echo from the namespace and waits for its answer.
func ping(from *rtnltest.Netns, to netip.Addr) error {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	return from.Do(func() error {
		c, err := net.Dial(network, to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		packet := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1, 'p', 'o', 'd', 's'}
		if to.Is4() { // the kernel computes that of ICMPv6
			sum := uint32(0)
			for i := 0; i < len(packet); i += 2 {
				sum += uint32(packet[i])<<8 | uint32(packet[i+1])
			}
			sum = sum>>16 + sum&0xffff
			packet[2], packet[3] = byte(^sum>>8), byte(^sum)
		}
		if _, err := c.Write(packet); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		for buf := make([]byte, 256); ; {
			n, _, err := c.(*net.IPConn).ReadFrom(buf) // unlike Read it takes the IPv4 header off
			if err != nil {
				return fmt.Errorf("ping %s: %w", to, err)
			}
			if n >= 8 && buf[0] == reply && buf[4] == 0x12 {
				return nil
			}
		}
	})
}

func TestKernelLifecycle(t *testing.T) {
	k := newKernelNode(t)
	pods := []*rtnltest.Netns{rtnltest.NewNetns(t), rtnltest.NewNetns(t)}
	var results []*current.Result
	for i, pod := range pods {
		results = append(results, k.mustAdd(kernelConf, fmt.Sprintf("c%d", i), pod.Path()))
		for j := range i { // at once, both ways
			for _, v4 := range []bool{true, false} {
				if err := errors.Join(ping(pod, address(t, results[j], v4)), ping(pods[j], address(t, results[i], v4))); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for _, gw := range []string{"10.244.1.1", "fd00:244:0:1::1"} {
		if err := ping(pods[0], netip.MustParseAddr(gw)); err != nil {
			t.Errorf("gateway: %v", err)
		}
	}
	if _, err := k.add(kernelConf, "c0", pods[0].Path()); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("second ADD: %v, want one that names the interface", err)
	}
	if err := k.check(kernelConf, "c0", pods[0].Path()); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := pods[0].Do(func() error { return exec.Command("ip", "addr", "flush", "dev", "eth0", "scope", "global").Run() }); err != nil {
		t.Fatal(err)
	}
	if err := k.check(kernelConf, "c0", pods[0].Path()); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("CHECK of a pod without addresses: %v", err)
	}
	if err := k.status(kernelConf); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	for range 2 {
		k.mustDel(kernelConf, "c0", pods[0].Path())
	}
	if err := ping(pods[1], netip.MustParseAddr("10.244.1.1")); err != nil {
		t.Errorf("the other pod suffers: %v", err)
	}
	k.mustDel(kernelConf, "c1", "")
	k.wantNothing()
}

func (k *kernelNode) status(conf string) error {
	return k.host.Do(func() error { return k.cni.GetStatusNetworkList(context.Background(), k.list(conf)) })
}

func (k *kernelNode) gc(conf string, valid ...types.GCAttachment) error {
	return k.host.Do(func() error {
		return k.cni.GCNetworkList(context.Background(), k.list(conf), &libcni.GCArgs{ValidAttachments: valid})
	})
}

// TestKernelDelOtherNetns hands DEL the path of a namespace that belongs to another container by now.
func TestKernelDelOtherNetns(t *testing.T) {
	k := newKernelNode(t)
	old, reused := rtnltest.NewNetns(t), rtnltest.NewNetns(t)
	k.mustAdd(kernelConf, "old", old.Path())
	r := k.mustAdd(kernelConf, "new", reused.Path())
	k.mustDel(kernelConf, "old", reused.Path())
	if err := k.check(kernelConf, "new", reused.Path()); err != nil {
		t.Errorf("the new owner of the path was touched: %v", err)
	}
	if err := ping(reused, netip.MustParseAddr("10.244.1.1")); err != nil {
		t.Error(err)
	}
	if got := k.leases(); !slices.Equal(got, []string{"new/eth0"}) {
		t.Errorf("leases %v, want that of %v", got, r.IPs[0])
	}
}

func TestKernelGC(t *testing.T) {
	k := newKernelNode(t)
	for i := range 3 {
		k.mustAdd(kernelConf, fmt.Sprintf("c%d", i), rtnltest.NewNetns(t).Path())
	}
	k.cni = containerRuntime(k.dir, t.TempDir()) // a runtime that forgot
	if err := k.gc(kernelConf, types.GCAttachment{ContainerID: "c1", IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if got := k.leases(); !slices.Equal(got, []string{"c1/eth0"}) || len(k.veths()) != 1 {
		t.Errorf("after GC: leases %v, links %v: want those of c1", got, k.veths())
	}
	if err := k.gc(kernelConf); err != nil {
		t.Fatal(err)
	}
	k.wantNothing()
}

func TestKernelVersion(t *testing.T) {
	k := newKernelNode(t)
	info, err := k.cni.GetVersionInfo(context.Background(), "podnet-cni")
	if err != nil || !slices.Contains(info.SupportedVersions(), "1.1.0") || !slices.Contains(info.SupportedVersions(), "0.1.0") {
		t.Errorf("%v, %v", info, err)
	}
}

func TestKernelConcurrentAdds(t *testing.T) {
	const pods = 100
	k := newKernelNode(t)
	var netns []string
	for range pods {
		netns = append(netns, rtnltest.NewNetns(t).Path())
	}
	results := make([]*current.Result, pods)
	errs := make([]error, pods)
	var wait sync.WaitGroup
	for i := range pods {
		wait.Go(func() { results[i], errs[i] = k.add(kernelConf, fmt.Sprintf("c%d", i), netns[i]) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for i, r := range results {
		for _, ip := range r.IPs {
			if other, taken := seen[ip.Address.String()]; taken {
				t.Errorf("pods %d and %d both have %s", i, other, ip.Address.String())
			}
			seen[ip.Address.String()] = i
		}
	}
	for i := range pods {
		wait.Go(func() { errs[i] = k.del(kernelConf, fmt.Sprintf("c%d", i), netns[i]) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	k.wantNothing()
}

// containerRuntime returns libcni with plugins in dir. It is given its executor: the one that it makes by itself is a data race (cni v1.3.1, libcni.ensureExec).
func containerRuntime(dir, cache string) *libcni.CNIConfig {
	runner := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}, PluginDecoder: version.PluginDecoder{}}
	return libcni.NewCNIConfigWithCacheDir([]string{dir}, cache, runner)
}
