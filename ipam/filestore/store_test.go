package filestore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/ipamtest"
)

const (
	boot1 = "11111111-2222-3333-4444-555555555555\n"
	boot2 = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\n"
)

// bootFile writes a boot id for Options.BootIDPath.
func bootFile(t testing.TB, id string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	ipamtest.TestStore(t, func(t *testing.T) (ipam.Store, func() ipam.Store) {
		dir := filepath.Join(t.TempDir(), "state")
		return mustOpen(t, dir, Options{}), func() ipam.Store { return mustOpen(t, dir, Options{}) }
	})
}
