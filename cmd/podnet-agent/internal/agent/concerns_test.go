package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/handoff"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/masq/masqtest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/vxlan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fakeNode is a node on the fakes of the library: the real concerns, no privileges.
type fakeNode struct {
	kernel *rtnltest.Kernel
	netns  *rtnltest.FakeNetns
	filter *masqtest.Kernel
	parts  Parts
	source *fakeSource
	dir    string
}

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	k := rtnltest.NewKernel()
	n := &fakeNode{kernel: k, netns: k.Netns("a"), filter: &masqtest.Kernel{}, dir: t.TempDir(), source: &fakeSource{}}
	n.netns.AddUplink("eth0", k.Segment("lan"), netip.MustParsePrefix("192.168.0.1/24"), netip.MustParsePrefix("fd00:192::1/64"))
	k.FinishDAD()
	n.parts = Parts{
		Kernel: n.netns, VXLAN: vxlan.New(n.netns, vxlan.Options{KernelRelease: "6.18.0"}), HostGW: hostgw.New(n.netns, hostgw.Options{}), Masq: masq.New(n.filter, masq.Options{}),
		Files:  handoff.Files{SubnetFile: filepath.Join(n.dir, "subnet.env"), Conflist: filepath.Join(n.dir, "net.d/10-podnet.conflist"), Record: filepath.Join(n.dir, "files.json")},
		List:   handoff.Conflist{Name: "podnet", SubnetFile: filepath.Join(n.dir, "subnet.env"), Bridge: "cni0"},
		IPMasq: true, DiskPatience: time.Minute,
	}
	n.source.set(node.Snapshot{Synced: true, Nodes: []node.Node{
		nodeA(),
		dualNode("b", "10.244.2.0/24", "fd00:244:0:2::/64", "192.168.0.2", "fd00:192::2"),
		dualNode("c", "10.244.3.0/24", "fd00:244:0:3::/64", "192.168.0.3", "fd00:192::3"),
	}})
	return n
}

// agent returns an agent of this node, as one that was just started. Its loop does not run.
func (n *fakeNode) agent(c netconf.Config) *Agent {
	concerns := n.parts.Concerns(c)
	return New(Options{NodeName: "a", Net: c, Resync: time.Second, Source: n.source, Kernel: n.netns, Concerns: concerns, Metrics: NewMetrics("test", Names(concerns)), Logger: slog.New(slog.DiscardHandler)})
}

func (n *fakeNode) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s", n.netns.Dump(), n.filter.Dump())
	for _, name := range []string{"subnet.env", "net.d/10-podnet.conflist"} {
		text, err := os.ReadFile(filepath.Join(n.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n# %s\n%s", name, strings.ReplaceAll(string(text), n.dir, "DIR"))
	}
	return b.String()
}

func wantReady(t *testing.T, a *Agent) {
	t.Helper()
	if ok, why := a.status.ready(); !ok {
		t.Fatalf("not ready: %s", why)
	}
}

// TestBackends goes from backend to backend, each time with a new agent as after a restart, and cleans up at the end.
func TestBackends(t *testing.T) {
	n := newFakeNode(t)
	before := n.netns.Dump()
	for _, backend := range []string{netconf.VXLAN, netconf.HostGW, netconf.Alloc, netconf.VXLAN} {
		a := n.agent(dualStack(backend))
		a.pass(t.Context())
		wantReady(t, a)
		golden(t, backend, n.state(t))
		n.netns.ResetCounts()
		writes := n.filter.Writes()
		a.pass(t.Context())
		if c := n.netns.Counts(); c.Changes != 0 || n.filter.Writes() != writes {
			t.Errorf("%s: a second pass wrote %d objects", backend, c.Changes)
		}
	}
	removed, err := n.parts.Cleanup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) < 5 {
		t.Errorf("removed only %v", removed)
	}
	left := cmp.Diff(withoutSysctls(before), withoutSysctls(n.netns.Dump()))
	if left != "" || n.filter.Dump() != "" {
		t.Errorf("left (-before +after):\n%s%s", left, n.filter.Dump())
	}
	if removed, err := n.parts.Cleanup(t.Context()); err != nil || len(removed) > 0 {
		t.Errorf("second cleanup: %v, %v", removed, err)
	}
}

func withoutSysctls(dump string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(dump, "\n"), func(l string) bool { return strings.HasPrefix(l, "sysctl") }), "\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
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
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestEveryCallFails has each kernel call of the first pass fail once. The pass reports it, writes no conflist on a
// network that does not stand, and the next pass converges to the same state.
func TestEveryCallFails(t *testing.T) {
	want, err := os.ReadFile("testdata/vxlan.golden")
	if err != nil {
		t.Fatal(err)
	}
	rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
		n := newFakeNode(t)
		a := n.agent(dualStack(netconf.VXLAN))
		f.Arm(n.kernel)
		a.pass(t.Context())
		n.kernel.Fault = nil
		ok, why := a.status.ready()
		var reported error
		if !ok {
			reported = errors.New(why)
			if _, err := os.Stat(n.parts.Files.Conflist); err == nil {
				t.Error("the conflist was written though the network does not stand")
			}
		}
		f.Check(t, reported)
		a.pass(t.Context())
		wantReady(t, a)
		if diff := cmp.Diff(string(want), n.state(t)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestRefusals(t *testing.T) {
	bad := &vxlan.PeerError{Peer: "b", Err: errors.New("twice")}
	device := errors.New("no device")
	notes, rest := refusals(errors.Join(bad, errors.Join(device, fmt.Errorf("wrapped: %w", bad))))
	if diff := cmp.Diff([]string{`peer "b": twice`, `wrapped: peer "b": twice`}, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if !errors.Is(rest, device) || strings.Contains(rest.Error(), "twice") {
		t.Errorf("rest: %v", rest)
	}
}

func TestSysctls(t *testing.T) {
	k := newFakeKernel()
	k.sysctl = map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth0/accept_ra": "1"}
	d := Desired{Net: dualStack(netconf.VXLAN), Uplink: rtnl.Link{Name: "eth0"}}
	r := Parts{Kernel: k}.sysctls(context.Background(), d)
	if want := "sysctl -w net/ipv6/conf/eth0/accept_ra=2\nsysctl -w net/ipv6/conf/all/forwarding=1\n"; r.Err != nil || r.Plan() != want {
		t.Errorf("%q, %v, want %q", r.Plan(), r.Err, want)
	}
	if r := (Parts{Kernel: k}).sysctls(context.Background(), d); r.Writes != 0 {
		t.Errorf("second: %s", r.Plan())
	}
	delete(k.sysctl, "net/ipv6/conf/all/forwarding") // a kernel without IPv6
	if r := (Parts{Kernel: k}).sysctls(context.Background(), d); r.Err == nil || !strings.Contains(r.Err.Error(), "net/ipv6/conf/all/forwarding") {
		t.Errorf("without IPv6: %v", r.Err)
	}
}
