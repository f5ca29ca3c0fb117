package ipvs_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
	"github.com/podnet/podnet/service/servicetest"
)

// TestDrain: a real server that is not wanted keeps its connections, over restarts, and goes with the last of them.
func TestDrain(t *testing.T) {
	n := newNode()
	sync(t, n, ipvs.Options{}, world())
	gone, stays := netip.MustParseAddrPort("10.244.1.5:8080"), netip.MustParseAddrPort("10.244.0.5:8080")
	connect := func(active, inactive uint32, keys ...ipvs.Key) {
		t.Helper()
		for _, k := range keys {
			if err := n.IPVS.SetConnections(k, gone, active, inactive); err != nil {
				t.Fatal(err)
			}
		}
	}
	connect(2, 1, webKey)
	sync(t, n, ipvs.Options{}, without(world(), web))
	has(t, n, "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0", "-a -t 10.96.0.10:80 -r 10.244.0.5:8080 -m -w 1")
	// It comes back and gets clients again; so it does after a restart.
	sync(t, n, ipvs.Options{}, world())
	has(t, n, "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1")
	// The Service goes: no new clients, and its address stays local.
	sync(t, n, ipvs.Options{}, drop(world(), web))
	has(t, n, "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0", "no -a -t 10.96.0.10:80 -r 10.244.0.5:8080 -m -w 0", "no -A -t 198.51.100.1:80 -s rr")
	d := sync(t, n, ipvs.Options{}, drop(world(), web)) // a restart knows that it is ours
	has(t, n, "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0")
	if seen, err := d.Observe(t.Context()); err != nil || seen.Backends != 2 {
		t.Errorf("observed %+v, %v", seen, err)
	}
	connect(0, 1, webKey)
	if err := d.EndDrain(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(t, n, "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0")
	connect(0, 0, webKey)
	if err := d.EndDrain(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(t, n, "no -A -t 10.96.0.10:80 -s rr")
	rest := newNode()
	sync(t, rest, ipvs.Options{}, drop(world(), web))
	if diff := cmp.Diff(rest.Dump(), n.Dump()); diff != "" {
		t.Errorf("it is not as if there never was a Service (-want +got):\n%s", diff)
	}
	_ = stays
}

// TestDrainExternal: the address of a load balancer stays local until the last connection has ended.
func TestDrainExternal(t *testing.T) {
	n := newNode()
	sync(t, n, ipvs.Options{}, world())
	if err := n.IPVS.SetConnections(edge, netip.MustParseAddrPort("10.244.0.5:8080"), 1, 0); err != nil {
		t.Fatal(err)
	}
	d := sync(t, n, ipvs.Options{}, drop(world(), web))
	local := "route local 198.51.100.1/32"
	if !strings.Contains(n.Dump(), local) {
		t.Errorf("the address is not local:\n%s", n.Dump())
	}
	if err := n.IPVS.SetConnections(edge, netip.MustParseAddrPort("10.244.0.5:8080"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.EndDrain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(n.Dump(), local) {
		t.Errorf("the address is still local:\n%s", n.Dump())
	}
}

// TestDrainEnds: UDP goes at once, and MaxDrain ends the rest.
func TestDrainEnds(t *testing.T) {
	n := newNode()
	sync(t, n, ipvs.Options{}, world())
	for k, r := range map[ipvs.Key]string{dnsKey: "10.244.1.6:53", webKey: "10.244.1.5:8080"} {
		if err := n.IPVS.SetConnections(k, netip.MustParseAddrPort(r), 9, 9); err != nil {
			t.Fatal(err)
		}
	}
	sync(t, n, ipvs.Options{MaxDrain: time.Hour}, without(without(world(), web), dns))
	has(t, n, "no -a -u 10.96.0.53:53 -r 10.244.1.6:53 -m -w 0", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0")
	sync(t, n, ipvs.Options{MaxDrain: 1}, without(without(world(), web), dns))
	has(t, n, "no -a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0")
}

// trace records the writes of a node in order: tables, routes, servers.
func trace(n *ipvstest.Node) *[]string {
	var all []string
	n.IPVS.Fault = func(c ipvstest.Call) error {
		if c.Op == "write" {
			all = append(all, strings.Fields(c.Change.String())[0])
		}
		return nil
	}
	n.Tables.Fault = func(c nfnltest.Call) error {
		if c.Op == "commit" {
			all = append(all, "commit")
		}
		return nil
	}
	n.Host.Fault = func(c rtnltest.Call) error {
		if r, ok := c.Change.Object.(rtnl.Route); ok && c.Method == "Write" {
			all = append(all, c.Change.Verb.String()+" "+r.Dst.String())
		}
		return nil
	}
	return &all
}

// TestOrder: what a client needs is there before what leads to it, and goes after it.
func TestOrder(t *testing.T) {
	n := newNode()
	steps := trace(n)
	only := drop(world(), dns)
	sync(t, n, ipvs.Options{}, only)
	want := []string{"commit", "add 10.96.0.0/16", "add 198.51.100.1/32"}
	if got := (*steps)[:min(3, len(*steps))]; !slices.Equal(got, want) || !strings.HasPrefix((*steps)[3], "-A") {
		t.Errorf("first sync: %v", *steps)
	}
	*steps = nil
	sync(t, n, ipvs.Options{}, drop(only, web))
	got := strings.Join(*steps, " ")
	if !strings.HasPrefix(got, "commit commit -e") || !strings.Contains(got, "-D") || !strings.HasSuffix(got, "-D del 198.51.100.1/32 commit") {
		t.Errorf("removal: %s", got)
	}
	*steps = nil
	sync(t, n, ipvs.Options{}, drop(only, web))
	if len(*steps) > 0 {
		t.Errorf("nothing differs and yet: %v", *steps)
	}
}

// TestGrowth: sets that get full are made anew, larger, with all that is in them, also records of what drains.
func TestGrowth(t *testing.T) {
	n := newNode()
	d := ipvs.New(n.Kernel(), ipvs.Options{})
	apply := func(set []service.Program, full bool) service.Result {
		t.Helper()
		r, err := d.Apply(t.Context(), service.Delta{Full: full, Node: benchNode, Set: set})
		if err != nil || len(r.Failed) > 0 {
			t.Fatal(err, r.Failed)
		}
		return r
	}
	all := programs(700, 2)
	apply(all[:250], true)
	drains := ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.AddrPortFrom(all[0].Ports[0].Frontends[0].Addr, 80)}
	if err := n.IPVS.SetConnections(drains, all[0].Ports[0].Cluster[0].Addr, 3, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), service.Delta{Node: benchNode, Delete: []service.Name{all[0].Name}}); err != nil {
		t.Fatal(err)
	}
	for i := 250; i < 700; i += 50 {
		apply(all[i:i+50], false)
	}
	if r := apply(all[1:], true); r.Writes > 0 {
		t.Errorf("%d objects are written again", r.Writes)
	}
	d = ipvs.New(n.Kernel(), ipvs.Options{})
	seen, err := d.Observe(t.Context())
	if err != nil || seen.Frontends != 700 || seen.Backends != 1398 {
		t.Errorf("%+v, %v", seen, err)
	}
	if r := apply(all[1:], true); r.Writes > 0 {
		t.Errorf("%d objects are written after a restart", r.Writes)
	}
	for _, p := range []service.Program{all[1], all[300], all[699]} {
		got, err := n.Lookup(servicetest.Packet{From: netip.MustParseAddr("203.0.113.1"), In: "eth0", To: p.Ports[0].Frontends[0].Addr, Port: 80, Protocol: service.TCP})
		if err != nil || len(got.Targets) != 2 {
			t.Errorf("%s: %s, %v", p.Name, got, err)
		}
	}
	if got := ipvstest.Dump(t.Context(), n.IPVS); !strings.Contains(got, "-m -w 0") {
		t.Error("nothing drains")
	}
}
