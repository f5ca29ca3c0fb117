package iptablestest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// Restore reads the input as iptables-restore --noflush does. A table takes effect at its COMMIT; what comes after a refused line does not.
func (k *Kernel) Restore(ctx context.Context, f service.Family, input string) error {
	if _, err := k.enter(ctx, Call{Method: "Restore", Family: f, Text: input}); err != nil {
		return err
	}
	defer k.mu.Unlock()
	r := restore{kernel: k, family: f}
	for line := range strings.Lines(input) {
		r.number++
		if err := r.line(strings.TrimRight(line, "\n")); err != nil {
			return fmt.Errorf("iptables-restore: line %d failed: %w (%q)", r.number, err, line)
		}
	}
	if r.table != "" {
		return errors.New("iptables-restore: COMMIT expected")
	}
	k.writes++
	return nil
}

// restore is one run of iptables-restore.
type restore struct {
	kernel *Kernel
	family service.Family
	number int
	table  string
	chains chains // of the table, until COMMIT
}

func (r *restore) line(line string) error {
	switch {
	case line == "" || line[0] == '#':
		return nil
	case line[0] == '*' && r.table == "":
		t, err := r.kernel.table(r.family, line[1:])
		r.table, r.chains = line[1:], maps.Clone(t)
		return err
	case r.table == "":
		return errors.New("no table")
	case line == "COMMIT":
		return r.commit()
	case line[0] == ':':
		return r.declare(line[1:])
	}
	verb, rest, _ := strings.Cut(line, " ")
	chain, args, _ := strings.Cut(rest, " ")
	if _, ok := r.chains[chain]; !ok {
		return errNoChain
	}
	switch verb {
	case "-A":
		parsed, err := parseRule(split(args), int(r.family))
		if err != nil {
			return err
		}
		if err := r.kernel.takes(r.chains, chain, parsed); err != nil {
			return err
		}
		r.chains[chain] = append(slices.Clip(r.chains[chain]), parsed)
		return nil
	case "-F":
		r.chains[chain] = nil
		return nil
	case "-X":
		return r.remove(chain)
	}
	return fmt.Errorf("unknown option %q", verb)
}

// declare makes a chain, or empties it.
func (r *restore) declare(line string) error {
	name, _, _ := strings.Cut(line, " ")
	if name == "" || len(name) > 28 || strings.HasPrefix(name, "-") || strings.ContainsAny(name, `"!`) {
		return fmt.Errorf("invalid chain name %q", name)
	}
	r.chains[name] = nil
	return nil
}

// remove refuses what the kernel refuses: a chain with rules, or one that a rule leads to.
func (r *restore) remove(chain string) error {
	if len(r.chains[chain]) > 0 {
		return errors.New("directory not empty")
	}
	if slices.Contains(builtin()[r.table], chain) {
		return errors.New("built-in chain")
	}
	for _, rules := range r.chains {
		if slices.ContainsFunc(rules, func(x rule) bool { return x.target == chain }) {
			return errors.New("too many links")
		}
	}
	delete(r.chains, chain)
	return nil
}

func (r *restore) commit() error {
	r.kernel.tables[place{r.family, r.table}] = r.chains
	r.table, r.chains = "", nil
	return nil
}
