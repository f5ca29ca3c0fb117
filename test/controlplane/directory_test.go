package controlplane

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestCopyDirKeepsBytesAndMakesHoles(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	log := make([]byte, 8<<20) // as etcd allocates its log: some records, then zeros
	copy(log, "record")
	copy(log[5<<20:], "another")
	files := map[string][]byte{"member/wal/0.wal": log, "member/snap/db": []byte("db"), "member/snap/empty": nil}
	for name, data := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(from, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyDir(from, to); err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v: want the %d bytes of the original", name, len(got), err, len(want))
		}
	}
	info, err := os.Stat(filepath.Join(to, "member/wal/0.wal"))
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
		t.Errorf("the copy of a log of 13 bytes and zeros takes %d bytes", used)
	}
	if err := copyDir(from, to); err == nil {
		t.Error("a copy over another succeeded")
	}
}

func TestDirectoryIsUsedOnceAndSwept(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d, err := makeDirectory("")
	if err != nil {
		t.Fatal(err)
	}
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.path); err != nil {
		t.Errorf("the sweep took a directory in use: %v", err)
	}
	if _, err := makeDirectory(d.path); err == nil {
		t.Error("a directory in use was taken")
	}
	d.lock.Close() // as the kernel does when the process is killed
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left after the sweep: %v, %v", left, err)
	}
}
