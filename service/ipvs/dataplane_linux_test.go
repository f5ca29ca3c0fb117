package ipvs_test

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
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

// TestForeign: virtual servers of others are never touched; where a Service wants its own that is an error, unless they are to be adopted.
func TestForeign(t *testing.T) {
	n := newNode()
	other := ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.MustParseAddrPort("192.168.0.1:8443")}
	backend := netip.MustParseAddrPort("10.244.0.5:8080")
	foreign := []ipvs.Change{
		{Verb: ipvs.AddServer, Key: other, Settings: ipvs.Settings{Scheduler: "wlc"}}, {Verb: ipvs.AddReal, Key: other, Real: netip.MustParseAddrPort("10.9.9.9:1"), Weight: 7},
		{Verb: ipvs.AddServer, Key: webKey, Settings: ipvs.Settings{Scheduler: "wlc"}}, {Verb: ipvs.AddReal, Key: webKey, Real: backend, Weight: 7},
	}
	if errs := n.IPVS.Write(t.Context(), foreign); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	d := ipvs.New(n.Kernel(), ipvs.Options{})
	r := service.New(d, service.Options{})
	for range 2 {
		report, err := r.Apply(t.Context(), world())
		if err == nil || len(report.Failed) != 1 || !strings.Contains(report.Failed[web].Error(), "-t 10.96.0.10:80") {
			t.Errorf("failed: %v, %v", report.Failed, err)
		}
		has(t, n, "-A -t 10.96.0.10:80 -s wlc", "-a -t 10.96.0.10:80 -r 10.244.0.5:8080 -m -w 7", "no -a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1",
			"-a -u 10.96.0.53:53 -r 10.244.0.6:53 -m -w 1", "-a -t 198.51.100.1:80 -r 10.244.0.5:8080 -m -w 1")
	}
	if err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := ipvstest.Dump(t.Context(), n.IPVS), "-A -t 10.96.0.10:80 -s wlc\n-a -t 10.96.0.10:80 -r 10.244.0.5:8080 -m -w 7\n-A -t 192.168.0.1:8443 -s wlc\n-a -t 192.168.0.1:8443 -r 10.9.9.9:1 -m -w 7\n"; got != want {
		t.Errorf("a cleanup left\n%s", got)
	}
	if err := n.IPVS.SetConnections(webKey, backend, 5, 0); err != nil {
		t.Fatal(err)
	}
	d = sync(t, n, ipvs.Options{Adopt: true}, world())
	has(t, n, "-A -t 10.96.0.10:80 -s rr", "-a -t 10.96.0.10:80 -r 10.244.0.5:8080 -m -w 1", "-a -t 192.168.0.1:8443 -r 10.9.9.9:1 -m -w 7")
	if reals, err := n.IPVS.Reals(t.Context(), webKey); err != nil || reals[0].Active != 5 {
		t.Errorf("the adopted server lost its connections: %v, %v", reals, err)
	}
	if err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(t, n, "no -A -t 10.96.0.10:80 -s rr", "-A -t 192.168.0.1:8443 -s wlc")
}

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

// TestLacks: what a kernel does not have is one error that names it.
func TestLacks(t *testing.T) {
	for _, tt := range []struct {
		name    string
		lack    func(*ipvstest.Node)
		options ipvs.Options
		want    []string
	}{
		{"module", func(n *ipvstest.Node) { n.IPVS.Missing = true }, ipvs.Options{}, []string{"modprobe ip_vs", "CONFIG_IP_VS", "nftables"}},
		{"conntrack", func(n *ipvstest.Node) { n.SetSysctl("conntrack", "") }, ipvs.Options{}, []string{"CONFIG_IP_VS_NFCT"}},
		{"scheduler of all", func(n *ipvstest.Node) { n.IPVS.Lacks = []string{"wrr"} }, ipvs.Options{Scheduler: "wrr"}, []string{"ip_vs_wrr", "CONFIG_IP_VS_WRR", "choose another"}},
		{"scheduler to be loaded first", func(n *ipvstest.Node) { n.SetSysctl("lblc_expiration", "") }, ipvs.Options{Scheduler: "lblc"}, []string{"modprobe ip_vs_lblc", "CONFIG_IP_VS_LBLC"}},
		{"unknown scheduler", func(*ipvstest.Node) {}, ipvs.Options{Scheduler: "best"}, []string{"Scheduler", `"best"`, "rr, sed, sh"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode()
			tt.lack(n)
			r := service.New(ipvs.New(n.Kernel(), tt.options), service.Options{})
			report, err := r.Apply(t.Context(), world())
			if err == nil || len(report.Failed) > 0 {
				t.Fatalf("%v, %v; want one error", err, report.Failed)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			if tt.name == "module" && !errors.Is(err, ipvs.ErrNoIPVS) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestServiceScheduler: a Service's own scheduler, and one that is unknown or missing, harm no other Service.
func TestServiceScheduler(t *testing.T) {
	for _, tt := range []struct{ scheduler, want, failed string }{
		{"sh:sh-port", "-A -t 10.96.0.10:80 -s sh -b flag-2", ""},
		{"mh", "-A -t 10.96.0.10:80 -s mh -b flag-2", ""},
		{"best", "no -A -t 10.96.0.10:80 -s rr", `scheduler "best" is unknown`},
		{"lblcr", "-A -t 10.96.0.10:80 -s lblcr", ""},
		{"twos", "no -A -t 10.96.0.10:80 -s twos", "CONFIG_IP_VS_TWOS"},
	} {
		n := newNode()
		c := world()
		c.Services[0].Scheduler = tt.scheduler
		report, err := service.New(ipvs.New(n.Kernel(), ipvs.Options{}), service.Options{}).Apply(t.Context(), c)
		if tt.failed == "" && err != nil || tt.failed != "" && (len(report.Failed) != 1 || !strings.Contains(report.Failed[web].Error(), tt.failed)) {
			t.Errorf("%s: %v", tt.scheduler, err)
		}
		has(t, n, tt.want, "-A -u 10.96.0.53:53 -s rr")
	}
}

// TestFailEach: call after call fails, and the next sync makes it right.
func TestFailEach(t *testing.T) {
	ready := newNode()
	sync(t, ready, ipvs.Options{}, without(drop(world(), dns), web))
	want := ready.Dump()
	for fail := 1; ; fail++ {
		n := newNode()
		d := ipvs.New(n.Kernel(), ipvs.Options{})
		r := service.New(d, service.Options{})
		if _, err := r.Apply(t.Context(), world()); err != nil {
			t.Fatal(err)
		}
		calls := 0
		hit := func() bool { calls++; return calls == fail }
		n.IPVS.Fault = func(c ipvstest.Call) error {
			if hit() && c.Op == "write" {
				return ipvstest.Refuse(c, syscall.ENOMEM)
			} else if calls == fail {
				return syscall.ENOBUFS
			}
			return nil
		}
		n.Tables.Fault = func(nfnltest.Call) error {
			if hit() {
				return syscall.ENOBUFS
			}
			return nil
		}
		n.Host.Fault = func(rtnltest.Call) error {
			if hit() {
				return syscall.ENOBUFS
			}
			return nil
		}
		_, err := r.Apply(t.Context(), without(drop(world(), dns), web))
		n.IPVS.Fault, n.Tables.Fault, n.Host.Fault = nil, nil, nil
		if calls < fail {
			if fail < 20 {
				t.Errorf("only %d calls", calls)
			}
			return
		}
		for range 2 {
			if _, err := r.Apply(t.Context(), without(drop(world(), dns), web)); err != nil {
				t.Fatalf("call %d failed (%v), and then: %v", fail, err, err)
			}
		}
		if diff := cmp.Diff(want, n.Dump()); diff != "" {
			t.Fatalf("call %d failed (%v), and then it is (-want +got):\n%s", fail, err, diff)
		}
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
