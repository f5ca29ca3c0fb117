package iptables_test

import (
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
