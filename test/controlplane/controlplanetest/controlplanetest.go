// Package controlplanetest starts a control plane for one test. Everything else is package controlplane's.
package controlplanetest

import (
	"context"
	"os"
	"testing"

	"github.com/podnet/podnet/test/controlplane"
)

// Binaries returns the directory of the binaries. If they are not built the test is skipped, or fails if REQUIRE_KUBE=1 is in the environment.
func Binaries(t testing.TB) string {
	t.Helper()
	dir, err := controlplane.Find()
	if err != nil && os.Getenv("REQUIRE_KUBE") == "1" {
		t.Fatalf("REQUIRE_KUBE=1: %v", err)
	}
	if err != nil {
		t.Skip(err)
	}
	return dir
}

// Start starts a control plane and ends it with the test. If the binaries are not built the test is skipped as by [Binaries]. When the test fails, the ends
// of the components' logs are printed.
func Start(t testing.TB, config controlplane.Config) *controlplane.ControlPlane {
	t.Helper()
	if config.Binaries == "" {
		config.Binaries = Binaries(t)
	}
	c, err := controlplane.Start(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, component := range []controlplane.Component{controlplane.Etcd, controlplane.APIServer, controlplane.ControllerManager} {
				t.Logf("log of %s ends:\n%s", component, c.Log(component))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
