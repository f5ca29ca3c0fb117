package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Config says what to run in a guest, and in which. Only Argv is needed.
type Config struct {
	// Argv is the program and its arguments; a program without a slash is looked for in the guest's PATH.
	Argv []string
	// Env is added to, or replaces, the variables that the command gets: PATH, HOME, LANG, TMPDIR, and PODNET_VM=1, by which it knows where it is.
	Env []string
	// Dir is the directory it runs in; "" is the root.
	Dir string
	// Stdout and Stderr get its output while it runs; nil discards it. If they are the same, what arrives is in the order in which it was written.
	Stdout, Stderr io.Writer

	// Guest is the directory that test/vm/build filled; "" is where it does by itself, see [Find].
	Guest string
	// Console gets what the kernel and the guest's own scripts print; nil keeps only the tail, for errors.
	Console io.Writer
	// Writable are directories of the machine, by absolute paths, that the guest shall be able to write: how files get out of it.
	Writable []string
	// Modules are loaded besides those of [Modules], which the guest always has.
	Modules []string
	// Network gives the guest an interface eth0 whose packets reach the machine's loopback as 10.0.2.2, by qemu's user-mode network.
	Network bool
	// CPUs and MemoryMiB are the guest's; 0 is 2 and 3072. What the guest writes to its files is in its memory too.
	CPUs, MemoryMiB int
	// Accel is qemu's accelerator; "" is tcg, which runs everywhere and is slow. "kvm" is fast where it works.
	Accel string
}

// Modules are loaded before the command starts: those that the kernel does not load when they are needed, or whose sysctls are there only once they are
// loaded. Others are found by the kernel, as on any Debian: schedulers of IPVS, expressions of nftables, matches of iptables, kinds of links, qdiscs, SCTP.
func Modules() []string {
	return []string{"ip_vs", "nf_conntrack", "nf_conntrack_netlink", "br_netfilter"}
}

// Dir is where test/vm/build puts the guest, and where [Find] looks for it: $PODNET_VM_GUEST, or podnet/vm in the user's cache directory.
func Dir() (string, error) {
	if dir := os.Getenv("PODNET_VM_GUEST"); dir != "" {
		return dir, nil
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "podnet", "vm"), nil
}

// Find returns the directory of the guest, or an error that says how to make one.
func Find() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return dir, check(dir)
}

func check(dir string) error {
	for _, name := range []string{"vmlinuz", "initrd", "release", "stamp"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("no guest: %w: test/vm/build makes it", err)
		}
	}
	return nil
}

// complete checks the configuration and sets what is left out.
func (c Config) complete() (Config, error) {
	var errs []error
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		errs = append(errs, errors.New("vm: Argv is empty"))
	}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			errs = append(errs, fmt.Errorf("vm: Env: %q is not NAME=VALUE", e))
		}
	}
	for _, dir := range c.Writable {
		// A comma separates qemu's options.
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || !filepath.IsAbs(dir) || strings.Contains(dir, ",") {
			errs = append(errs, fmt.Errorf("vm: Writable: %q is not the absolute path of a directory, without a comma", dir))
		}
	}
	for _, m := range c.Modules {
		if m == "" || strings.ContainsAny(m, " \t\n'\"\\$`*?[") {
			errs = append(errs, fmt.Errorf("vm: Modules: %q is not the name of a module", m))
		}
	}
	if c.CPUs < 0 || c.MemoryMiB < 0 {
		errs = append(errs, fmt.Errorf("vm: CPUs %d and MemoryMiB %d: want 0 or more", c.CPUs, c.MemoryMiB))
	}
	if c.Guest == "" {
		dir, err := Find()
		errs = append(errs, err)
		c.Guest = dir
	} else {
		errs = append(errs, check(c.Guest))
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 3072
	}
	if c.Accel == "" {
		c.Accel = "tcg,thread=multi"
	}
	if c.Dir == "" {
		c.Dir = "/"
	}
	return c, errors.Join(errs...)
}
