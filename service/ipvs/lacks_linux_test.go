package ipvs_test

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
)

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
