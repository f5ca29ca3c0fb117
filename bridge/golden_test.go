package bridge_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
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

// must writes to the fake what a plan in text says: the work of others.
func must(t *testing.T, n *rtnltest.FakeNetns, text string) {
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

var dual = bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/24", "fd00:1::1/64"), MTU: 1450}

// states are kernels that Apply may meet. Each has a golden file with the state before, the plan and the state after.
var states = []struct {
	name   string
	before []bridge.Config // what podnet made earlier
	others string          // what others did, after that
	want   bridge.Config
	err    string
}{
	{name: "new", want: dual},
	{name: "new IPv4 only", want: bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/24")}},
	{name: "new with everything given", want: bridge.Config{Name: "br-pods", Gateways: prefixes("10.0.0.1/24", "10.0.1.1/24"), MAC: rtnl.MAC{2, 1, 2, 3, 4, 5}, MTU: 9000}},
	{name: "new switch", want: bridge.Config{Name: "br-lan", MAC: rtnl.MAC{2, 1, 2, 3, 4, 5}}},
	{name: "router already", others: "sysctl -w net/ipv4/ip_forward=1\nsysctl -w net/ipv6/conf/all/forwarding=1\nsysctl -w net/ipv6/conf/default/accept_ra=0", want: dual},
	{name: "IPv6 disabled by default", others: "sysctl -w net/ipv6/conf/default/disable_ipv6=1", want: dual},
	{name: "drifted", before: []bridge.Config{dual}, want: dual,
		others: "link set cni0 mtu 1500 address 02:99:99:99:99:99 down\naddr del 10.244.1.1/24 dev cni0\naddr add 10.9.9.9/16 dev cni0\nsysctl -w net/ipv6/conf/cni0/accept_ra=1\nsysctl -w net/ipv4/ip_forward=0\nsysctl -w net/ipv4/conf/cni0/forwarding=0"},
	{name: "node moved to another cluster", before: []bridge.Config{dual}, want: bridge.Config{Name: "cni0", Gateways: prefixes("10.32.5.1/24", "fd00:5::1/64"), MTU: 1450}},
	{name: "subnet grew", before: []bridge.Config{dual}, want: bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/23", "fd00:1::1/64"), MTU: 1450}},
	{name: "gateway moved within its subnet", before: []bridge.Config{dual}, want: bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.254/24", "fd00:1::1/64"), MTU: 1450}},
	{name: "family left", before: []bridge.Config{dual}, want: bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/24"), MTU: 1450}},
	{name: "killed before the alias", others: "link add cni0 up address " + dual.HardwareAddr().String() + " type bridge", want: dual},
	{name: "adopted", others: "link add cni0 mtu 1400 address 02:77:77:77:77:77 type bridge\naddr add 10.244.1.1/24 dev cni0\naddr add fd00:9::1/64 dev cni0 nodad", want: dual},
	{name: "adopted with an address in the way", others: "link add cni0 up type bridge\naddr add 10.42.0.1/24 dev cni0", want: dual,
		err: "bridge cni0: address 10.42.0.1/24, which podnet did not set, is in the way of gateway 10.244.1.1/24: remove it or set ForceAddress"},
	{name: "adopted with an IPv6 subnet in the way", others: "link add cni0 up type bridge\naddr add fd00:1::7/48 dev cni0 nodad", want: dual,
		err: "bridge cni0: address fd00:1::7/48, which podnet did not set, is in the way of gateway fd00:1::1/64"},
	{name: "adopted by force", others: "link add cni0 up type bridge\naddr add 10.42.0.1/24 dev cni0\naddr add fd00:1::7/48 dev cni0 nodad",
		want: bridge.Config{Name: "cni0", Gateways: prefixes("10.244.1.1/24", "fd00:1::1/64"), ForceAddress: true}},
	{name: "not a bridge", others: "link add cni0 type veth peer other", want: dual, err: `bridge: Name "cni0": is a device of kind "veth" already`},
	{name: "cleanup", before: []bridge.Config{dual, {Name: "cni1", Gateways: prefixes("10.3.0.1/24")}}, others: "link add br0 up type bridge\nlink add port master cni0 type veth peer other"},
	{name: "cleanup of nothing", others: "link add br0 up type bridge"},
}

func (s *state) prepare(t *testing.T) *rtnltest.FakeNetns { return s.on(t, rtnltest.NewKernel()) }

type state struct {
	before []bridge.Config
	others string
}

func (s *state) on(t *testing.T, k *rtnltest.Kernel) *rtnltest.FakeNetns {
	t.Helper()
	n := k.Netns("node")
	for _, c := range s.before {
		if _, err := bridge.New(n, bridge.Options{}).Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	must(t, n, s.others)
	return n
}

func TestApply(t *testing.T) {
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			n := (&state{c.before, c.others}).prepare(t)
			before := n.Dump()
			r := bridge.New(n, bridge.Options{})
			planned, planErr := r.Plan(t.Context(), c.want)
			did, err := r.Apply(t.Context(), c.want)
			if c.err != "" {
				if err == nil || planErr == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("Apply = %v, Plan = %v; want %q", err, planErr, c.err)
				}
				if diff := cmp.Diff(before, n.Dump()); diff != "" {
					t.Errorf("a refused Apply changed the kernel:\n%s", diff)
				}
				return
			}
			if err != nil || planErr != nil {
				t.Fatalf("Apply = %v, Plan = %v", err, planErr)
			}
			if diff := cmp.Diff(planned.String(), did.String()); diff != "" {
				t.Errorf("Apply did not what Plan said (-plan +did):\n%s", diff)
			}
			golden(t, c.name, "# before\n"+before+"# plan\n"+did.String()+"# after\n"+n.Dump())
			n.ResetCounts()
			if p, err := r.Apply(t.Context(), c.want); err != nil || !p.Empty() || n.Counts().Changes != 0 {
				t.Errorf("the second Apply did\n%v%v; want nothing", p, err)
			}
		})
	}
}

// TestFailures lets every call fail once; the next Apply must come to the same end.
func TestFailures(t *testing.T) {
	for _, c := range states {
		if c.err != "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			s := &state{c.before, c.others}
			ref := s.prepare(t)
			if _, err := bridge.New(ref, bridge.Options{}).Apply(t.Context(), c.want); err != nil {
				t.Fatal(err)
			}
			rtnltest.FailEach(t, func(t *testing.T, f *rtnltest.Failure) {
				k := rtnltest.NewKernel()
				n := s.on(t, k)
				r := bridge.New(n, bridge.Options{})
				f.Arm(k)
				_, err := r.Apply(t.Context(), c.want)
				k.Fault = nil
				// What depends on a device that was not made fails as if somebody removed it: then Apply looks again by itself, and succeeds.
				if c, ok := f.Hit(); ok && err == nil && n.Dump() != ref.Dump() || !ok && err != nil {
					t.Errorf("%v failed: %v, but Apply = %v", c, ok, err)
				}
				if _, err := r.Apply(t.Context(), c.want); err != nil {
					t.Fatalf("the next Apply: %v", err)
				}
				if diff := cmp.Diff(ref.Dump(), n.Dump()); diff != "" {
					t.Errorf("after a failure and another Apply (-without failure +with):\n%s", diff)
				}
			})
		})
	}
}

// TestSteadyState proves what a pod ADD pays for a bridge that is right: one link, one dump of its addresses, some sysctls, no write.
func TestSteadyState(t *testing.T) {
	n := (&state{before: []bridge.Config{dual}}).prepare(t)
	n.ResetCounts()
	if p, err := bridge.New(n, bridge.Options{}).Apply(t.Context(), dual); err != nil || !p.Empty() {
		t.Fatalf("Apply did\n%v%v; want nothing", p, err)
	}
	if got, want := n.Counts(), (rtnltest.Counts{Reads: 8, Dumps: 1}); got != want {
		t.Errorf("calls %+v; want %+v", got, want)
	}
}

// TestRace lets another process make the bridge, or remove it, at each moment of an Apply.
func TestRace(t *testing.T) {
	ref := (&state{before: []bridge.Config{dual}}).prepare(t)
	for name, other := range map[string]bridge.Config{"made": dual, "removed": {}} {
		t.Run(name, func(t *testing.T) {
			for at, reached := 1, true; reached; at++ {
				k := rtnltest.NewKernel()
				n := k.Netns("node")
				if name == "removed" {
					(&state{before: []bridge.Config{dual}}).on(t, k)
					must(t, n, "addr del 10.244.1.1/24 dev cni0") // something to do
				}
				calls, busy := 0, false
				reached = false
				k.Fault = func(rtnltest.Call) error {
					if busy {
						return nil
					}
					if calls++; calls == at {
						reached, busy = true, true
						_, err := bridge.New(n, bridge.Options{}).Apply(t.Context(), other)
						busy = false
						return err
					}
					return nil
				}
				_, err := bridge.New(n, bridge.Options{}).Apply(t.Context(), dual)
				if err != nil {
					t.Errorf("call %d: %v", at, err)
				}
				if diff := cmp.Diff(ref.Dump(), n.Dump()); reached && name == "made" && diff != "" {
					t.Errorf("call %d (-alone +raced):\n%s", at, diff)
				}
			}
		})
	}
}

// TestRandomMAC proves that two switches without gateway, on two nodes, have two MACs, and keep them.
func TestRandomMAC(t *testing.T) {
	macs := map[rtnl.MAC]bool{}
	want := bridge.Config{Name: "br-lan"}
	for range 2 {
		n := rtnltest.NewKernel().Netns("node")
		r := bridge.New(n, bridge.Options{})
		if _, err := r.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		l, err := n.Link(t.Context(), "br-lan")
		if err != nil {
			t.Fatal(err)
		}
		macs[l.MAC] = true
		if p, err := r.Apply(t.Context(), want); err != nil || !p.Empty() {
			t.Errorf("the second Apply did\n%v%v; want nothing", p, err)
		}
	}
	if len(macs) != 2 {
		t.Errorf("MACs %v; want two", macs)
	}
}
