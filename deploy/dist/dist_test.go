package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRelease makes a release for one architecture twice, and looks into it.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds the programs")
	}
	var trees []map[string]string
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		r := release{source: "../..", out: filepath.Join(dir, name), version: "v1.2.3", arches: []string{"amd64"}}
		if err := r.run(t.Context(), 1700000000, false); err != nil {
			t.Fatal(err)
		}
		trees = append(trees, tree(t, r.out))
	}
	if diff := cmp.Diff(trees[0], trees[1]); diff != "" {
		t.Errorf("two builds differ:\n%s", diff)
	}
	var names []string
	entries, err := os.ReadDir(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
		info, err := e.Info()
		if err != nil || !info.ModTime().Equal(time.Unix(1700000000, 0)) {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
	}
	want := []string{"SHA256SUMS", "podnet-agent_v1.2.3_linux_amd64.cdx.json", "podnet-cni_v1.2.3_linux_amd64.cdx.json", "podnet-proxy_v1.2.3_linux_amd64.cdx.json", "podnet_v1.2.3_deploy.tar.gz",
		"podnet_v1.2.3_linux_amd64.tar.gz"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	check := exec.Command("sha256sum", "--check", "--quiet", "SHA256SUMS")
	check.Dir = filepath.Join(dir, "a")
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v: %s", err, out)
	}
	files := untar(t, filepath.Join(dir, "a", "podnet_v1.2.3_linux_amd64.tar.gz"))
	for _, p := range programs {
		binary := files["podnet_v1.2.3_linux_amd64/"+p]
		wantStatic(t, p, binary)
		bom, err := os.ReadFile(filepath.Join(dir, "a", p+"_v1.2.3_linux_amd64.cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		wantSBOM(t, p, binary, bom)
	}
}

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "a", "b")
	for _, name := range []string{"go.mod", "cmd/x/main.go", ".git/HEAD", "bin/x", "dist/SHA256SUMS"} {
		path := filepath.Join(from, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(from, to, filepath.Join(from, "dist")); err != nil {
		t.Fatal(err)
	}
	var have []string
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			have = append(have, strings.TrimPrefix(path, to+"/"))
		}
		return err
	})
	if diff := cmp.Diff([]string{"cmd/x/main.go", "go.mod"}, have); diff != "" || err != nil {
		t.Errorf("copied (-want +got):\n%s%v", diff, err)
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return out
}

// untar checks every header and returns the files.
func untar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if zip.Name != "" || !zip.ModTime.IsZero() {
		t.Errorf("gzip header has name %q, time %v", zip.Name, zip.ModTime)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 1700000000 {
			t.Errorf("header of %s: %+v", h.Name, h)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func wantStatic(t *testing.T, name string, binary []byte) {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, unwanted := range []string{dir, "/ld-linux"} {
		if bytes.Contains(binary, []byte(unwanted)) {
			t.Errorf("%s contains %q", name, unwanted)
		}
	}
}

func wantSBOM(t *testing.T, name string, binary, text []byte) {
	t.Helper()
	var b bill
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if have := fmt.Sprintf("%x", sha256.Sum256(binary)); b.Metadata.Component.Hashes[0].Content != have {
		t.Errorf("SBOM of %s is of another file", name)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, binary, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "version", "-m", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	have, want := map[string]bool{}, map[string]bool{}
	for _, c := range b.Components {
		if c.Name != "std" {
			have[c.Name+" "+c.Version+" "+c.Properties[0].Value] = true
		}
	}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) == 4 && words[0] == "dep" {
			want[strings.Join(words[1:], " ")] = true
		}
	}
	if diff := cmp.Diff(want, have); diff != "" || len(want) < 3 {
		t.Errorf("modules in the SBOM of %s (-want +got):\n%s", name, diff)
	}
	if len(b.Dependencies) != len(b.Components)+1 {
		t.Errorf("%d dependencies of %d components", len(b.Dependencies), len(b.Components))
	}
}
