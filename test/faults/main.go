// Command faults runs the tests that prove what podnet does when things fail, and prints the table: make faults. The catalogue says which test
// proves which row, or why there is none; docs/faults.md is made of it (go test ./test/faults -update).
//
// The tests tell what they measured by attributes (testing.T.Attr): outage, lost, recovered, detected, held, cpu.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
)

func main() {
	record := flag.String("record", "", "`path` of a file to write the outcomes to, for the documentation")
	pattern := flag.String("only", ".*", "regular `expression` of the ids to run: K13, or A.*")
	verbose := flag.Bool("v", false, "print what the tests print")
	flag.Parse()
	only, err := regexp.Compile("^(" + *pattern + ")$")
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults: -only:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	outcomes := run(ctx, selected(only), *verbose, os.Stderr)
	failed := printTable(os.Stdout, catalogue, only, outcomes)
	if *record != "" {
		if err := keep(*record, outcomes); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			os.Exit(1)
		}
	}
	if failed > 0 {
		stop()
		os.Exit(1)
	}
}

// keep writes the outcomes to a file. What is there of tests that did not run stays.
func keep(path string, outcomes map[string]outcome) error {
	all := map[string]outcome{}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := selected(regexp.MustCompile(""))
	maps.DeleteFunc(all, func(test string, _ outcome) bool { return !slices.Contains(known, test) })
	maps.Copy(all, outcomes)
	if data, err = json.MarshalIndent(all, "", "\t"); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// selected returns the tests of the rows.
func selected(only *regexp.Regexp) (tests []string) {
	for _, a := range catalogue {
		for _, r := range a.Rows {
			if only.MatchString(r.ID) {
				tests = append(tests, r.Tests...)
			}
		}
	}
	return tests
}
