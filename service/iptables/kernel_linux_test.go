package iptables_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/iptables/iptablestest"
	"github.com/podnet/podnet/service/servicetest"
)

// variants runs a test with both kinds of iptables.
func variants(t *testing.T, test func(t *testing.T, v iptables.Variant)) {
	for _, v := range []iptables.Variant{iptables.Legacy, iptables.NFT} {
		t.Run(string(v), func(t *testing.T) {
			if _, err := exec.LookPath("iptables-" + string(v)); err != nil {
				rtnltest.Lacking(t, err.Error())
			}
			test(t, v)
		})
	}
}

func in(t testing.TB, ns *rtnltest.Netns, command string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		args := strings.Fields(command)
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

func TestKernelContract(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		ns := rtnltest.NewNetns(t)
		iptablestest.Contract(t, &iptables.Tools{Netns: ns.Path(), Variant: v})
	})
}

// TestKernelDataplane is the contract of dataplanes on the running kernel.
func TestKernelDataplane(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		servicetest.Contract(t, func(t testing.TB) servicetest.Kernel {
			ns := rtnltest.NewNetns(t)
			return servicetest.Kernel{
				New: func(testing.TB) service.Dataplane {
					return iptables.New(&iptables.Tools{Netns: ns.Path(), Variant: v}, iptables.Options{Poll: 10 * time.Millisecond})
				},
				Flush: func(t testing.TB) {
					in(t, ns, "iptables-"+string(v)+" -t nat -F")
				},
			}
		})
	})
}

// TestKernelRepair: what a neighbour does to our rules on the running kernel.
func TestKernelRepair(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		repair(t, &iptables.Tools{Netns: rtnltest.NewNetns(t).Path(), Variant: v})
	})
}

func TestKernelForeign(t *testing.T) {
	variants(t, func(t *testing.T, v iptables.Variant) {
		foreign(t, &iptables.Tools{Netns: rtnltest.NewNetns(t).Path(), Variant: v})
	})
}

// TestKernelErrors: what a user without iptables, or without a namespace, reads.
func TestKernelErrors(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	for _, k := range []struct {
		tools *iptables.Tools
		want  string
	}{{&iptables.Tools{Netns: "/nonexistent"}, "/nonexistent"}, {&iptables.Tools{Variant: "other"}, "want legacy, nft or nothing"}} {
		if _, err := iptables.New(k.tools, iptables.Options{}).Observe(t.Context()); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%v, want %s in it", err, k.want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	for _, v := range []iptables.Variant{iptables.Auto, iptables.Legacy, iptables.NFT} {
		d := iptables.New(&iptables.Tools{Netns: ns.Path(), Variant: v}, iptables.Options{})
		if _, err := d.Observe(t.Context()); !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "install the package iptables") {
			t.Errorf("%q: %v", v, err)
		}
		if err := d.Cleanup(t.Context()); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("%q: Cleanup: %v", v, err)
		}
	}
}

// TestKernelDetect: the kubelet's hint decides.
func TestKernelDetect(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	if v, why, err := iptables.Detect(t.Context(), ns.Path()); v != iptables.Auto || err != nil {
		t.Errorf("without a hint: %q, %s, %v", v, why, err)
	}
	for _, v := range []iptables.Variant{iptables.Legacy, iptables.NFT} { // nft, when both are there: 1.24 makes it only where it is used
		in(t, ns, "iptables-"+string(v)+" -t mangle -N KUBE-IPTABLES-HINT")
		if have, why, err := iptables.Detect(t.Context(), ns.Path()); have != v || err != nil {
			t.Errorf("hint in %s: %q, %s, %v", v, have, why, err)
		}
	}
}
