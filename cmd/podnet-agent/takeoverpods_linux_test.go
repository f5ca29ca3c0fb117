package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/filestore"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// pluginBinary builds podnet-cni, once.
var pluginBinary = sync.OnceValues(func() (string, error) {
	agent, err := agentBinary() // whose directory TestMain removes
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(agent), "podnet-cni")
	cmd := exec.Command("go", "build", "-o", path, "../podnet-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return path, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// cni calls podnet-cni as the runtime does by the list that the agent has written.
func (f *flannelNode) cni(t *testing.T, verb, container string, netns *rtnltest.Netns) []netip.Addr {
	t.Helper()
	plugin, err := pluginBinary()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.path(f.name, "net.d", "10-podnet.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	conf := list.Plugins[0]
	conf["name"], conf["cniVersion"] = list.Name, list.CNIVersion
	in, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+container, "CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(plugin), "CNI_NETNS="+netns.Path())
	cmd.Stdin = bytes.NewReader(in)
	var out []byte
	if err := f.ns.Do(func() (err error) {
		out, err = cmd.Output()
		return err
	}); err != nil {
		t.Fatalf("%s %s: %v\n%s", verb, container, err, out)
	}
	if verb != "ADD" {
		return nil
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var addrs []netip.Addr
	for _, ip := range result.IPs {
		addrs = append(addrs, ip.Address.Addr())
	}
	return addrs
}

// TestPodsAfterTakeOver makes pods on a node that was taken over, on the bridge that flannel's plugins have made, and removes one that flannel has attached.
func TestPodsAfterTakeOver(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	_, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	bridge, err := a.conn.Link(t.Context(), "cni0")
	if err != nil {
		t.Fatal(err)
	}
	a.start(append(a.own(), "--take-over", "flannel")...)
	a.waitReady()
	seen := map[netip.Addr]string{a.endpoint(false).addr: "flannel's pod", a.endpoint(true).addr: "flannel's pod", netip.MustParseAddr("10.244.1.77"): "a lease that cannot be read"}
	for i := range 3 {
		pod := rtnltest.NewNetns(t)
		addrs := a.cni(t, "ADD", fmt.Sprintf("new%d", i), pod)
		if len(addrs) != 2 {
			t.Fatalf("addresses %v", addrs)
		}
		for _, ip := range addrs {
			if who := seen[ip]; who != "" {
				t.Errorf("%v is that of %s", ip, who)
			}
			seen[ip] = fmt.Sprintf("new%d", i)
			for what, to := range map[string]endpoint{"a pod of this node": a.endpoint(ip.Is6()), "a pod of a node of flannel": b.endpoint(ip.Is6())} {
				p := startProbeBetween(t, endpoint{pod, ip}, to)
				if !p.answers(3) {
					t.Errorf("%v does not reach %s", ip, what)
				}
				p.finish()
			}
		}
	}
	if now, err := a.conn.Link(t.Context(), "cni0"); err != nil || now.MAC != bridge.MAC || now.Index != bridge.Index {
		t.Errorf("the bridge is %v, was %v; %v", now, bridge, err)
	}
	a.cni(t, "DEL", podContainer, a.pod)
	a.cni(t, "DEL", podContainer, a.pod)
	store, err := filestore.Open(a.path(a.name, "leases", "cbr0"), filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Update(t.Context(), func(tx ipam.Tx) error {
		return tx.Records(func(_ int, r ipam.Record) {
			if r.Owner.ContainerID == podContainer && r.Released.IsZero() {
				t.Errorf("the address of a pod that flannel had attached is not given back: %v", r)
			}
		})
	}); err != nil {
		t.Fatal(err)
	}
}
