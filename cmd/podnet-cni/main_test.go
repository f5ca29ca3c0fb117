package main

import (
	"os"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// asSkel makes the test binary a plugin with the process edge of containernetworking/cni, asPlugin makes it podnet-cni.
const (
	asEnv    = "PODNET_CNI_TEST_AS"
	asSkel   = "skel"
	asPlugin = "plugin"
)

func TestMain(m *testing.M) {
	switch os.Getenv(asEnv) {
	case asSkel:
		nothing := func(*skel.CmdArgs) error { return nil }
		add := func(*skel.CmdArgs) error { return (&current.Result{CNIVersion: "1.1.0"}).Print() }
		skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: nothing, Check: nothing, GC: nothing, Status: nothing}, version.All, "about")
		os.Exit(0)
	case asPlugin:
		main()
	}
	code := m.Run()
	removePlugin()
	os.Exit(code)
}
