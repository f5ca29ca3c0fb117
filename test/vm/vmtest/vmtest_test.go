package vmtest_test

import (
	"cmp"
	"os"
	"os/exec"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// recorder is a test that only remembers how it would have ended first.
type recorder struct {
	testing.TB
	end string
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.end = cmp.Or(r.end, "skipped") }
func (r *recorder) Fatalf(string, ...any) { r.end = cmp.Or(r.end, "failed") }

func TestLacking(t *testing.T) {
	for _, tt := range []struct{ guest, kernel, want string }{
		{"", "", "skipped"}, {"", "1", "skipped"}, {"1", "", "failed"}, {"1", "1", "failed"},
	} {
		t.Run("guest "+tt.guest+" REQUIRE_KERNEL "+tt.kernel, func(t *testing.T) {
			t.Setenv("PODNET_VM", tt.guest)
			t.Setenv("REQUIRE_KERNEL", tt.kernel)
			r := &recorder{TB: t}
			vmtest.Lacking(r, "why")
			if r.end != tt.want {
				t.Errorf("the test is %s, want %s", r.end, tt.want)
			}
		})
	}
}

// TestRequireIPVS: where it lets a test run, the kernel does give a virtual server.
func TestRequireIPVS(t *testing.T) {
	vmtest.RequireIPVS(t)
	ns := rtnltest.NewNetns(t)
	err := ns.Do(func() error {
		_, err := os.Stat("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil {
		t.Error(err)
	}
	out, err := exec.Command("ip", "netns", "exec", ns.Name(), "ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr").CombinedOutput()
	if err != nil {
		t.Errorf("ipvsadm -A: %v: %s", err, out)
	}
}
