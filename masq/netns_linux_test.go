package masq_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/masq"
)

var namespaces atomic.Int64

// newNetns makes a network namespace for one test and returns its name.
func newNetns(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		lacking(t, "network namespaces need root")
	}
	name := fmt.Sprintf("podnet-masq-test-%d-%d", os.Getpid(), namespaces.Add(1))
	if err := netns.Create(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// lacking skips the test with the reason why the machine cannot run it, or fails it if REQUIRE_KERNEL=1 is in the environment.
func lacking(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_KERNEL") == "1" {
		t.Fatalf("REQUIRE_KERNEL=1: %s", why)
	}
	t.Skip(why)
}

// requireBackend skips the test on a machine without the backend.
func requireBackend(t testing.TB, ns string, b masq.Backend) {
	t.Helper()
	if err := (&masq.Netfilter{Netns: netns.Path(ns)}).Probe(t.Context(), b); err != nil {
		lacking(t, err.Error())
	}
}

// in runs a command inside the namespace.
func in(t testing.TB, ns, command string) string {
	t.Helper()
	out, err := run(ns, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func run(ns, command string) (string, error) { return runArgs(ns, strings.Fields(command)...) }

func runArgs(ns string, args ...string) (out string, err error) {
	err = netns.Do(netns.Path(ns), func() error {
		b, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		out = string(b)
		if err != nil {
			return fmt.Errorf("%q: %w: %s", args, err, out)
		}
		return nil
	})
	return out, err
}
