// Package vmtest is for tests that need what the development kernel lacks, and for tests that boot the guest of package vm.
//
// A test that needs IPVS calls [RequireIPVS] and is then like any other: it runs wherever the kernel has it, and is skipped elsewhere with the reason. In the
// guest nothing is skipped: a test that would be fails. So REQUIRE_KERNEL=1, by which CI demands all that the development kernel has, does not demand IPVS of it.
package vmtest

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/podnet/podnet/test/vm"
)

// InGuest reports whether the test runs in a guest.
func InGuest() bool { return os.Getenv("PODNET_VM") == "1" }

// RequireIPVS skips the test unless the kernel has IPVS, see [Lacking]. The kernel loads the module for that, if it can.
func RequireIPVS(t testing.TB) {
	t.Helper()
	if err := probe("IPVS"); err != nil {
		Lacking(t, "no IPVS in this kernel: "+err.Error())
	}
}

// Lacking skips the test with the reason why this kernel cannot run it, or fails it in a guest, where the test belongs.
func Lacking(t testing.TB, why string) {
	t.Helper()
	if InGuest() {
		t.Fatalf("PODNET_VM=1: %s", why)
	}
	t.Skipf("%s; make vm-test runs it in a guest", why)
}

// Guest returns the directory of the guest for tests that boot it. They run with REQUIRE_VM=1 in the environment, and are skipped without it, with -short and in
// a guest: each takes both processors for some seconds, beside which no other test should run.
func Guest(t testing.TB) string {
	t.Helper()
	switch {
	case InGuest():
		t.Skip("a guest in a guest is too slow")
	case testing.Short():
		t.Skip("boots a guest: not with -short")
	case os.Getenv("REQUIRE_VM") != "1":
		t.Skip("boots a guest: make vm-test, or REQUIRE_VM=1 after test/vm/build")
	}
	dir, err := vm.Find()
	if err != nil {
		t.Fatalf("REQUIRE_VM=1: %v", err)
	}
	return dir
}

// Run runs a command in a guest and returns its result and exit status. The test is skipped as by [Guest], and ends if the guest fails. Warnings of the guest's
// kernel are errors.
func Run(t testing.TB, config vm.Config) (vm.Result, int) {
	t.Helper()
	config.Guest = Guest(t)
	result, err := vm.Run(context.Background(), config)
	exit, ok := errors.AsType[*vm.ExitError](err)
	if err != nil && !ok {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		t.Error("the guest's kernel says:", w)
	}
	if ok {
		return result, exit.Status
	}
	return result, 0
}
