package main

import (
	"fmt"
	"strings"
	"time"
)

// pair is what was measured of podnet-proxy and of kube-proxy; one may be missing.
func pair(found map[string]*measured) (ours, theirs measured) {
	if m := found["podnet-proxy"]; m != nil {
		ours = *m
	}
	if m := found["kube-proxy"]; m != nil {
		theirs = *m
	}
	return ours, theirs
}

// serviceRows adds the lines of one dataset.
func (b *bench) serviceRows(d dataset, found map[string]*measured, s serviceSettings) {
	ours, theirs := pair(found)
	what := func(text string) string { return fmt.Sprintf("%s, %s: %s", s.mode, d, text) }
	first, change := "", ""
	switch {
	case s.mode == "ipvs":
		first, change = ">= 10", ">= 10"
	case s.mode == "nftables" && d == dataset{5000, 10}:
		first, change = ">= 8", ">= 50, < 25 ms"
	}
	t := &b.table
	if s.mode != "ipvs" {
		t.times(what("first sync, from the end of the list"), ours.fromList, theirs.fromList, theirs, first)
	} else {
		t.times(what("first sync, from the end of the list until its metrics say so"), ours.synced, theirs.synced, theirs, first)
		t.times(what("first answers, from the end of the list"), ours.fromList, theirs.fromList, theirs, "")
	}
	t.times(what("first answers, from the start of the process"), ours.first, theirs.first, theirs, "")
	t.times(what("CPU time until it rests"), ours.firstCPU, theirs.firstCPU, theirs, "")
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p90", 0.9}} {
		o, p := time.Duration(0), time.Duration(0)
		if len(ours.changes) > 0 {
			o = ours.changes.quantile(q.at)
		}
		if len(theirs.changes) > 0 {
			p = theirs.changes.quantile(q.at)
		}
		t.times(what("one endpoint changes, "+q.name), o, p, theirs, change)
	}
	t.times(what("CPU time of one change"), ours.changeCPU, theirs.changeCPU, theirs, "")
	if ours.burst+theirs.burst > 0 {
		t.times(what(fmt.Sprintf("one endpoint each of %d Services changes at once", d.services/100)), ours.burst, theirs.burst, theirs, "")
	}
	if ours.restart+theirs.restart > 0 {
		t.times(what("killed and started again, until a change in between is in effect"), ours.restart, theirs.restart, theirs, "")
	}
	t.memory(what("resident memory after the changes, MiB"), ours.rss, theirs.rss)
	t.memory(what("peak, its own or of its largest child, MiB"), max(ours.high, ours.child), max(theirs.high, theirs.child))
	if ours.quiet || theirs.quiet {
		t.rows = append(t.rows, [5]string{what(fmt.Sprintf("CPU in the quiet, %v", s.quiet)), percent(ours), percent(theirs), "", "no work"})
	}
}

func percent(m measured) string {
	if !m.quiet {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*m.quietCPU)
}

// times adds a line of two durations, of which either may be missing: 0.
func (t *table) times(what string, ours, theirs time.Duration, peer measured, want string) {
	row := [5]string{what, "-", "-", "", want}
	if ours > 0 {
		row[1] = ms(ours)
	}
	switch {
	case theirs > 0 && ours > 0:
		row[2], row[3] = ms(theirs), fmt.Sprintf("%.2f", float64(theirs)/float64(ours))
	case theirs > 0:
		row[2] = ms(theirs)
	case peer.started && theirs == 0 && strings.Contains(what, ": first"):
		row[2] = fmt.Sprintf("not finished after %v", peer.limit)
		if ours > 0 && peer.limit > ours {
			row[3] = fmt.Sprintf("> %.0f", float64(peer.limit)/float64(ours))
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) memory(what string, ours, theirs float64) {
	row := [5]string{what, "-", "-", "", "< 1"}
	if ours > 0 {
		row[1] = fmt.Sprintf("%.1f", ours)
	}
	if theirs > 0 {
		row[2] = fmt.Sprintf("%.1f", theirs)
	}
	if ours > 0 && theirs > 0 {
		row[3] = fmt.Sprintf("%.2f", ours/theirs)
	}
	t.rows = append(t.rows, row)
}

// flatRows say how much more a change costs with the most Services than with the fewest.
func (b *bench) flatRows(changes map[string]map[int]time.Duration, s serviceSettings) {
	cells := map[string]string{}
	ratio := ""
	for name, by := range changes {
		least, most := 0, 0
		var low, high time.Duration
		for n, d := range by {
			if least == 0 || n < least {
				least = n
			}
			most = max(most, n)
			if low == 0 || d < low {
				low = d
			}
			high = max(high, d)
		}
		if least == most {
			continue
		}
		cells[name] = fmt.Sprintf("%s to %s (%d to %d)", ms(low), ms(high), least, most)
		if name == "podnet-proxy" {
			ratio = fmt.Sprintf("%.2f", float64(high)/float64(low))
		}
	}
	if len(cells) > 0 {
		b.table.rows = append(b.table.rows, [5]string{s.mode + ": one change, p50, least to most over the numbers of Services", cells["podnet-proxy"], cells["kube-proxy"], ratio, "<= 2"})
	}
}
