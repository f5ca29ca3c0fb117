package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// readResolvConf reads a resolver configuration (resolv.conf(5)), as host-local does with ipam.resolvConf.
func readResolvConf(path string) (types.DNS, error) {
	if !filepath.IsAbs(path) {
		return types.DNS{}, fmt.Errorf("ipam.resolvConf %q: want an absolute path", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return types.DNS{}, fmt.Errorf("ipam.resolvConf: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxStdin))
	if err != nil {
		return types.DNS{}, fmt.Errorf("ipam.resolvConf: %w", err)
	}
	return parseResolvConf(string(text)), nil
}

func parseResolvConf(text string) types.DNS {
	var dns types.DNS
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0][0] == '#' || words[0][0] == ';' {
			continue
		}
		switch words[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, words[1])
		case "domain":
			dns.Domain = words[1]
		case "search":
			dns.Search = append(dns.Search, words[1:]...)
		case "options":
			dns.Options = append(dns.Options, words[1:]...)
		}
	}
	return dns
}
