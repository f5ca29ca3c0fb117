package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// outcome is what came of one test.
type outcome struct {
	Result  string            // pass, fail, skip
	Seconds float64           `json:",omitempty"`
	Attrs   map[string]string `json:",omitempty"` // what it measured
}

// event is a line of go test -json.
type event struct {
	Action, Test, Output, Key, Value string
	Elapsed                          float64
}

// split parts "package Test/subtest".
func split(test string) (pkg, name, top string) {
	pkg, name, _ = strings.Cut(test, " ")
	top, _, _ = strings.Cut(name, "/")
	return pkg, name, top
}

// run runs the tests, package by package, and returns what came of them, by the names in the catalogue.
func run(ctx context.Context, tests []string, verbose bool, progress io.Writer) map[string]outcome {
	tops := map[string][]string{}
	var pkgs []string
	for _, t := range tests {
		pkg, _, top := split(t)
		if tops[pkg] == nil {
			pkgs = append(pkgs, pkg)
		}
		if !slices.Contains(tops[pkg], top) {
			tops[pkg] = append(tops[pkg], top)
		}
	}
	all := map[string]outcome{}
	for _, pkg := range pkgs {
		start := time.Now()
		fmt.Fprintf(progress, "%s: %s\n", pkg, strings.Join(tops[pkg], " "))
		if err := runPackage(ctx, pkg, tops[pkg], verbose, progress, all); err != nil {
			fmt.Fprintf(progress, "%s: %v\n", pkg, err)
		}
		fmt.Fprintf(progress, "%s: %v\n", pkg, time.Since(start).Round(time.Second))
	}
	wanted := make(map[string]outcome, len(tests))
	for _, t := range tests {
		if o, ok := all[t]; ok {
			wanted[t] = o
		}
	}
	return wanted
}

func runPackage(ctx context.Context, pkg string, tops []string, verbose bool, progress io.Writer, all map[string]outcome) error {
	pattern := "^(" + strings.Join(tops, "|") + ")$"
	cmd := exec.CommandContext(ctx, cmp.Or(os.Getenv("GO"), "go"), "test", "-json", "-count=1", "-timeout=20m", "-run", pattern, "./"+pkg)
	cmd.Env = append(os.Environ(), "PODNET_FAULTS=1")
	cmd.Stderr = progress
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	parse(out, pkg, verbose, progress, all)
	return cmd.Wait()
}

// parse reads what go test -json prints. Output of tests that fail is passed on.
func parse(from io.Reader, pkg string, verbose bool, progress io.Writer, all map[string]outcome) {
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, 16<<20)
	output := map[string][]string{} // by top-level test
	attrs := map[string]map[string]string{}
	for scanner.Scan() {
		var e event
		if json.Unmarshal(scanner.Bytes(), &e) != nil {
			fmt.Fprintln(progress, scanner.Text()) // go test itself
			continue
		}
		_, _, top := split(pkg + " " + e.Test)
		switch e.Action {
		case "build-output":
			fmt.Fprint(progress, e.Output)
		case "output":
			if verbose || e.Test == "" {
				fmt.Fprint(progress, e.Output)
			} else {
				output[top] = append(output[top], e.Output)
			}
		case "attr":
			if attrs[e.Test] == nil {
				attrs[e.Test] = map[string]string{}
			}
			attrs[e.Test][e.Key] = e.Value
		case "pass", "fail", "skip":
			if e.Test == "" {
				continue
			}
			all[pkg+" "+e.Test] = outcome{e.Action, e.Elapsed, attrs[e.Test]}
			if e.Test == top && e.Action == "fail" {
				fmt.Fprint(progress, strings.Join(output[top], ""))
			}
			if e.Test == top {
				delete(output, top)
			}
		}
	}
}
