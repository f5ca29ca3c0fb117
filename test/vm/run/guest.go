package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// inGuest is the first argument of this program when it runs in the guest; the second is the path of the plan.
const inGuest = "in-guest"

// plan is what to run in the guest.
type plan struct {
	Tests []test
	Args  []string // of every test binary
}

type test struct {
	Package string
	Dir     string // where its tests run, as with go test
	Binary  string // "" if it did not build
}

func (p plan) write(path string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// runPlan runs the test binaries one after the other, printing what go test prints, and returns its exit status.
func runPlan(path string, to io.Writer) int {
	data, err := os.ReadFile(path)
	var p plan
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		fmt.Fprintln(to, err)
		return 2
	}
	status := 0
	for _, t := range p.Tests {
		if !t.run(p.Args, to) {
			status = 1
		}
	}
	if status != 0 {
		fmt.Fprintln(to, "FAIL")
	}
	return status
}

// run runs one test binary and reports whether it passed. Unlike go test it passes on what a binary prints that passes, at once: in a guest that is killed, it
// is all there is.
func (t test) run(args []string, to io.Writer) bool {
	if t.Binary == "" {
		fmt.Fprintf(to, "FAIL\t%s [build failed]\n", t.Package)
		return false
	}
	seen := &contains{what: []byte("testing: warning: no tests to run")}
	out := io.MultiWriter(to, seen) // one writer, so that one goroutine copies
	cmd := exec.Command(t.Binary, args...)
	cmd.Dir = t.Dir
	cmd.Env = append(os.Environ(), "PWD="+t.Dir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second // for what a test left behind with its output open
	started := time.Now()
	err := cmd.Run()
	took := time.Since(started).Seconds()
	switch {
	case err != nil && cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 1:
		fmt.Fprintf(to, "FAIL\t%s\t%.3fs\n", t.Package, took)
	case err != nil:
		fmt.Fprintf(to, "%s: %v\nFAIL\t%s\t%.3fs\n", filepath.Base(t.Package), err, t.Package, took)
	case seen.found:
		fmt.Fprintf(to, "ok  \t%s\t%.3fs [no tests to run]\n", t.Package, took)
	default:
		fmt.Fprintf(to, "ok  \t%s\t%.3fs\n", t.Package, took)
	}
	return err == nil
}

// contains is a writer that looks for something, be it in pieces.
type contains struct {
	what, end []byte
	found     bool
}

func (c *contains) Write(p []byte) (int, error) {
	c.end = append(c.end, p...)
	c.found = c.found || bytes.Contains(c.end, c.what)
	if n := len(c.end) - len(c.what); n > 0 {
		c.end = append(c.end[:0], c.end[n:]...)
	}
	return len(p), nil
}
