package nodefile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func descriptor(n int) string {
	return fmt.Sprintf("name: node-%d\npodCIDRs: [10.244.%d.0/24]\naddresses: [192.168.1.%d]\n", n, n, n)
}

// step changes the directory; after it the source must know these nodes and report these problems.
type step struct {
	what     string
	do       func(t *testing.T, dir string)
	nodes    string
	problems []string
}

func put(name, text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestScan(t *testing.T) {
	const broken = "name: node-1\npodCIDRs: [10.244.1.1/24]\naddresses: [192.168.1.1]\n"
	const hostBits = `podCIDRs[0] "10.244.1.1/24": has host bits: want 10.244.1.0/24`
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"come and go", []step{
			{"empty directory", func(*testing.T, string) {}, "", nil},
			{"one", put("a.yaml", descriptor(1)), "node-1", nil},
			{"two in one file", put("b.yml", descriptor(2)+"---\n"+descriptor(3)), "node-1 node-2 node-3", nil},
			{"json", put("c.json", `{"name":"node-4","podCIDRs":["10.244.4.0/24"],"addresses":["192.168.1.4"]}`), "node-1 node-2 node-3 node-4", nil},
			{"other files", put("notes.txt", "x"), "node-1 node-2 node-3 node-4", nil},
			{"hidden files", put(".a.yaml", descriptor(9)), "node-1 node-2 node-3 node-4", nil},
			{"one document less", put("b.yml", descriptor(3)), "node-1 node-3 node-4", nil},
			{"one file less", remove("a.yaml"), "node-3 node-4", nil},
		}},
		{"broken document", []step{
			{"good", put("a.yaml", descriptor(1)+"---\n"+descriptor(2)), "node-1 node-2", nil},
			{"broken: last good is kept, the other followed", put("a.yaml", broken+"---\n"+descriptor(3)), "node-3 node-1", []string{"DIR/a.yaml:1: " + hostBits}},
			{"healed", put("a.yaml", descriptor(1)+"---\n"+descriptor(3)), "node-1 node-3", nil},
			{"broken from the start", put("b.yaml", "name: node-7\npodCIDRs: []\naddresses: [192.168.1.7]\n"), "node-1 node-3",
				[]string{"DIR/b.yaml:1: podCIDRs: none: want one CIDR per family, such as 10.244.1.0/24"}},
		}},
		{"unreadable name", []step{
			{"good", put("a.yaml", descriptor(1)+"---\n"+descriptor(2)), "node-1 node-2", nil},
			{"nobody is removed", put("a.yaml", "name: [\n---\n"+descriptor(3)), "node-3 node-1 node-2",
				[]string{"DIR/a.yaml:1: line 1: did not find expected node content"}},
			{"healed", put("a.yaml", descriptor(3)), "node-3", nil},
		}},
		{"empty file", []step{
			{"good", put("a.yaml", descriptor(1)), "node-1", nil},
			{"truncated", put("a.yaml", ""), "node-1", []string{"DIR/a.yaml: describes no node: nodes kept as they were (remove the file to remove them)"}},
			{"removed", remove("a.yaml"), "", nil},
		}},
		{"same name", []step{
			{"in two files", func(t *testing.T, dir string) {
				put("b.yaml", descriptor(1))(t, dir)
				put("a.yaml", "name: node-1\npodCIDRs: [10.244.9.0/24]\naddresses: [192.168.1.9]\n")(t, dir)
			}, "node-1", []string{`DIR/b.yaml:1: name "node-1": described in DIR/a.yaml`}},
			{"in one file", put("a.yaml", descriptor(2)+"---\n"+descriptor(2)), "node-2 node-1", []string{`DIR/a.yaml:5: name "node-2": described before in this file`}},
		}},
		{"not a file", []step{
			{"good", put("a.yaml", descriptor(1)), "node-1", nil},
			{"dangling link", func(t *testing.T, dir string) {
				if err := os.Symlink("nowhere", filepath.Join(dir, "b.yaml")); err != nil {
					t.Fatal(err)
				}
			}, "node-1", nil},
			{"directory behind a link", func(t *testing.T, dir string) {
				remove("b.yaml")(t, dir)
				if err := os.Symlink(".", filepath.Join(dir, "b.yaml")); err != nil {
					t.Fatal(err)
				}
			}, "node-1", []string{"DIR/b.yaml: nodes kept as they were: not a regular file"}},
			{"device behind the link of a known file", func(t *testing.T, dir string) {
				remove("b.yaml")(t, dir)
				remove("a.yaml")(t, dir)
				if err := os.Symlink("/dev/zero", filepath.Join(dir, "a.yaml")); err != nil {
					t.Fatal(err)
				}
			}, "node-1", []string{"DIR/a.yaml: nodes kept as they were: not a regular file"}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "nodes")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			s := New(dir, Options{})
			for _, st := range tt.steps {
				st.do(t, dir)
				s.Scan()
				check(t, s, dir, st)
				if s.Scan() {
					t.Errorf("%s: a second look found a change", st.what)
				}
			}
		})
	}
}

func check(t *testing.T, s *Source, dir string, st step) {
	t.Helper()
	snapshot := s.Snapshot()
	var names []string
	for _, n := range snapshot.Nodes {
		names = append(names, n.Name)
	}
	if got := strings.Join(names, " "); got != st.nodes {
		t.Errorf("%s: nodes %q, want %q", st.what, got, st.nodes)
	}
	var problems []string
	for _, p := range snapshot.Problems {
		problems = append(problems, strings.ReplaceAll(p, dir, "DIR"))
	}
	if diff := cmp.Diff(st.problems, problems); diff != "" {
		t.Errorf("%s: problems (-want +got):\n%s", st.what, diff)
	}
	if !snapshot.Synced {
		t.Errorf("%s: not synced", st.what)
	}
}

func TestScanDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nodes")
	s := New(dir, Options{})
	s.Scan()
	if s.Snapshot().Synced {
		t.Error("synced without a directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put("a.yaml", descriptor(1))(t, dir)
	s.Scan()
	check(t, s, dir, step{what: "there", nodes: "node-1"})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.Scan()
	check(t, s, dir, step{what: "gone", nodes: "node-1", problems: []string{"nodes kept as they were: stat DIR: no such file or directory"}})
}

// What did not change is not parsed again, neither files nor documents.
func TestScanParsesOnce(t *testing.T) {
	dir := t.TempDir()
	put("a.yaml", descriptor(1)+"---\n"+descriptor(2))(t, dir)
	s := New(dir, Options{})
	s.Scan()
	before := s.files[filepath.Join(dir, "a.yaml")].docs
	put("a.yaml", descriptor(1)+"---\n"+descriptor(3))(t, dir)
	s.Scan()
	after := s.files[filepath.Join(dir, "a.yaml")].docs
	if &before[0].node.PodCIDRs[0] != &after[0].node.PodCIDRs[0] {
		t.Error("a document that did not change was parsed again")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "a.yaml"), old, old); err != nil {
		t.Fatal(err)
	}
	s.Scan()
	f := s.files[filepath.Join(dir, "a.yaml")]
	f.docs[0].node.Name = "mark"
	s.Scan()
	if f.docs[0].node.Name != "mark" {
		t.Error("a file that did not change was read again")
	}
}

// Run sees changes by themselves, however they are written, long before it polls.
func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nodes")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put("a.yaml", descriptor(1))(t, dir)
	s := New(dir, Options{Poll: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	var notified atomic.Int32
	done := make(chan error)
	go func() { done <- s.Run(ctx, func() { notified.Add(1) }) }()
	names := func() string {
		var out []string
		for _, n := range s.Snapshot().Nodes {
			out = append(out, n.Name)
		}
		return strings.Join(out, " ")
	}
	eventually(t, "first look", func() bool { return names() == "node-1" })
	put("b.yaml", descriptor(2))(t, dir)
	eventually(t, "new file", func() bool { return names() == "node-1 node-2" })
	put(".tmp", descriptor(3))(t, dir)
	if err := os.Rename(filepath.Join(dir, ".tmp"), filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "replaced by rename", func() bool { return names() == "node-1 node-3" })
	remove("a.yaml")(t, dir)
	eventually(t, "removed", func() bool { return names() == "node-3" })
	if notified.Load() < 4 {
		t.Errorf("%d notifications, want one per change", notified.Load())
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("Run = %v, want context.Canceled", err)
	}
}

// A single file is watched through its directory, so that a replaced one is seen.
func TestRunFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nodes.yaml")
	put("nodes.yaml", descriptor(1))(t, dir)
	s := New(path, Options{Poll: time.Hour})
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx, func() {}) }()
	eventually(t, "first look", func() bool { return len(s.Snapshot().Nodes) == 1 })
	put("other", descriptor(1)+"---\n"+descriptor(2))(t, dir)
	if err := os.Rename(filepath.Join(dir, "other"), path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "replaced", func() bool { return len(s.Snapshot().Nodes) == 2 })
	cancel()
	<-done
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not seen in 10 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
