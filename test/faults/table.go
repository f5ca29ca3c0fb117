package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// The states of a row, from bad to good.
const (
	failed    = "FAIL"
	missing   = "NOT RUN" // a test was skipped, or is not there
	passed    = "pass"
	notTested = "-"
)

// state of a row is that of its worst test.
func state(r row, outcomes map[string]outcome) string {
	if len(r.Tests) == 0 {
		return notTested
	}
	s := passed
	for _, t := range r.Tests {
		switch o, ok := outcomes[t]; {
		case ok && o.Result == "fail":
			return failed
		case !ok || o.Result == "skip":
			s = missing
		}
	}
	return s
}

// outages returns what the tests of a row measured as outage, in their order: 12 ms with the event, 7,000 without.
func outages(r row, outcomes map[string]outcome) string {
	var all []string
	for _, t := range r.Tests {
		if ms := outcomes[t].Attrs["outage"]; ms != "" {
			if strings.Contains(t, "/silent/") {
				ms += " (no event)"
			}
			all = append(all, strings.Replace(ms, "ms", " ms", 1))
		}
	}
	return strings.Join(all, ", ")
}

// measured are the other things that are measured, in the order in which they are told.
var measured = []struct{ key, text string }{
	{"lost", "lost %s packets"}, {"detected", "noticed after %s"}, {"recovered", "in touch again after %s"}, {"held", "held for %s"}, {"cpu", "%s of a CPU"}, {"failed", "%s connections failed"}, {"change", "a change takes %s"}, {"memory", "%s at the peak"},
}

func figures(r row, outcomes map[string]outcome) string {
	var all []string
	for _, t := range r.Tests {
		for _, m := range measured {
			if v := outcomes[t].Attrs[m.key]; v != "" {
				all = append(all, fmt.Sprintf(m.text, strings.TrimSuffix(v, "ms")+map[bool]string{true: " ms"}[strings.HasSuffix(v, "ms")]))
			}
		}
	}
	return strings.Join(all, ", ")
}

// printTable prints the rows, and returns how many are not proven though they have tests.
func printTable(w io.Writer, areas []area, only *regexp.Regexp, outcomes map[string]outcome) (bad int) {
	count := map[string]int{}
	for _, a := range areas {
		head := false
		for _, r := range a.Rows {
			if !only.MatchString(r.ID) {
				continue
			}
			if !head {
				fmt.Fprintf(w, "\n%s\n", a.Name)
				head = true
			}
			s := state(r, outcomes)
			count[s]++
			line := fmt.Sprintf("%-4s %-8s %-62s %s", r.ID, s, r.Fault, outages(r, outcomes))
			if f := figures(r, outcomes); f != "" {
				line += "; " + f
			}
			if s == notTested {
				line += r.Reason
			}
			fmt.Fprintln(w, strings.TrimRight(line, " "))
			for _, t := range r.Tests {
				if o, ok := outcomes[t]; !ok || o.Result != "pass" {
					fmt.Fprintf(w, "%13s %s: %s\n", "", t, map[bool]string{true: o.Result, false: "did not run"}[ok])
				}
			}
		}
	}
	fmt.Fprintf(w, "\n%d faults: %d pass, %d fail, %d not run, %d not tested (with the reason)\n",
		count[passed]+count[failed]+count[missing]+count[notTested], count[passed], count[failed], count[missing], count[notTested])
	return count[failed] + count[missing]
}

// markdown is docs/faults.md.
func markdown(areas []area, outcomes map[string]outcome) string {
	var b strings.Builder
	b.WriteString(`# Faults

What goes wrong in real clusters, what has to come of it, and which test proves that on the real kernel, with the real binaries and a real API server. ` +
		"`make faults`" + ` runs them all and prints this table with what it measured; it needs root and takes minutes.

The figures are of one run on a machine with 2 CPUs that had other things to do. Outage is the longest time without an answer at 1,000 packets a second, or, where packets
do not feel the fault, until it was repaired. "No event" is an agent that hears nothing of the kernel: it looks every 9 s.

This file is made of test/faults/catalogue.go: ` + "`go test ./test/faults -update`.\n")
	for _, a := range areas {
		fmt.Fprintf(&b, "\n## %s\n\n| | Fault | What has to come of it | Proved by | Measured |\n|---|---|---|---|---|\n", a.Name)
		for _, r := range a.Rows {
			var proof []string
			for _, t := range r.Tests {
				pkg, name, _ := split(t)
				proof = append(proof, fmt.Sprintf("%s `%s`", pkg, name))
			}
			if r.Reason != "" && len(proof) > 0 {
				proof = append(proof, "("+r.Reason+")")
			} else if r.Reason != "" {
				proof = append(proof, "not tested: "+r.Reason)
			}
			said := outages(r, outcomes)
			if f := figures(r, outcomes); f != "" {
				said = strings.TrimPrefix(said+"; "+f, "; ")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.ID, r.Fault, r.Want, strings.Join(proof, "<br>"), said)
		}
	}
	return b.String()
}
