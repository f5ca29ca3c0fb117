package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/test/vm/vmtest"
)

// TestRunPlan: the output is that of go test, whatever a test binary does.
func TestRunPlan(t *testing.T) {
	for _, tt := range []struct {
		script string
		ok     bool
		want   string // the times are T
	}{
		{"echo PASS", true, "PASS\nok  \tp\tTs\n"},
		{"echo PASS; pwd -P; echo $PWD $*", true, "PASS\nDIR\nDIR -test.v=true\nok  \tp\tTs\n"},
		{"echo 'testing: warning: no tests to run'; echo PASS", true, "testing: warning: no tests to run\nPASS\nok  \tp\tTs [no tests to run]\n"},
		{"echo '--- FAIL: TestX'; echo FAIL; exit 1", false, "--- FAIL: TestX\nFAIL\nFAIL\tp\tTs\nFAIL\n"},
		{"echo panic: x >&2; exit 2", false, "panic: x\np: exit status 2\nFAIL\tp\tTs\nFAIL\n"},
		{"kill -9 $$", false, "p: signal: killed\nFAIL\tp\tTs\nFAIL\n"},
	} {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		binary, path := filepath.Join(dir, "0.test"), filepath.Join(dir, "plan.json")
		if err := os.WriteFile(binary, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := (plan{Tests: []test{{"p", dir, binary}}, Args: []string{"-test.v=true"}}).write(path); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		status := runPlan(path, &out)
		have := regexp.MustCompile(`[0-9]+\.[0-9]{3}s`).ReplaceAllString(out.String(), "Ts")
		if diff := cmp.Diff(strings.ReplaceAll(tt.want, "DIR", dir), have); diff != "" || (status == 0) != tt.ok {
			t.Errorf("%s: status %d, %s", tt.script, status, diff)
		}
	}
}

// TestRunPlanGoesOn: one that fails does not keep the others from running.
func TestRunPlanGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan.json")
	if err := (plan{Tests: []test{{"a", "/", "/nonexistent"}, {"b", "/", "/bin/true"}, {"c", "/", ""}}}).write(path); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if status := runPlan(path, &out); status != 1 || !strings.Contains(out.String(), "FAIL\ta\t") || !strings.Contains(out.String(), "ok  \tb\t") ||
		!strings.Contains(out.String(), "FAIL\tc [build failed]\n") {
		t.Errorf("status %d: %s", status, &out)
	}
	if status := runPlan("/nonexistent", &out); status != 2 {
		t.Errorf("no plan: status %d", status)
	}
}

func TestContains(t *testing.T) {
	for _, tt := range []struct {
		writes []string
		want   bool
	}{
		{[]string{"a needle b"}, true}, {[]string{"a nee", "dle"}, true}, {[]string{"n", "e", "e", "d", "l", "e"}, true}, {[]string{"need", "l"}, false}, {nil, false},
	} {
		c := &contains{what: []byte("needle")}
		for _, w := range tt.writes {
			_, _ = c.Write([]byte(w))
		}
		if c.found != tt.want {
			t.Errorf("%q: %v", tt.writes, c.found)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("TMPDIR", "/x")
	t.Setenv("PODNET_TEST_VARIABLE", "a=b")
	t.Setenv("PATH", "/somewhere")
	env := environment()
	for _, want := range []string{"REQUIRE_KERNEL=1", "PODNET_TEST_VARIABLE=a=b", "PATH=/somewhere:/usr/local/sbin:/usr/sbin:/sbin"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is not in %q", want, env)
		}
	}
	if slices.Contains(env, "TMPDIR=/x") {
		t.Error("TMPDIR of the host is passed on")
	}
}

func TestSweep(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(os.TempDir(), fmt.Sprintf("%s%d-1", tempPrefix, dead.Process.Pid))
	kept := filepath.Join(os.TempDir(), fmt.Sprintf("%s%d-1", tempPrefix, os.Getpid()))
	other := filepath.Join(os.TempDir(), "podnet-vm-tests-x")
	for _, dir := range []string{gone, kept, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{kept, other}, left); diff != "" {
		t.Error(diff)
	}
}

// TestCompile: a package with tests becomes a binary, one without is left out, and none at all is an error.
func TestCompile(t *testing.T) {
	if testing.Short() || vmtest.InGuest() {
		t.Skip("compiles")
	}
	temp := t.TempDir()
	packages := []string{"github.com/podnet/podnet/internal/netns", "github.com/podnet/podnet/test/vm/nothing/..."}
	path, err := (options{run: "X", verbose: true}).compile(t.Context(), temp, packages)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), `"-test.run=X"`) || !strings.Contains(string(data), `internal/netns"`) {
		t.Errorf("plan: %s, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(temp, "0.test")); err != nil {
		t.Error(err)
	}
	if _, err := (options{}).compile(t.Context(), temp, []string{"errors/nonexistent"}); err == nil {
		t.Error("a package that does not exist compiles")
	}
}
