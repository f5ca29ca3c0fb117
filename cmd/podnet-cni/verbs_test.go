package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq/masqtest"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// node is a machine of fakes.
type node struct {
	t      *testing.T
	kernel *rtnltest.Kernel
	masq   *masqtest.Kernel
	stores map[string]*ipam.MemoryStore
	full   error // what the store says to a write
}

func newNode(t *testing.T) *node {
	n := &node{t: t, kernel: rtnltest.NewKernel(), masq: &masqtest.Kernel{}, stores: map[string]*ipam.MemoryStore{}}
	n.kernel.Netns("node")
	n.kernel.Netns("pod1")
	n.kernel.Netns("pod2")
	return n
}

func (n *node) machine() machine {
	return machine{
		host: func() (kernel, error) { return n.kernel.Netns("node"), nil },
		pod:  func(path string) (kernel, error) { return n.kernel.Netns(path), nil },
		masq: n.masq,
		store: func(dir string) (ipam.Store, error) {
			if n.stores[dir] == nil {
				n.stores[dir] = ipam.NewMemoryStore()
			}
			return failingStore{n.stores[dir], n}, nil
		},
		peers: func(dataDir string) ([]string, error) {
			var names []string
			for dir := range n.stores {
				names = append(names, filepath.Base(dir))
			}
			return names, nil
		},
		noState: func(dir string) (bool, error) { return n.stores[dir] == nil, nil },
		lock:    func(context.Context, string, string) (io.Closer, error) { return io.NopCloser(nil), nil },
		isNetns: func(path string) error {
			if strings.Contains(path, "gone") {
				return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
			}
			return nil
		},
		isOwn: func(path string) bool { return path == "/run/netns/node" },
	}
}

// failingStore refuses writes while node.full is set.
type failingStore struct {
	*ipam.MemoryStore
	node *node
}

func (s failingStore) Update(ctx context.Context, fn func(ipam.Tx) error) error {
	if s.node.full != nil {
		return s.node.full
	}
	return s.MemoryStore.Update(ctx, fn)
}

// run runs a verb and returns the error that it printed.
func (n *node) run(command, id, pod, conf string) (string, *types.Error) {
	n.t.Helper()
	p := plugin{machine: n.machine()}
	env := with(call(command), "CNI_CONTAINERID", id, "CNI_NETNS", "/run/netns/"+pod, "CNI_NETNS_OVERRIDE", "")
	if pod == "" {
		env["CNI_NETNS"] = ""
	}
	status, out, _ := runProcess(env, conf, p.verbs())
	if status != 0 {
		return out, parseError(n.t, out)
	}
	return out, nil
}

func (n *node) must(command, id, pod, conf string) string {
	n.t.Helper()
	out, err := n.run(command, id, pod, conf)
	if err != nil {
		n.t.Fatalf("%s %s: code %d: %v", command, id, err.Code, err)
	}
	return out
}

// state prints what there is on the node: links, leases, rules.
func (n *node) state() string {
	n.t.Helper()
	var lines []string
	links, err := n.kernel.Netns("node").Links(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, l := range links {
		if l.Name != "lo" {
			lines = append(lines, fmt.Sprintf("link %s master %q alias %q", l.Name, l.Master, l.Alias))
		}
	}
	for dir := range n.stores {
		p := plugin{machine: n.machine()}
		i := strings.LastIndexByte(dir, '/')
		a, err := p.leases(dir[:i], dir[i+1:])
		if err != nil {
			n.t.Fatal(err)
		}
		leases, err := a.Leases(context.Background())
		if err != nil {
			n.t.Fatal(err)
		}
		for _, l := range leases {
			lines = append(lines, fmt.Sprintf("lease %s %v", l.Owner, l.Addresses[0].Prefix.Addr()))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const dualConf = `{"cniVersion":"1.1.0","name":"net","type":"podnet-cni","isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,"mtu":1450,
"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:0:1::/64"}]],"routes":[{"dst":"192.0.2.0/24","mtu":1400,"priority":5}]},
"dns":{"nameservers":["10.96.0.10"]}}`

// withPrev returns conf with a previous result.
func withPrev(t *testing.T, conf, prev string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(conf), &m); err != nil {
		t.Fatal(err)
	}
	var r any
	if err := json.Unmarshal([]byte(prev), &r); err != nil {
		t.Fatal(err)
	}
	m["prevResult"] = r
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestAddCheckDel(t *testing.T) {
	n := newNode(t)
	empty := n.state()
	out := n.must("ADD", "c1", "pod1", dualConf)
	golden(t, "result/dual.json", out+"\n")
	n.must("CHECK", "c1", "pod1", withPrev(t, dualConf, out))
	n.must("ADD", "c2", "pod2", dualConf)
	if writes := n.masq.Writes(); writes != 2 {
		t.Errorf("%d writes of rules for two pods, want 2: one per family", writes)
	}
	for _, pod := range []string{"pod1", "", "gone"} { // a netns as it was, none, a path to nothing
		n.must("DEL", "c1", pod, dualConf)
	}
	n.must("DEL", "c2", "pod1", dualConf) // the path is another's by now
	n.must("DEL", "never", "", dualConf)
	if diff := cmp.Diff(strings.TrimSpace(empty+"\n"+`link cni0 master "" alias "podnet:bridge"`), n.state()); diff != "" {
		t.Errorf("left after DEL (-want +got):\n%s", diff)
	}
}

func TestDelNeedsLittle(t *testing.T) {
	n := newNode(t)
	n.must("ADD", "c1", "pod1", dualConf)
	// What was valid at ADD is not any more, and the subnet file is gone.
	broken := `{"cniVersion":"1.1.0","name":"net","subnetFile":"/nonexistent","vlan":5,"mtu":7,"ipam":{"ranges":[[{"subnet":"x"}]]}}`
	n.must("DEL", "c1", "", broken)
	if s := n.state(); strings.Contains(s, "lease") || strings.Contains(s, "veth") {
		t.Errorf("left:\n%s", s)
	}
	newNode(t).must("DEL", "c1", "pod1", dualConf) // on a node that never saw an ADD
}

func TestAddRefuses(t *testing.T) {
	n := newNode(t)
	first := n.must("ADD", "c1", "pod1", dualConf)
	before := n.state()
	for _, tc := range []struct {
		name, id, pod, conf string
		code                uint
		want                string
	}{
		{"the same again", "c1", "pod1", dualConf, codeExists, `CNI_IFNAME "eth0": exists already in /run/netns/pod1`},
		{"interface of another", "c2", "pod1", dualConf, codeExists, `CNI_IFNAME "eth0": exists already in /run/netns/pod1`},
		{"no such namespace", "c2", "gone", dualConf, 3, `CNI_NETNS "/run/netns/gone": does not exist`},
		{"own namespace", "c2", "node", dualConf, 8, "plugin's netns and netns from CNI_NETNS should not be the same"},
		{"taken address", "c2", "pod2", strings.Replace(dualConf, `"ipam"`, `"runtimeConfig":{"ips":["10.244.1.2"]},"ipam"`, 1), 11, "address 10.244.1.2 is in use by c1/eth0"},
		{"gateway unreachable", "c2", "pod2", strings.Replace(dualConf, `"dst":"192.0.2.0/24"`, `"dst":"192.0.2.0/24","gw":"198.51.100.1"`, 1), 7, "Gateway 198.51.100.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := n.run("ADD", tc.id, tc.pod, tc.conf)
			if err == nil || err.Code != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want code %d, %q", err, tc.code, tc.want)
			}
			if diff := cmp.Diff(before, n.state()); diff != "" {
				t.Errorf("state changed (-before +after):\n%s", diff)
			}
		})
	}
	n.must("CHECK", "c1", "pod1", withPrev(t, dualConf, first))
}

// TestTwoNetworksOneBridge gives the bridge of one network to another one: it would take the first one's gateway away.
func TestTwoNetworksOneBridge(t *testing.T) {
	n := newNode(t)
	first := n.must("ADD", "c1", "pod1", dualConf)
	other := strings.NewReplacer(`"net"`, `"other"`, "10.244.1.0/24", "10.9.9.0/24", "fd00:244:0:1::", "fd00:9::").Replace(dualConf)
	before := n.state()
	_, err := n.run("ADD", "c2", "pod2", other)
	if want := `bridge "cni0": has address 10.244.1.1/24, which pods of network "net" use: want another bridge, or forceAddress`; err == nil || err.Code != 7 || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
	n.must("CHECK", "c1", "pod1", withPrev(t, dualConf, first))
	n.must("ADD", "c2", "pod2", strings.Replace(other, `"ipam"`, `"bridge":"cni1","ipam"`, 1))
	n.must("DEL", "c2", "pod2", other)
	n.must("DEL", "c1", "pod1", dualConf)
	n.must("ADD", "c2", "pod2", other) // nobody uses the old address any more
}

func TestAddExhausted(t *testing.T) {
	n := newNode(t)
	conf := `{"cniVersion":"1.1.0","name":"small","ipam":{"subnet":"10.9.9.0/30"}}`
	n.must("STATUS", "", "", conf)
	n.must("ADD", "c1", "pod1", conf)
	if _, err := n.run("ADD", "c2", "pod2", conf); err == nil || err.Code != 11 || !strings.Contains(err.Error(), "exhausted: 1 of 1 in use") {
		t.Errorf("error %v, want code 11 with the figures of the range", err)
	}
	if _, err := n.run("STATUS", "", "", conf); err == nil || err.Code != 50 || !strings.Contains(err.Error(), "1 of 1 addresses in use") {
		t.Errorf("STATUS %v, want code 50", err)
	}
	n.must("DEL", "c1", "pod1", conf)
	n.must("ADD", "c2", "pod2", conf)
}

// TestAddFailsAnywhere refuses one system call of ADD after the other, and looks that nothing of the pod is left.
func TestAddFailsAnywhere(t *testing.T) {
	failEach(t, func(n *node, fail func(at int) (reached func() bool)) bool {
		n.must("ADD", "c1", "pod1", dualConf)
		before := n.state()
		for at := 1; ; at++ {
			reached := fail(at)
			_, err := n.run("ADD", "c2", "pod2", dualConf)
			n.kernel.Fault = nil
			if !reached() {
				return err == nil && at > 10
			}
			if err == nil {
				n.must("DEL", "c2", "pod2", dualConf) // the call was one that ADD can do without
			}
			if diff := cmp.Diff(before, n.state()); diff != "" {
				n.t.Fatalf("call %d refused, ADD says %v: state (-before +after):\n%s", at, err, diff)
			}
		}
	})
}

// TestKilledAnywhere lets the process die at one system call of ADD after the other: no later call has an effect, not even the clean-up. DEL
// then leaves nothing.
func TestKilledAnywhere(t *testing.T) {
	for _, command := range []string{"ADD", "DEL"} {
		t.Run(command, func(t *testing.T) {
			n := newNode(t)
			n.must("ADD", "c1", "pod1", dualConf)
			before := n.state()
			for at := 1; ; at++ {
				if command == "DEL" {
					n.must("ADD", "c2", "pod2", dualConf)
				}
				calls := 0
				n.kernel.Fault = func(rtnltest.Call) error {
					if calls++; calls >= at {
						return syscall.EINTR
					}
					return nil
				}
				_, err := n.run(command, "c2", "pod2", dualConf)
				n.kernel.Fault = nil
				if err == nil && calls < at {
					break
				}
				n.must("DEL", "c2", "", dualConf)
				if diff := cmp.Diff(before, n.state()); diff != "" {
					t.Fatalf("killed at call %d: state after DEL (-before +after):\n%s", at, diff)
				}
			}
		})
	}
}

func failEach(t *testing.T, body func(n *node, fail func(at int) func() bool) bool) {
	t.Helper()
	n := newNode(t)
	whole := body(n, func(at int) func() bool {
		calls := 0
		n.kernel.Fault = func(rtnltest.Call) error {
			if calls++; calls == at {
				return syscall.EPERM
			}
			return nil
		}
		return func() bool { return calls >= at }
	})
	if !whole {
		t.Error("ADD without a fault failed, or made too few calls to be one")
	}
}

// TestAddWithoutRules refuses the masquerade rules: a pod that could not reach the outside is none.
func TestAddWithoutRules(t *testing.T) {
	n := newNode(t)
	n.masq.Fault(func(c masqtest.Call) error {
		if c.Method == "Set" {
			return syscall.EPERM
		}
		return nil
	})
	if _, err := n.run("ADD", "c1", "pod1", dualConf); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
		t.Errorf("ADD: %v, want the refusal", err)
	}
	if diff := cmp.Diff(`link cni0 master "" alias "podnet:bridge"`, n.state()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	n.masq.Fault(nil)
	n.must("ADD", "c1", "pod1", dualConf)
}

func TestFullDisk(t *testing.T) {
	n := newNode(t)
	n.must("ADD", "c1", "pod1", dualConf)
	before := n.state()
	n.full = &fs.PathError{Op: "write", Path: "leases", Err: syscall.ENOSPC}
	if _, err := n.run("ADD", "c2", "pod2", dualConf); err == nil || err.Code != 5 {
		t.Errorf("ADD on a full disk: %v, want code 5", err)
	}
	n.full = nil
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
}
