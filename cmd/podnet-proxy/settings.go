package main

import (
	"math"
	"os"
	"strings"

	"github.com/podnet/podnet/service/conntrack"
)

// settings are the kernel's, with those of the network where --sysctl-dir says: a container cannot write to its own /proc/sys, whatever its capabilities.
type settings struct {
	conntrack.Machine
	dir string
	all bool // also those outside of /proc/sys; else those that cannot be written are left alone
}

// path is where a setting really is.
func (s settings) path(path string) string {
	const usual = "/proc/sys/"
	if rest, ok := strings.CutPrefix(path, usual); ok && s.dir != "" {
		return strings.TrimRight(s.dir, "/") + "/" + rest
	}
	return path
}

// Read implements conntrack.Files. The size of the hash table (below /sys, read-only in a container) counts as large enough if it cannot be written: the table then
// has longer chains, as it has for everybody who has never heard of that parameter.
func (s settings) Read(path string) (int, error) {
	n, err := s.Machine.Read(s.path(path))
	if err == nil && !s.all && strings.HasPrefix(path, "/sys/") {
		f, fault := os.OpenFile(path, os.O_WRONLY, 0)
		if fault != nil {
			return math.MaxInt, nil
		}
		_ = f.Close()
	}
	return n, err
}

// Write implements conntrack.Files.
func (s settings) Write(w conntrack.Setting) error {
	return s.Machine.Write(conntrack.Setting{Path: s.path(w.Path), Value: w.Value})
}
