package subnetenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The keys, as flannel writes them (pkg/subnet/subnet.go, 2026).
const (
	keyNetwork     = "FLANNEL_NETWORK"
	keySubnet      = "FLANNEL_SUBNET"
	keyIPv6Network = "FLANNEL_IPV6_NETWORK"
	keyIPv6Subnet  = "FLANNEL_IPV6_SUBNET"
	keyMTU         = "FLANNEL_MTU"
	keyIPMasq      = "FLANNEL_IPMASQ"
)

// maxSize bounds what is read: a real file has about 150 bytes.
const maxSize = 64 << 10

// families are the keys of each address family, in the order of the file.
var families = []struct {
	network, subnet string
	is              func(netip.Addr) bool
}{
	{keyNetwork, keySubnet, netip.Addr.Is4},
	{keyIPv6Network, keyIPv6Subnet, netip.Addr.Is6},
}

// Env is what a node's subnet file says.
type Env struct {
	// Networks are the CIDRs of all pods of the cluster, both families. flannel writes one per family; a comma list is read and written too.
	Networks []netip.Prefix
	// Subnets are this node's podCIDRs, at most one per family, with the address of the gateway (10.244.1.1/24).
	Subnets []netip.Prefix
	// MTU is the MTU of a pod's interface in bytes.
	MTU int
	// IPMasq says that the agent masquerades what leaves the cluster, so that the plugin need not.
	IPMasq bool
}

// Validate returns every fault, each with its key and value.
func (e Env) Validate() error {
	var faults []error
	if len(e.Networks) == 0 {
		faults = append(faults, fmt.Errorf("%s and %s: neither is set: want the pods' CIDR of at least one family", keyNetwork, keyIPv6Network))
	}
	if len(e.Subnets) == 0 {
		faults = append(faults, fmt.Errorf("%s and %s: neither is set: want this node's podCIDR of at least one family", keySubnet, keyIPv6Subnet))
	}
	for _, f := range families {
		if n := len(ofFamily(e.Subnets, f.is)); n > 1 {
			faults = append(faults, fmt.Errorf("%s: %d subnets: want one", f.subnet, n))
		}
	}
	for _, p := range e.Networks {
		faults = append(faults, checkPrefix("network", p))
	}
	for _, p := range e.Subnets {
		faults = append(faults, checkPrefix("subnet", p))
	}
	if e.MTU < 0 || e.MTU > 65535 {
		faults = append(faults, fmt.Errorf("%s %d: want 0 (the kernel's default) to 65535", keyMTU, e.MTU))
	}
	return errors.Join(faults...)
}

func checkPrefix(what string, p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%s %v: want a CIDR such as 10.244.1.1/24 or fd00:244::1/64", what, p)
	case p.Addr().Is4In6():
		return fmt.Errorf("%s %v: an IPv4-mapped IPv6 address: want plain IPv4 or IPv6", what, p)
	case p.Bits() == 0:
		return fmt.Errorf("%s %v: covers every address: want a prefix length of 1 or more", what, p)
	}
	return nil
}

// String returns the file's text. An Env that is not valid gives the text of its valid parts.
func (e Env) String() string {
	var b strings.Builder
	for _, f := range families {
		if nets := ofFamily(e.Networks, f.is); len(nets) > 0 {
			fmt.Fprintf(&b, "%s=%s\n", f.network, joinPrefixes(nets))
		}
		if subs := ofFamily(e.Subnets, f.is); len(subs) > 0 {
			fmt.Fprintf(&b, "%s=%s\n", f.subnet, subs[0])
		}
	}
	fmt.Fprintf(&b, "%s=%d\n%s=%t\n", keyMTU, e.MTU, keyIPMasq, e.IPMasq)
	return b.String()
}

func ofFamily(ps []netip.Prefix, is func(netip.Addr) bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		if is(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

func joinPrefixes(ps []netip.Prefix) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}

// Parse reads a file's text. Blank lines, comments (#) and unknown keys are skipped; of a key that stands twice the last one counts, as in
// a shell. MTU and IPMASQ must be there: they are the last lines, so a file that was cut is noticed.
func Parse(text []byte) (Env, error) {
	if len(text) > maxSize {
		return Env{}, fmt.Errorf("%d bytes: want at most %d", len(text), maxSize)
	}
	values, err := keyValues(text)
	if err != nil {
		return Env{}, err
	}
	var e Env
	var faults []error
	for _, f := range families {
		for _, word := range strings.Split(values[f.network], ",") {
			if word = strings.TrimSpace(word); word == "" {
				continue
			}
			p, err := parsePrefix(f.network, word, f.is)
			faults = append(faults, err)
			e.Networks = append(e.Networks, p.Masked())
		}
		if word := values[f.subnet]; word != "" {
			p, err := parsePrefix(f.subnet, word, f.is)
			faults = append(faults, err)
			e.Subnets = append(e.Subnets, p)
		}
	}
	if e.MTU, err = strconv.Atoi(values[keyMTU]); err != nil {
		faults = append(faults, fmt.Errorf("%s %q: want a number of bytes", keyMTU, values[keyMTU]))
	}
	if e.IPMasq, err = strconv.ParseBool(values[keyIPMasq]); err != nil {
		faults = append(faults, fmt.Errorf("%s %q: want true or false", keyIPMasq, values[keyIPMasq]))
	}
	if err := errors.Join(faults...); err != nil {
		return Env{}, err
	}
	if err := e.Validate(); err != nil {
		return Env{}, err
	}
	return e, nil
}

func keyValues(text []byte) (map[string]string, error) {
	values := make(map[string]string, 8)
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, value, found := bytes.Cut(line, []byte("="))
		if !found {
			return nil, fmt.Errorf("line %d %q: want KEY=VALUE", number, line)
		}
		values[string(bytes.TrimSpace(key))] = string(bytes.TrimSpace(value))
	}
	return values, nil
}

func parsePrefix(key, word string, is func(netip.Addr) bool) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(word)
	if err != nil || !is(p.Addr()) {
		want := "an IPv4 CIDR such as 10.244.1.1/24"
		if is(netip.IPv6Unspecified()) {
			want = "an IPv6 CIDR such as fd00:244::1/64"
		}
		return netip.Prefix{}, fmt.Errorf("%s %q: want %s", key, word, want)
	}
	return p, nil
}

// Read reads a file. A missing file is an error that matches [io/fs.ErrNotExist].
func Read(path string) (Env, error) {
	f, err := os.Open(path)
	if err != nil {
		return Env{}, fmt.Errorf("read subnet file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return Env{}, fmt.Errorf("read subnet file: %w", err)
	}
	e, err := Parse(text)
	if err != nil {
		return Env{}, fmt.Errorf("read subnet file %s: %w", path, err)
	}
	return e, nil
}

// Write replaces the file at path (mode 0644, its directory is made if missing) atomically and durably. An Env that is not valid is not written.
func Write(path string, e Env) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("write subnet file %s: %w", path, err)
	}
	dir, base := filepath.Split(filepath.Clean(path))
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write subnet file: %w", err)
	}
	if err := replace(dir, base, e.String()); err != nil {
		return fmt.Errorf("write subnet file: %w", err)
	}
	return nil
}

// replace writes a temporary file in the same directory, makes it durable, renames it over base and makes the rename durable.
func replace(dir, base, text string) (err error) {
	f, err := os.CreateTemp(dir, "."+base+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, werr := f.WriteString(text)
	if err := errors.Join(werr, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, base)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
