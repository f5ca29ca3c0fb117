package ipvs_test

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/wire"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
	"github.com/podnet/podnet/service/servicetest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// TestContract: what every dataplane keeps, on the fake kernel.
func TestContract(t *testing.T) {
	servicetest.Contract(t, func(t testing.TB) servicetest.Kernel {
		n := ipvstest.NewNode()
		return servicetest.Kernel{
			New:        func(testing.TB) service.Dataplane { return ipvs.New(n.Kernel(), ipvs.Options{}) },
			Lookup:     n.Lookup,
			Agrees:     agrees,
			SetMachine: n.SetMachine,
			Flush: func(t testing.TB) {
				n.IPVS.Flush()
				var tx nfnl.Transaction
				tx.DeleteTable(nfnl.Table{Family: nfnl.IPv4, Name: "podnet-service-ipvs"})
				if err := n.Tables.Open().Commit(t.Context(), &tx); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestContractRefused: the same with a kernel that refuses the real servers of a Service.
func TestContractRefused(t *testing.T) {
	servicetest.Contract(t, func(testing.TB) servicetest.Kernel {
		n := ipvstest.NewNode()
		return servicetest.Kernel{
			New: func(testing.TB) service.Dataplane { return ipvs.New(n.Kernel(), ipvs.Options{}) },
			Refuse: func(p service.Program) func() {
				n.IPVS.Fault = func(c ipvstest.Call) error {
					for _, port := range p.Ports {
						for _, b := range port.Cluster {
							if c.Op == "write" && c.Change.Verb == ipvs.AddReal && c.Change.Real == b.Addr {
								return ipvstest.Refuse(c, syscall.ENOMEM)
							}
						}
					}
					return nil
				}
				return func() { n.IPVS.Fault = nil }
			},
		}
	})
}

// TestKernelContract: the same on the real kernel, with real packets.
func TestKernelContract(t *testing.T) {
	vmtest.RequireIPVS(t)
	servicetest.Contract(t, func(t testing.TB) servicetest.Kernel {
		w := wire.New(t)
		k, err := ipvs.Open(ipvs.OpenOptions{Netns: w.Netns().Path()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		s := w.Subject(t, ipvs.New(k, ipvs.Options{MaxDrain: 1}))
		return servicetest.Kernel{
			New:        func(testing.TB) service.Dataplane { return ipvs.New(k, ipvs.Options{MaxDrain: 1}) },
			Lookup:     func(p servicetest.Packet) (servicetest.Verdict, error) { return twice(s, p) },
			SetMachine: s.SetMachine,
			Agrees:     wire.Agrees,
			Flush: func(t testing.TB) {
				run(t, w.Netns(), "ipvsadm", "-C")
				run(t, w.Netns(), "nft", "flush", "ruleset")
			},
		}
	})
}

// twice asks again when packets fared differently: there are only 45,000 ports to send from, and one that was used a minute ago belongs to a connection of then.
func twice(w servicetest.Walker, p servicetest.Packet) (servicetest.Verdict, error) {
	v, err := w.Lookup(p)
	if err != nil {
		v, err = w.Lookup(p)
	}
	return v, err
}

// run runs a program in a network namespace.
func run(t testing.TB, ns *rtnltest.Netns, argv ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}
