package ipvstest_test

import (
	"os/exec"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

func TestFakeContract(t *testing.T) {
	ipvstest.Contract(t, func(testing.TB) ipvs.IPVS { return ipvstest.NewIPVS() })
}

func TestKernelContract(t *testing.T) {
	vmtest.RequireIPVS(t)
	if out, err := exec.Command("modprobe", "-a", "ip_vs_lblc", "ip_vs_lblcr").CombinedOutput(); err != nil { // see loadFirst in package ipvs
		t.Fatalf("%v: %s", err, out)
	}
	ipvstest.Contract(t, func(t testing.TB) ipvs.IPVS {
		c, err := ipvs.OpenConn(rtnltest.NewNetns(t).Path())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	})
}
