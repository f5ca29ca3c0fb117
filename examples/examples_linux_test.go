package examples_test

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// build compiles one example and returns its binary.
func build(t *testing.T, name string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", binary, "./"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}

// TestIPAM needs no privileges.
func TestIPAM(t *testing.T) {
	out, err := exec.Command(build(t, "ipam")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "node-b") {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestKernelExamples runs each example three times in a namespace of its own: it shows a plan, does it, and finds nothing left to do.
func TestKernelExamples(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		shows string // in the plan
	}{
		{"hostgw", []string{"-uplink", "up0"}, "route add 10.244.2.0/24 via 192.168.1.12 dev up0"},
		{"overlay", []string{"-uplink", "up0"}, "podnet.1"},
		{"podlink", nil, "demo0"},
		{"masquerade", nil, "masquerade"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := rtnltest.NewNetns(t)
			args := c.args
			if c.name == "podlink" {
				args = append(args, "-pod", rtnltest.NewNetns(t).Path())
			}
			uplink(t, ns)
			binary := build(t, c.name)
			run := func(args ...string) string {
				t.Helper()
				var out []byte
				err := ns.Do(func() (err error) {
					out, err = exec.Command(binary, args...).CombinedOutput()
					return err
				})
				if err != nil {
					t.Fatalf("%s %v: %v: %s", c.name, args, err, out)
				}
				return string(out)
			}
			if plan := run(args...); !strings.Contains(plan, c.shows) {
				t.Fatalf("plan does not show %q:\n%s", c.shows, plan)
			}
			if c.name == "overlay" {
				return // with -apply it runs until Ctrl-C
			}
			run(append(args, "-apply")...)
			if again := run(args...); again != "" && again != "nothing to do\n" {
				t.Errorf("after -apply there is still a plan:\n%s", again)
			}
		})
	}
}

// uplink gives the namespace the uplink that the examples' flags name.
func uplink(t *testing.T, ns *rtnltest.Netns) {
	t.Helper()
	conn := ns.Conn(t)
	for i, err := range conn.Write(t.Context(), rtnl.Plan{
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "up0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "far0"}}},
		{Verb: rtnl.Set, Object: rtnl.Link{Name: "far0", Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "up0", Prefix: netip.MustParsePrefix("192.168.1.11/24")}},
	}) {
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
}
