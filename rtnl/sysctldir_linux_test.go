package rtnl_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// Settings are found below SysctlDir, and still are those of the Conn's namespace.
func TestSysctlDir(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	dir := filepath.Join(t.TempDir(), "sys")
	if err := os.Symlink("/proc/sys", dir); err != nil {
		t.Fatal(err)
	}
	c, err := rtnl.Open(rtnl.Options{Netns: ns.Path(), SysctlDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	write(t, c, "sysctl -w net/ipv4/ip_forward=1")
	for _, conn := range []*rtnl.Conn{c, ns.Conn(t)} {
		if v, err := conn.Sysctl(t.Context(), "net/ipv4/ip_forward"); v != "1" || err != nil {
			t.Errorf("ip_forward is %q, %v", v, err)
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Sysctl(t.Context(), "net/ipv4/ip_forward"); err == nil {
		t.Errorf("ip_forward is %q in a directory that is gone", v)
	}
}
