package handoff

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/subnetenv"
)

func env(mtu int) subnetenv.Env {
	return subnetenv.Env{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")},
		MTU:      mtu,
		IPMasq:   true,
	}
}

func files(dir string) Files {
	return Files{SubnetFile: filepath.Join(dir, "run/subnet.env"), Conflist: filepath.Join(dir, "net.d/10-podnet.conflist"), Record: filepath.Join(dir, "state/files.json")}
}

func (f Files) list() Conflist {
	return Conflist{Name: "podnet", SubnetFile: f.SubnetFile, Bridge: "cni0"}
}

func mustApply(t *testing.T, f Files, e subnetenv.Env) []string {
	t.Helper()
	paths, err := f.Apply(e, f.list())
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func tree(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestApply(t *testing.T) {
	dir := t.TempDir()
	f := files(dir)
	if diff := cmp.Diff([]string{f.SubnetFile, f.Conflist}, mustApply(t, f, env(1450))); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if got := mustApply(t, f, env(1450)); len(got) > 0 {
		t.Errorf("second Apply wrote %v", got)
	}
	if diff := cmp.Diff([]string{f.SubnetFile}, mustApply(t, f, env(1400))); diff != "" {
		t.Errorf("another MTU (-want +got):\n%s", diff)
	}
	for path, mode := range map[string]fs.FileMode{f.SubnetFile: 0o644, f.Conflist: 0o600, f.Record: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: mode %v (%v), want %v", path, info.Mode(), err, mode)
		}
	}
	for _, damage := range []func() error{
		func() error { return os.Remove(f.Conflist) },
		func() error { return os.WriteFile(f.Conflist, nil, 0o600) },
		func() error { return os.Chmod(f.Conflist, 0o666) },
		func() error { return errors.Join(os.Remove(f.Conflist), os.Symlink("/dev/null", f.Conflist)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{f.Conflist}, mustApply(t, f, env(1400))); diff != "" {
			t.Errorf("damaged (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"net.d/10-podnet.conflist", "run/subnet.env", "state/files.json"}, tree(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// A killed agent leaves its temporary file, which no reader takes for a configuration and the next write replaces.
func TestApplyLeftover(t *testing.T) {
	f := files(t.TempDir())
	mustApply(t, f, env(1450))
	temp := filepath.Join(filepath.Dir(f.SubnetFile), ".subnet.env.podnet-tmp")
	if err := os.WriteFile(temp, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustApply(t, f, env(1400))
	if _, err := os.Stat(temp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if e, err := subnetenv.Read(f.SubnetFile); err != nil || e.MTU != 1400 {
		t.Errorf("read back %+v, %v", e, err)
	}
}

// What cannot be written leaves the old file, and no conflist before the subnet file.
func TestApplyFails(t *testing.T) {
	dir := t.TempDir()
	f := files(dir)
	if err := os.MkdirAll(f.SubnetFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(env(1450), f.list()); err == nil || !strings.Contains(err.Error(), "subnet.env: is a directory: want a file") {
		t.Errorf("got %v", err)
	}
	if got := tree(t, dir); len(got) > 0 {
		t.Errorf("written: %v", got)
	}
	if _, err := f.Apply(subnetenv.Env{}, f.list()); err == nil {
		t.Error("an empty subnet file was accepted")
	}
}

func TestMoved(t *testing.T) {
	dir := t.TempDir()
	f := files(dir)
	mustApply(t, f, env(1450))
	old := f.Conflist
	f.Conflist = filepath.Join(dir, "net.d/05-podnet.conflist")
	if diff := cmp.Diff([]string{f.Conflist, old}, mustApply(t, f, env(1450))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("old conflist: %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	f := files(dir)
	mustApply(t, f, env(1450))
	foreign := filepath.Join(dir, "net.d/20-other.conflist")
	if err := os.WriteFile(foreign, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.SubnetFile, []byte("edited by an admin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	removed, err := f.Remove()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{f.Conflist}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"net.d/20-other.conflist", "run/subnet.env"}, tree(t, dir)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if removed, err := f.Remove(); err != nil || len(removed) > 0 {
		t.Errorf("second Remove: %v, %v", removed, err)
	}
}

// libcni has to read the list, and to take the newest version of the specification that it knows.
func TestConflist(t *testing.T) {
	c := Conflist{Name: "podnet", SubnetFile: "/run/podnet/subnet.env", Bridge: "cni0", DataDir: "/var/lib/x", NonMasqueradeCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	list, err := libcni.ConfListFromBytes(c.JSON())
	if err != nil {
		t.Fatal(err)
	}
	if list.CNIVersion != "1.1.0" || list.Name != "podnet" || len(list.Plugins) != 1 || list.Plugins[0].Network.Type != "podnet-cni" {
		t.Errorf("understood as %s", list.Bytes)
	}
	const want = `{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "1.0.0",
    "1.1.0"
  ],
  "name": "podnet",
  "plugins": [
    {
      "type": "podnet-cni",
      "bridge": "cni0",
      "isDefaultGateway": true,
      "hairpinMode": true,
      "subnetFile": "/run/podnet/subnet.env",
      "nonMasqueradeCIDRs": [
        "192.0.2.0/24"
      ],
      "ipam": {
        "type": "host-local",
        "dataDir": "/var/lib/x"
      }
    }
  ]
}
`
	if diff := cmp.Diff(want, string(c.JSON())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
