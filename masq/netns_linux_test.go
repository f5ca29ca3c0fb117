package masq_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// newNetns makes a network namespace for one test and returns its name.
func newNetns(t testing.TB) string {
	t.Helper()
	return rtnltest.NewNetns(t).Name()
}

// requireBackend skips the test on a machine without the backend.
func requireBackend(t testing.TB, ns string, b masq.Backend) {
	t.Helper()
	if err := (&masq.Netfilter{Netns: netns.Path(ns)}).Probe(t.Context(), b); err != nil {
		rtnltest.Lacking(t, err.Error())
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
