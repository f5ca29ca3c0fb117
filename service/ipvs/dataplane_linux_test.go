package ipvs_test

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
	"github.com/podnet/podnet/service/servicetest"
)

var update = flag.Bool("update", false, "write golden files")

var (
	web = service.Name{Namespace: "default", Name: "web"}
	dns = service.Name{Namespace: "kube-system", Name: "dns"}

	webKey = ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.MustParseAddrPort("10.96.0.10:80")}
	edge   = ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.MustParseAddrPort("198.51.100.1:80")}
	dnsKey = ipvs.Key{Family: service.IPv4, Protocol: service.UDP, Addr: netip.MustParseAddrPort("10.96.0.53:53")}
)

// world is two Services on a node: web with all kinds of frontends and the external policy Local, dns with UDP.
func world() service.Config {
	one := func(port uint16, p service.Protocol, addrs ...string) service.Slice {
		s := service.Slice{Ports: []service.EndpointPort{{Name: "p", Protocol: p, Port: port}}}
		for i, a := range addrs {
			s.Endpoints = append(s.Endpoints, service.Endpoint{Addr: netip.MustParseAddr(a), Node: []string{"node-0", "node-1"}[i%2]})
		}
		return s
	}
	return service.Config{
		Node: machine().Node,
		Services: []service.Service{{
			Name: web, ClusterIPs: []netip.Addr{webKey.Addr.Addr()}, LoadBalancerIPs: []netip.Addr{edge.Addr.Addr()}, ExternalPolicy: service.Local,
			SourceRanges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
			Ports:        []service.Port{{Name: "p", Protocol: service.TCP, Port: 80, NodePort: 30080}},
		}, {
			Name: dns, ClusterIPs: []netip.Addr{dnsKey.Addr.Addr()}, Ports: []service.Port{{Name: "p", Protocol: service.UDP, Port: 53}},
		}},
		Endpoints: map[service.Name][]service.Slice{
			web: {one(8080, service.TCP, "10.244.0.5", "10.244.1.5")},
			dns: {one(53, service.UDP, "10.244.0.6", "10.244.1.6")},
		},
	}
}

func machine() servicetest.Machine {
	m := servicetest.Machine{Node: service.Node{
		Name: "node-0", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.1")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		LocalPods: service.LocalPods{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}},
	}}
	m.Local = m.Addrs
	return m
}

func newNode() *ipvstest.Node {
	n := ipvstest.NewNode()
	n.SetMachine(machine())
	return n
}

// sync applies a whole state with a new Reconciler, as after a restart, and wants every Service in place.
func sync(t testing.TB, n *ipvstest.Node, o ipvs.Options, c service.Config) *ipvs.Dataplane {
	t.Helper()
	d := ipvs.New(n.Kernel(), o)
	if _, err := service.New(d, service.Options{}).Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return d
}

// without removes the last endpoint of a Service.
func without(c service.Config, n service.Name) service.Config {
	s := c.Endpoints[n][0]
	s.Endpoints = s.Endpoints[:len(s.Endpoints)-1]
	c.Endpoints[n][0] = s
	return c
}

func drop(c service.Config, n service.Name) service.Config {
	c.Services = slices.DeleteFunc(c.Services, func(s service.Service) bool { return s.Name == n })
	delete(c.Endpoints, n)
	return c
}

func has(t testing.TB, n *ipvstest.Node, lines ...string) {
	t.Helper()
	dump := "\n" + ipvstest.Dump(t.Context(), n.IPVS)
	for _, l := range lines {
		l, lacks := strings.CutPrefix(l, "no ")
		if strings.Contains(dump, "\n"+l+"\n") == lacks {
			t.Errorf("want %q %v in:%s", l, !lacks, dump)
		}
	}
}

func TestGolden(t *testing.T) {
	n := newNode()
	sync(t, n, ipvs.Options{}, world())
	path := filepath.Join("testdata", "world.golden")
	got := n.Dump()
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
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStrays: other ports of addresses that are local for a Service are refused, though the node listens there (kubernetes#72236); addresses of the node are its own.
func TestStrays(t *testing.T) {
	n := newNode()
	sync(t, n, ipvs.Options{}, world())
	for _, tt := range []struct{ from, to, in, want string }{
		{"203.0.113.9", "198.51.100.1", "eth0", "REJECT"},
		{"203.0.113.9", "10.96.0.10", "eth0", "REJECT"},
		{"10.244.0.9", "10.96.0.10", "cni0", "REJECT"},
		{"192.168.0.1", "198.51.100.1", "", "REJECT"},
		{"203.0.113.9", "10.96.77.77", "eth0", "DROP"},
		{"192.168.0.1", "10.96.77.77", "", "DROP"},
		{"203.0.113.9", "192.168.0.1", "eth0", "pass"},
		{"203.0.113.9", "10.244.0.5", "eth0", "pass"},
	} {
		got, err := n.Lookup(servicetest.Packet{From: netip.MustParseAddr(tt.from), To: netip.MustParseAddr(tt.to), In: tt.in, Port: 22, Protocol: service.TCP})
		if err != nil || got.String() != tt.want {
			t.Errorf("%s -> %s: %s, %v; want %s", tt.from, tt.to, got, err, tt.want)
		}
	}
}

// TestShield: a portmap that takes everything local for its own does not get packets to Services.
func TestShield(t *testing.T) {
	n := newNode()
	sync(t, n, ipvs.Options{}, world())
	before := n.Dump()
	hostPort(t, n)
	for _, from := range []struct{ addr, in string }{{"10.244.0.9", "cni0"}, {"192.168.0.1", ""}} {
		got, err := n.Lookup(servicetest.Packet{From: netip.MustParseAddr(from.addr), To: webKey.Addr.Addr(), In: from.in, Port: 80, Protocol: service.TCP})
		if err != nil || !strings.HasPrefix(got.String(), "10.244.0.5:8080") {
			t.Errorf("from %s: %s, %v", from.addr, got, err)
		}
	}
	if !strings.Contains(n.Dump(), before[:100]) {
		t.Error("the portmap's table changed ours")
	}
}

// TestWatch: foreign changes of virtual servers are told within CheckPeriod, those of tables at once; addresses are followed, drains end.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		d := sync(t, n, ipvs.Options{}, world())
		ctx, cancel := context.WithCancel(t.Context())
		told := 0
		ended := make(chan error, 1)
		go func() { ended <- d.Watch(ctx, func() { told++ }) }()
		within := func(what string, wait time.Duration, want bool) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if (told > 0) != want {
				t.Errorf("%s: told %d times", what, told)
			}
			told = 0
		}
		within("the first look", 0, true)
		within("nothing happens", time.Minute, false)
		if errs := n.IPVS.Write(ctx, []ipvs.Change{{Verb: ipvs.SetReal, Key: webKey, Real: netip.MustParseAddrPort("10.244.0.5:8080"), Weight: 5}}); errs != nil {
			t.Fatal(errs)
		}
		within("a weight changes", 10*time.Second, true)
		sync(t, n, ipvs.Options{}, world()) // by another process
		within("it is right again", 30*time.Second, false)
		var tx nfnl.Transaction
		tx.DeleteTable(nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service-ipvs"})
		if err := n.Tables.Open().Commit(ctx, &tx); err != nil {
			t.Fatal(err)
		}
		within("the table goes", 0, true)
		d2 := service.New(d, service.Options{})
		if _, err := d2.Apply(ctx, world()); err != nil {
			t.Fatal(err)
		}
		m := machine()
		m.Local = append(slices.Clone(m.Local), edge.Addr.Addr())
		n.SetMachine(m)
		within("a device gets the load balancer's address", 0, false)
		if strings.Contains(n.Dump(), "route local 198.51.100.1/32") {
			t.Error("the address of a device is made local by a route")
		}
		n.SetMachine(machine())
		within("and loses it", 0, false)
		if !strings.Contains(n.Dump(), "route local 198.51.100.1/32") {
			t.Error("the address is not made local")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestAddresses: what the node sends from, and the NodePorts of Services with affinity, follow its addresses.
func TestAddresses(t *testing.T) {
	n := newNode()
	c := world()
	c.Services[0].Affinity = time.Hour
	d := sync(t, n, ipvs.Options{}, c)
	has(t, n, "-A -t 192.168.0.1:30080 -s rr -p 3600", "no -A -t 192.168.5.5:30080 -s rr -p 3600")
	m := machine()
	m.Local = []netip.Addr{netip.MustParseAddr("192.168.5.5")}
	n.SetMachine(m)
	if failed, err := d.Refresh(t.Context()); failed || err != nil {
		t.Fatal(failed, err)
	}
	has(t, n, "-A -t 192.168.5.5:30080 -s rr -p 3600", "no -A -t 192.168.0.1:30080 -s rr -p 3600")
	if !strings.Contains(n.Dump(), "route local 10.96.0.0/16 dev lo table 255 proto 114 scope host src 192.168.5.5") {
		t.Errorf("the source is another:\n%s", n.Dump())
	}
}

// TestInstances: two dataplanes on one node do not see each other.
func TestInstances(t *testing.T) {
	n := newNode()
	a := sync(t, n, ipvs.Options{}, drop(world(), dns))
	b := sync(t, n, ipvs.Options{Name: "b", Protocol: 200}, drop(world(), web))
	has(t, n, "-A -t 10.96.0.10:80 -s rr", "-A -u 10.96.0.53:53 -s rr")
	if err := a.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(t, n, "no -A -t 10.96.0.10:80 -s rr", "-A -u 10.96.0.53:53 -s rr")
	if err := b.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := n.Dump(), newNode().Dump(); got != want {
		t.Errorf("left:\n%s", got)
	}
}

// TestCleanupLeaves: a virtual server that somebody else has taken over keeps working; everything else goes.
func TestCleanupLeaves(t *testing.T) {
	n := newNode()
	taken := ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.MustParseAddrPort("10.96.0.10:80")}
	d := sync(t, n, ipvs.Options{Leave: func(k ipvs.Key) bool { return k == taken }}, world())
	if err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := strings.Split(strings.TrimSpace(n.Dump()), "\n")
	for _, line := range strings.Split(strings.TrimSpace(newNode().Dump()), "\n") {
		left = slices.DeleteFunc(left, func(l string) bool { return l == line })
	}
	if len(left) < 2 || left[0] != "-A -t 10.96.0.10:80 -s rr" || slices.ContainsFunc(left[1:], func(l string) bool { return !strings.HasPrefix(l, "-a -t 10.96.0.10:80 ") }) {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

// hostPort adds what the portmap plugin does: everything to a local address and port 80 goes to a pod.
func hostPort(t testing.TB, n *ipvstest.Node) {
	t.Helper()
	var tx nfnl.Transaction
	table := nfnl.Table{Family: nfnl.IPv4, Name: "portmap"}
	tx.AddTable(table)
	for name, hook := range map[string]nfnl.Hook{"prerouting": nfnl.Prerouting, "output": nfnl.Output} {
		tx.AddChain(table, nfnl.Chain{Name: name, Type: "nat", Hook: hook, Priority: -100})
		tx.AddRule(table, nfnl.Rule{Chain: name, Exprs: portmapRule()})
	}
	if err := n.Tables.Open().Commit(t.Context(), &tx); err != nil {
		t.Fatal(err)
	}
}
