package rtnltest

import (
	"os"
	"runtime"
	"testing"
)

// RequireKernel skips the test, or fails it if REQUIRE_KERNEL=1 is in the environment, unless it runs as root on Linux. What names
// what the test needs that for.
func RequireKernel(t testing.TB, what string) {
	t.Helper()
	switch {
	case runtime.GOOS != "linux":
		Lacking(t, what+" needs linux")
	case os.Geteuid() != 0:
		Lacking(t, what+" needs root")
	}
}

// Lacking skips the test with the reason why the machine cannot run it, or fails it if REQUIRE_KERNEL=1 is in the environment.
func Lacking(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_KERNEL") == "1" {
		t.Fatalf("REQUIRE_KERNEL=1: %s", why)
	}
	t.Skip(why)
}
