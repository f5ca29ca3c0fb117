// Command faults runs the tests that prove what podnet does when things fail, and prints the table: make faults. The catalogue says which test
// proves which row, or why there is none; docs/faults.md is made of it (go test ./test/faults -update).
//
// The tests tell what they measured by attributes (testing.T.Attr): outage, lost, recovered, detected, held, cpu.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
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
		data, err := json.MarshalIndent(outcomes, "", "\t")
		if err == nil {
			err = os.WriteFile(*record, append(data, '\n'), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			os.Exit(1)
		}
	}
	if failed > 0 {
		stop()
		os.Exit(1)
	}
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
