package install_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/install"
)

// plugin is the real one, built once, and another build of it.
var plugin = sync.OnceValues(func() (builds [2]string, err error) {
	dir, err := os.MkdirTemp("", "podnet-install-test-")
	if err != nil {
		return builds, err
	}
	for i, flags := range []string{"-s -w", "-s"} {
		builds[i] = filepath.Join(dir, fmt.Sprint(i), install.PluginName)
		cmd := exec.Command("go", "build", "-ldflags", flags, "-o", builds[i], "../../../podnet-cni")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return builds, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return builds, nil
})

func pluginBuilds(t testing.TB) (old, current string) {
	t.Helper()
	builds, err := plugin()
	if err != nil {
		t.Fatal(err)
	}
	return builds[0], builds[1]
}

const list = `{"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "podnet-cni"}]}`

// newFiles returns files in new directories.
func newFiles(t testing.TB, withList bool) install.Files {
	t.Helper()
	_, current := pluginBuilds(t)
	dir := t.TempDir()
	f := install.Files{Plugin: current, BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "net.d")}
	if withList {
		f.Conflist = filepath.Join(dir, "10-test.conflist")
		write(t, f.Conflist, list, 0o644)
	}
	return f
}

// runs has the plugin tell its version.
func runs(target string) error {
	cmd := exec.Command(target)
	cmd.Env = []string{"CNI_COMMAND=VERSION", "CNI_PATH=" + filepath.Dir(target)}
	cmd.Stdin = strings.NewReader(`{"cniVersion": "1.0.0"}`)
	out, err := cmd.CombinedOutput()
	if err == nil && !bytes.Contains(out, []byte("supportedVersions")) {
		err = errors.New("no versions")
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %q", target, err, out)
	}
	return nil
}

func write(t testing.TB, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	y, err2 := os.ReadFile(b)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

func names(t testing.TB, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestInstallAndUninstall(t *testing.T) {
	f := newFiles(t, true)
	target, conf := filepath.Join(f.BinDir, install.PluginName), filepath.Join(f.ConfDir, "10-test.conflist")
	for _, want := range [][]string{{target, conf}, nil} { // the second finds nothing to do
		written, err := install.Install(t.Context(), f)
		if diff := cmp.Diff(want, written); diff != "" || err != nil {
			t.Fatalf("written (-want +got):\n%s%v", diff, err)
		}
	}
	for path, mode := range map[string]fs.FileMode{target: 0o755, conf: 0o600} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := runs(target); err != nil {
		t.Error(err)
	}
	for _, want := range [][]string{{conf, target}, nil} {
		removed, err := install.Uninstall(t.Context(), f)
		if diff := cmp.Diff(want, removed); diff != "" || err != nil {
			t.Fatalf("removed (-want +got):\n%s%v", diff, err)
		}
	}
	if left := append(names(t, f.BinDir), names(t, f.ConfDir)...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestRepairs: whatever stands in the place of the plugin, the plugin stands there afterwards, and what a link pointed to is as before.
func TestRepairs(t *testing.T) {
	older, current := pluginBuilds(t)
	for name, prepare := range map[string]func(t *testing.T, target, elsewhere string){
		"another version":   func(t *testing.T, target, _ string) { link(t, os.Link, older, target) },
		"truncated":         func(t *testing.T, target, _ string) { write(t, target, "\x7fELF", 0o755) },
		"empty":             func(t *testing.T, target, _ string) { write(t, target, "", 0o755) },
		"mode":              func(t *testing.T, target, _ string) { copyFile(t, current, target, 0o777) },
		"setuid":            func(t *testing.T, target, _ string) { copyFile(t, current, target, 0o755|fs.ModeSetuid) },
		"symbolic link":     func(t *testing.T, target, elsewhere string) { link(t, os.Symlink, elsewhere, target) },
		"dangling link":     func(t *testing.T, target, _ string) { link(t, os.Symlink, "/nowhere/at/all", target) },
		"link as temporary": func(t *testing.T, target, elsewhere string) { link(t, os.Symlink, elsewhere, temporary(target)) },
		"left by a kill":    func(t *testing.T, target, _ string) { write(t, temporary(target), "half", 0o600) },
		"right, and left": func(t *testing.T, target, _ string) {
			copyFile(t, current, target, 0o755)
			write(t, temporary(target), "x", 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t, false)
			target, elsewhere := filepath.Join(f.BinDir, install.PluginName), filepath.Join(t.TempDir(), "precious")
			write(t, elsewhere, "precious", 0o644)
			if err := os.MkdirAll(f.BinDir, 0o755); err != nil {
				t.Fatal(err)
			}
			prepare(t, target, elsewhere)
			if _, err := install.Install(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{install.PluginName}, names(t, f.BinDir)); diff != "" {
				t.Errorf("directory (-want +got):\n%s", diff)
			}
			if info, err := os.Lstat(target); err != nil || info.Mode() != 0o755 || !same(t, target, current) {
				t.Errorf("target: %v, %v", info.Mode(), err)
			}
			if text, err := os.ReadFile(elsewhere); string(text) != "precious" || err != nil {
				t.Errorf("what a link pointed to: %q, %v", text, err)
			}
		})
	}
}

func temporary(target string) string {
	return filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".podnet-tmp")
}

func link(t *testing.T, how func(string, string) error, to, path string) {
	t.Helper()
	if err := how(to, path); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string, mode fs.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(data), mode)
}

// TestRefusals: one error that says what is wrong and what is wanted, and nothing is written.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, f *install.Files)
		want    string
	}{
		"plugin missing": {func(t *testing.T, f *install.Files) { f.Plugin += "x" }, "no such file"},
		"no plugin":      {func(t *testing.T, f *install.Files) { f.Plugin = "/etc/passwd" }, "is no podnet-cni binary"},
		"plugin is a link": {func(t *testing.T, f *install.Files) {
			to := f.BinDir + "x"
			link(t, os.Symlink, f.Plugin, to)
			f.Plugin = to
		}, "is a symbolic link"},
		"plugin is a pipe":   {func(t *testing.T, f *install.Files) { f.Plugin = "/dev/null" }, "want a regular file"},
		"directory of all":   {func(t *testing.T, f *install.Files) { mode(t, f.BinDir, 0o777) }, "chmod go-w"},
		"sticky does not do": {func(t *testing.T, f *install.Files) { mode(t, f.BinDir, 0o777|fs.ModeSticky) }, "chmod go-w"},
		"parent of all":      {func(t *testing.T, f *install.Files) { mode(t, filepath.Dir(f.BinDir), 0o777) }, "chmod go-w"},
		"directory is a link": {func(t *testing.T, f *install.Files) {
			to := f.BinDir + "x"
			link(t, os.Symlink, f.BinDir, to)
			f.BinDir = to
		}, "is a symbolic link to"},
		"directory is a file": {func(t *testing.T, f *install.Files) { f.BinDir = f.Conflist }, "not a directory"},
		"directory in place":  {func(t *testing.T, f *install.Files) { mode(t, filepath.Join(f.BinDir, install.PluginName), 0o755) }, "is a directory"},
		"relative":            {func(t *testing.T, f *install.Files) { f.BinDir = "bin" }, "want an absolute path"},
		"conflist is text":    {func(t *testing.T, f *install.Files) { write(t, f.Conflist, "no", 0o644) }, "invalid character"},
		"conflist is empty":   {func(t *testing.T, f *install.Files) { write(t, f.Conflist, "{}", 0o644) }, "want a CNI configuration list"},
		"conflist is a conf":  {func(t *testing.T, f *install.Files) { f.Conflist += ".conf"; write(t, f.Conflist, list, 0o644) }, "ends in .conflist"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t, true)
			if err := os.Mkdir(f.BinDir, 0o755); err != nil {
				t.Fatal(err)
			}
			bin := f.BinDir
			c.prepare(t, &f)
			before := names(t, bin)
			written, err := install.Install(t.Context(), f)
			if err == nil || !strings.Contains(err.Error(), c.want) || written != nil {
				t.Errorf("%v, %v, want %q", written, err, c.want)
			}
			if diff := cmp.Diff(before, names(t, bin)); diff != "" {
				t.Errorf("directory (-before +after):\n%s", diff)
			}
			if _, err := os.Stat(f.ConfDir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the conflist's directory was made: %v", err)
			}
		})
	}
}

func mode(t *testing.T, dir string, m fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, m)); err != nil {
		t.Fatal(err)
	}
}

// TestForeignOwner: a directory of another user is one in which that user decides what root runs.
func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a directory away")
	}
	f := newFiles(t, false)
	mode(t, f.BinDir, 0o755)
	if err := os.Chown(f.BinDir, 1001, 1001); err != nil {
		t.Fatal(err)
	}
	if _, err := install.Install(t.Context(), f); err == nil || !strings.Contains(err.Error(), "chown root:root "+f.BinDir) {
		t.Errorf("%v, want the command that mends it", err)
	}
}

func TestUninstallKeeps(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, f install.Files)
		want    string
		left    bool
	}{
		"a conflist still calls it": {func(t *testing.T, f install.Files) {
			write(t, filepath.Join(f.ConfDir, "05-other.conflist"), list, 0o600)
		}, "still calls podnet-cni", true},
		"somebody else's program": {func(t *testing.T, f install.Files) {
			write(t, filepath.Join(f.BinDir, install.PluginName), "#!/bin/sh\n", 0o755)
		},
			"is not podnet's plugin", true},
		"another network": {func(t *testing.T, f install.Files) {
			write(t, filepath.Join(f.ConfDir, "05-other.conflist"), `{"name": "x", "plugins": [{"type": "bridge"}]}`, 0o600)
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t, false)
			if _, err := install.Install(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			c.prepare(t, f)
			_, err := install.Uninstall(t.Context(), f)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if left := len(names(t, f.BinDir)) > 0; left != c.left {
				t.Errorf("left %v, want %v", left, c.left)
			}
		})
	}
}

// TestAtOnce: many install different versions while the plugin is run all the time: it always starts, and is one of the versions.
func TestAtOnce(t *testing.T) {
	older, current := pluginBuilds(t)
	f := newFiles(t, false)
	if _, err := install.Install(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(f.BinDir, install.PluginName)
	var installers, runners sync.WaitGroup
	for i := range 4 {
		installers.Go(func() {
			mine := f
			for j := range 10 {
				mine.Plugin = []string{older, current}[(i+j)%2]
				if _, err := install.Install(t.Context(), mine); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	started := 0
	runners.Go(func() {
		for ; ; started++ {
			select {
			case <-stop:
				return
			default:
			}
			// A child of this very process has a copy of the installers' open files until it is the plugin: no runtime is
			// in the installer's place like that (golang/go#22315).
			if err := runs(target); err != nil && !errors.Is(err, syscall.ETXTBSY) {
				t.Errorf("run %d: %v", started, err)
				return
			}
		}
	})
	installers.Wait()
	close(stop)
	runners.Wait()
	t.Logf("40 installations, %d runs of the plugin meanwhile", started)
	if !same(t, target, older) && !same(t, target, current) {
		t.Error("the plugin is neither version")
	}
	if left := names(t, f.BinDir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "install" {
		os.Exit(installForever(os.Args[2], os.Args[3]))
	}
	status := m.Run()
	if builds, err := plugin(); err == nil {
		os.RemoveAll(filepath.Dir(filepath.Dir(builds[0])))
	}
	os.Exit(status)
}
