package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// noise is what the machine does to everybody's packets when other programs keep it busy. All network namespaces share the CPUs' queues of
// packets and the kernel's tables of neighbours.
type noise struct {
	queues     int // packets dropped because a CPU's queue was full (net.core.netdev_max_backlog)
	neighbours int // times that neighbours in use were thrown out, since the table of all namespaces was full (net.ipv6.neigh.default.gc_thresh2)
}

// machineNoise counts from the machine's start. What cannot be read counts as none.
func machineNoise() (n noise) {
	for _, words := range table("/proc/net/softnet_stat") {
		if len(words) > 1 {
			n.queues += hex(words[1])
		}
	}
	for _, family := range []string{"arp_cache", "ndisc_cache"} {
		rows := table("/proc/net/stat/" + family)
		if len(rows) == 0 {
			continue
		}
		for column, name := range rows[0] {
			if !slices.Contains([]string{"forced_gc_runs", "table_fulls"}, name) {
				continue
			}
			for _, words := range rows[1:] { // one per CPU
				if column < len(words) {
					n.neighbours += hex(words[column])
				}
			}
		}
	}
	return n
}

func (n noise) since(before noise) noise {
	return noise{n.queues - before.queues, n.neighbours - before.neighbours}
}

func (n noise) String() string {
	return fmt.Sprintf("%d packets dropped from this machine's full queues, its table of neighbours full %d times", n.queues, n.neighbours)
}

// table reads a file of words in lines.
func table(path string) (rows [][]string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// hex reads a number as the kernel prints it in these files.
func hex(s string) int {
	n, _ := strconv.ParseUint(s, 16, 64) // a word that is no number counts nothing
	return int(n)
}
