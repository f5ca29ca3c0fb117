package veth_test

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/veth"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

// scene is a fake kernel with a node that has a bridge, and a pod.
type scene struct {
	kernel    *rtnltest.Kernel
	node, pod *rtnltest.FakeNetns
	owner     veth.Options
}

func newScene(t testing.TB) *scene {
	t.Helper()
	k := rtnltest.NewKernel()
	s := &scene{k, k.Netns("node"), k.Netns("pod"), veth.Options{ContainerID: "c1", Ifname: "eth0", Netns: "/run/netns/pod"}}
	if _, err := bridge.New(s.node, bridge.Options{}).Apply(t.Context(), bridged); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) link() *veth.Reconciler { return veth.New(s.node, s.pod, s.owner) }

func (s *scene) dump() string { return s.kernel.Dump() }

// state is what Apply may meet: what podnet made earlier, then what others did on the node and in the pod.
type state struct {
	before    []veth.Config
	node, pod string
	device    rtnl.Link // on the node
	elsewhere bool      // the pod got another namespace since
}

func (st state) scene(t testing.TB) *scene {
	t.Helper()
	s := newScene(t)
	for _, c := range st.before {
		if _, err := s.link().Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if st.elsewhere {
		s.pod, s.owner.Netns = s.kernel.Netns("pod2"), "/run/netns/pod2"
	}
	if st.device.Name != "" {
		if errs := s.node.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: st.device}}); errs != nil {
			t.Fatal(errs[0])
		}
	}
	must(t, s.node, st.node)
	must(t, s.pod, st.pod)
	return s
}

func must(t testing.TB, n *rtnltest.FakeNetns, text string) {
	t.Helper()
	p, err := rtnltest.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range n.Write(t.Context(), p) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rich uses every field.
// quiet is a pod whose MAC is a function of its address.
func quiet(i int) veth.Config {
	c := config(i)
	c.MAC, c.Quiet = veth.MACFor(c.Addrs[0].Addr()), true
	return c
}

func rich() veth.Config {
	c := config(2)
	c.Hairpin = true
	c.MAC = rtnl.MAC{2, 1, 2, 3, 4, 5}
	c.Routes = append(c.Routes,
		rtnl.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("169.254.1.1"), MTU: 1400, AdvMSS: 1300, Priority: 7},
		rtnl.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Gateway: netip.MustParseAddr("10.244.1.1"), Table: 1000, Src: netip.MustParseAddr("10.244.1.2")},
		rtnl.Route{Dst: netip.MustParsePrefix("169.254.1.1/32"), Scope: rtnl.ScopeLink},
		rtnl.Route{Dst: netip.MustParsePrefix("10.244.1.0/24")}) // the kernel makes it
	return c
}

// withoutAlias is the host end as a process leaves it that was killed between the two messages that make it.
func withoutAlias() rtnl.Link {
	l, pod := veth.New(nil, nil, veth.Options{ContainerID: "c1", Ifname: "eth0"}).Ends(config(2))
	l.Alias = ""
	l.Veth = rtnl.Veth{Peer: pod.Name, PeerNetns: "/run/netns/pod", PeerMAC: pod.MAC}
	return l
}

var (
	host   = veth.HostName("c1", "eth0")
	states = []struct {
		name string
		state
		want veth.Config
		err  string
	}{
		{name: "new", want: config(2)},
		{name: "new IPv4 only", want: veth.Config{Bridge: "cni0", Addrs: prefixes("10.244.1.2/24"), Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.1")}}},
		{name: "new with everything given", want: rich()},
		{name: "new and quiet", want: quiet(2)},
		{name: "new without bridge and addresses", want: veth.Config{MTU: 1400}},
		{name: "pod without IPv6", state: state{pod: "sysctl -w net/ipv6/conf/default/disable_ipv6=1\nsysctl -w net/ipv6/conf/lo/disable_ipv6=1"}, want: config(2)},
		{name: "pod with sysctls of the runtime", state: state{pod: "sysctl -w net/ipv6/conf/default/accept_ra=0\nsysctl -w net/ipv4/conf/default/arp_notify=1"}, want: config(2)},
		{name: "drifted", state: state{before: []veth.Config{rich()},
			node: "link set " + host + " mtu 1500 address 02:99:99:99:99:99 hairpin off down",
			pod:  "addr del fd00:1::2/64 dev eth0\nroute del 10.9.0.0/16 via 169.254.1.1 dev eth0 metric 7\nroute replace 0.0.0.0/0 via 10.244.1.9 dev eth0\nlink set eth0 address 02:99:99:99:99:98\nsysctl -w net/ipv6/conf/eth0/accept_ra=1"}, want: rich()},
		{name: "in another bridge", state: state{before: []veth.Config{rich()}, node: "link add br1 type bridge\nlink set " + host + " master br1"}, want: rich()},
		{name: "down in the pod", state: state{before: []veth.Config{config(2)}, pod: "link set eth0 down"}, want: config(2)},
		{name: "with additions of others", state: state{before: []veth.Config{config(2)}, pod: "addr add 10.244.1.200/32 dev eth0\nroute add 10.7.0.0/16 via 10.244.1.1 dev eth0\nroute replace 0.0.0.0/0 via 10.244.1.1 dev eth0 proto boot"}, want: config(2)},
		{name: "killed before the alias", state: state{device: withoutAlias()}, want: config(2)},
		{name: "stale in another namespace", state: state{before: []veth.Config{config(2)}, elsewhere: true}, want: config(2)},
		{name: "host name taken", state: state{node: "link add " + host + " type veth peer other"}, want: config(2), err: "the device exists already and is not that of container c1, interface eth0"},
		{name: "host name taken by another container", state: state{device: rtnl.Link{Name: host, Kind: rtnl.KindVeth, Alias: "podnet:veth c2 eth0", Veth: rtnl.Veth{Peer: "other"}}}, want: config(2), err: `alias "podnet:veth c2 eth0"`},
		{name: "ifname taken", state: state{pod: "link add eth0 type veth peer other"}, want: config(2), err: "interface eth0 exists already in the pod (/run/netns/pod) and is not the other end"},
		{name: "ifname taken beside a stale end", state: state{before: []veth.Config{config(2)}, elsewhere: true, pod: "link add eth0 type veth peer other"}, want: config(2), err: "interface eth0 exists already in the pod (/run/netns/pod2)"},
		{name: "removal", state: state{before: []veth.Config{config(2)}}},
		{name: "removal of nothing"},
		{name: "removal of a foreign one", state: state{node: "link add " + host + " type veth peer other"}},
	}
)

func TestApply(t *testing.T) {
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			s := c.scene(t)
			before := s.dump()
			planned, planErr := s.link().Plan(t.Context(), c.want)
			did, err := s.link().Apply(t.Context(), c.want)
			if c.err != "" {
				if err == nil || planErr == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("Apply = %v, Plan = %v; want %q", err, planErr, c.err)
				}
				if diff := cmp.Diff(before, s.dump()); diff != "" {
					t.Errorf("a refused Apply changed the kernel:\n%s", diff)
				}
				return
			}
			if err != nil || planErr != nil {
				t.Fatalf("Apply = %v, Plan = %v", err, planErr)
			}
			for line := range strings.Lines(planned.String()) { // an announcement, and IPv6 switched on, may come in addition
				if !strings.Contains(did.String(), line) {
					t.Errorf("Apply did\n%s; planned was also %s", did, line)
				}
			}
			golden(t, c.name, "# before\n"+before+"# plan\n"+did.String()+"# after\n"+s.dump())
			if p, err := s.link().Apply(t.Context(), c.want); err != nil || !p.Empty() {
				t.Errorf("the second Apply did\n%v%v; want nothing", p, err)
			}
			if err := s.link().Check(t.Context(), c.want); err != nil {
				t.Errorf("Check = %v", err)
			}
			if len(c.want.Addrs) > 0 {
				wantPing(t, s, c.want)
			}
		})
	}
}

// wantPing sends a packet through the fake: pod to gateway and gateway to pod, per family.
func wantPing(t *testing.T, s *scene, want veth.Config) {
	t.Helper()
	for _, a := range want.Addrs {
		gw := gateways[0].Addr()
		if a.Addr().Is6() {
			gw = gateways[1].Addr()
		}
		for _, p := range []rtnltest.Packet{{From: s.pod.Name(), Dst: gw}, {From: "node", Dst: a.Addr()}} {
			if trace, err := s.kernel.Walk(p); err != nil {
				t.Errorf("%v\n%v", err, trace)
			}
		}
	}
}

// TestFailures lets every call fail once; the next Apply must come to the same end, or a removal leave nothing.
func TestFailures(t *testing.T) {
	for _, c := range states {
		if c.err != "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			ref := c.scene(t)
			empty := newScene(t).dump()
			if _, err := ref.link().Apply(t.Context(), c.want); err != nil {
				t.Fatal(err)
			}
			run := func(t *testing.T, f *rtnltest.Failure) *scene {
				s := c.scene(t)
				f.Arm(s.kernel)
				_, err := s.link().Apply(t.Context(), c.want)
				s.kernel.Fault = nil
				if call, ok := f.Hit(); ok && err == nil && s.dump() != ref.dump() || !ok && err != nil {
					t.Errorf("%v failed: %v, but Apply = %v", call, ok, err)
				}
				return s
			}
			rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
				s := run(t, f)
				if _, err := s.link().Apply(t.Context(), c.want); err != nil {
					t.Fatalf("the next Apply: %v", err)
				}
				if diff := cmp.Diff(ref.dump(), s.dump()); diff != "" {
					t.Errorf("after a failure and another Apply (-without failure +with):\n%s", diff)
				}
			})
			if c.node+c.pod+c.device.Name != "" || c.elsewhere {
				return
			}
			rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
				s := run(t, f)
				if _, err := veth.New(s.node, nil, s.owner).Apply(t.Context(), veth.Config{}); err != nil {
					t.Fatalf("removal: %v", err)
				}
				if diff := cmp.Diff(empty, s.dump()); diff != "" {
					t.Errorf("after a failure and removal (-never attached +removed):\n%s", diff)
				}
			})
		})
	}
}

// TestRace lets another process do the same, or remove the link, at each moment of an Apply.
func TestRace(t *testing.T) {
	ref := newScene(t)
	if _, err := ref.link().Apply(t.Context(), config(2)); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]veth.Config{"made": config(2), "removed": {}} {
		t.Run(name, func(t *testing.T) {
			for at, reached := 1, true; reached; at++ {
				s := newScene(t)
				calls, busy := 0, false
				reached = false
				s.kernel.Fault = func(rtnltest.Call) error {
					if busy {
						return nil
					}
					if calls++; calls == at {
						reached, busy = true, true
						_, err := s.link().Apply(context.Background(), other)
						busy = false
						return err
					}
					return nil
				}
				_, err := s.link().Apply(t.Context(), config(2))
				s.kernel.Fault = nil
				if err != nil {
					t.Errorf("call %d: %v", at, err)
				}
				if diff := cmp.Diff(ref.dump(), s.dump()); name == "made" && diff != "" {
					t.Errorf("call %d (-alone +raced):\n%s", at, diff)
				}
			}
		})
	}
}

// TestCheck proves that CHECK sees what is missing and nothing else.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		state
		want string // "" = fine
	}{
		{"fine", state{before: []veth.Config{rich()}}, ""},
		{"changed by chained plugins", state{before: []veth.Config{rich()}, node: "link set " + host + " mtu 1400 hairpin off",
			pod: "link set eth0 mtu 1300 address 02:99:99:99:99:99\nsysctl -w net/ipv6/conf/eth0/accept_ra=1\nroute add 10.1.0.0/16 via 10.244.1.1 dev eth0\naddr add 10.1.0.1/32 dev eth0"}, ""},
		{"never made", state{}, "the host end is missing"},
		{"host end of another", state{node: "link add " + host + " type veth peer other"}, "the device is not that of container c1"},
		{"pod end missing", state{before: []veth.Config{rich()}, elsewhere: true}, "interface eth0 is missing in the pod"},
		{"pod end of another", state{before: []veth.Config{rich()}, elsewhere: true, pod: "link add eth0 type veth peer other"}, "interface eth0 in the pod is not the other end"},
		{"address missing", state{before: []veth.Config{rich()}, pod: "addr del fd00:1::2/64 dev eth0"}, "address fd00:1::2/64 is missing on eth0 in the pod"},
		{"route missing", state{before: []veth.Config{rich()}, pod: "route del 10.9.0.0/16 via 169.254.1.1 dev eth0 metric 7"}, "route 10.9.0.0/16 via 169.254.1.1"},
		{"route elsewhere", state{before: []veth.Config{rich()}, pod: "route replace 0.0.0.0/0 via 10.244.1.9 dev eth0"}, "route 0.0.0.0/0 via 10.244.1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.scene(t)
			before := s.dump()
			err := s.link().Check(t.Context(), rich())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Check = %v; want %q", err, c.want)
			}
			if diff := cmp.Diff(before, s.dump()); diff != "" {
				t.Errorf("Check changed the kernel:\n%s", diff)
			}
		})
	}
}

// TestSecondDefaultRoute proves that the default route of another interface is never replaced.
func TestSecondDefaultRoute(t *testing.T) {
	s := state{before: []veth.Config{config(2)}}.scene(t)
	second := veth.New(s.node, s.pod, veth.Options{ContainerID: "c1", Ifname: "net1", Netns: s.owner.Netns})
	want := veth.Config{Bridge: "cni0", Addrs: prefixes("10.244.1.77/24"), Routes: []rtnl.Route{via("0.0.0.0/0", "10.244.1.1")}}
	if _, err := second.Apply(t.Context(), want); err == nil || !strings.Contains(err.Error(), "0.0.0.0/0") {
		t.Errorf("Apply = %v; want an error about the default route", err)
	}
	want.Routes[0].Priority = 100
	if _, err := second.Apply(t.Context(), want); err != nil {
		t.Errorf("with a priority of its own: %v", err)
	}
	if p, err := s.link().Apply(t.Context(), config(2)); err != nil || !p.Empty() {
		t.Errorf("eth0 drifted:\n%v%v", p, err)
	}
}

// TestDADFailed proves that an address that duplicate address detection refused is made again.
func TestDADFailed(t *testing.T) {
	s := state{before: []veth.Config{config(2)}}.scene(t)
	must(t, s.pod, "addr del fd00:1::2/64 dev eth0")
	must(t, s.node, "addr add fd00:1::2/64 dev cni0 nodad")
	must(t, s.pod, "addr add fd00:1::2/64 dev eth0")
	s.kernel.FinishDAD()
	must(t, s.node, "addr del fd00:1::2/64 dev cni0")
	p, err := s.link().Apply(t.Context(), config(2))
	if err != nil || !strings.Contains(p.String(), "pod: addr del fd00:1::2/64 dev eth0\npod: addr add fd00:1::2/64 dev eth0 nodad\n") {
		t.Errorf("Apply did\n%v%v; want the address made again", p, err)
	}
	wantPing(t, s, config(2))
}
