package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// sample holds the durations of one kind of operation.
type sample []time.Duration

func (s *sample) add(d time.Duration) { *s = append(*s, d) }

func (s sample) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)]
}

type table struct{ rows [][5]string }

// ratio adds a line in which a measured ratio is held against its target: "8x" is wanted at least, "1.3x" at most.
func (t *table) ratio(what, ours, theirs string, ratio float64, want string) {
	t.rows = append(t.rows, [5]string{what, ours, theirs, fmt.Sprintf("%.2f", ratio), want})
}

// faster adds lines for the median and the 90th percentile: how many times the peer's time ours fits in.
func (t *table) faster(what string, ours, theirs sample, want string) {
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p90", 0.9}} {
		o, p := ours.quantile(q.at), theirs.quantile(q.at)
		t.ratio(what+", "+q.name, ms(o), ms(p), float64(p)/float64(o), want)
	}
}

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "measured\tpodnet\tpeer\tratio\taim")
	for _, r := range t.rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", r[0], r[1], r[2], r[3], r[4])
	}
	tw.Flush()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
