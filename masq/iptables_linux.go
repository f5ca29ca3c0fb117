package masq

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// lockSeconds is how long iptables waits for the xtables lock. Hosts with many Services hold it for seconds; for ever would hang a pod's start.
const lockSeconds = 10

// iptablesPath returns the binary for a family.
func iptablesPath(f Family) (string, error) {
	name := Chain{Family: f}.iptables()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w: install the package iptables", name, err)
	}
	return path, nil
}

// observeIPTables runs one iptables-save, the one that belongs to the iptables that writes. Without iptables there are no rules of ours.
func observeIPTables(ctx context.Context, chains []Chain) (map[Chain]Observed, error) {
	path, err := iptablesPath(chains[0].Family)
	if err != nil {
		return nil, nil
	}
	dump, err := run(ctx, nil, path+"-save")
	if err != nil {
		return nil, err
	}
	return parseSave(dump, chains), nil
}

// parseSave finds the chains in the output of iptables-save.
func parseSave(dump []byte, chains []Chain) map[Chain]Observed {
	have := map[Chain]Observed{}
	table := ""
	lines := bufio.NewScanner(bytes.NewReader(dump))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "*") {
			table = line[1:]
			continue
		}
		for _, c := range chains {
			if c.Table != table {
				continue
			}
			seen, exists := have[c]
			switch {
			case strings.HasPrefix(line, ":"+c.Name+" "):
				exists = true
			case strings.HasPrefix(line, "-A "+c.Name+" "):
				seen.Comments = append(seen.Comments, commentOf(fields(line)))
			case references(line, c):
				seen.Hooks++
				if line != jumpLine(c) {
					seen.Hooks++ // a jump under conditions is not ours: one is never right
				}
			}
			if exists || seen.Hooks > 0 || seen.Comments != nil {
				have[c] = seen
			}
		}
	}
	return have
}

func jumpLine(c Chain) string { return "-A " + c.parent() + " " + quoted(jump(c)) }

// references reports whether a line of iptables-save or iptables -S is a rule of the built-in chain that leads to c.
func references(line string, c Chain) bool {
	return strings.HasPrefix(line, "-A "+c.parent()+" ") && strings.HasSuffix(line, " "+c.Name)
}

// fields splits a line as iptables-save writes it: blanks separate, double quotes group.
func fields(line string) []string {
	var out []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

func commentOf(args []string) string {
	for i := range args[:len(args)-1] {
		if args[i] == "--comment" {
			return args[i+1]
		}
	}
	return ""
}

// setIPTables writes the chain's rules by one iptables-restore, because go-iptables can only flush and append, between which packets would
// leave untranslated. A new chain is complete before the jump leads to it.
func setIPTables(ctx context.Context, s Ruleset) error {
	path, err := iptablesPath(s.Chain.Family)
	if err != nil {
		return err
	}
	ipt, err := goIPTables(s.Chain.Family)
	if err != nil {
		return err
	}
	if !ipt.HasRandomFully() {
		major, minor, patch := ipt.GetIptablesVersion()
		return fmt.Errorf("%s %d.%d.%d is too old: 1.6.2 is needed (--random-fully)", path, major, minor, patch)
	}
	var body bytes.Buffer
	fmt.Fprintf(&body, "*%s\n:%s - [0:0]\n", s.Chain.Table, s.Chain.Name)
	for _, r := range s.Rules {
		fmt.Fprintf(&body, "-A %s %s\n", s.Chain.Name, quoted(r.iptables()))
	}
	body.WriteString("COMMIT\n")
	if _, err := run(ctx, body.Bytes(), path+"-restore", "--noflush", "-w", strconv.Itoa(lockSeconds)); err != nil {
		return err
	}
	// At the end, as every other program's rules for its own traffic: ours are about the pod ranges only.
	if err := ipt.AppendUnique(s.Chain.Table, s.Chain.parent(), jump(s.Chain)...); err != nil {
		return err
	}
	return removeJumps(ipt, s.Chain, 1)
}

// deleteIPTables removes the jumps, then the chain.
func deleteIPTables(c Chain) error {
	ipt, err := goIPTables(c.Family)
	if err != nil {
		return err
	}
	if err := removeJumps(ipt, c, 0); err != nil {
		return err
	}
	exists, err := ipt.ChainExists(c.Table, c.Name)
	if err != nil || !exists {
		return err
	}
	return ipt.ClearAndDeleteChain(c.Table, c.Name)
}

// removeJumps deletes the rules that lead to c but for keep of ours. It names each rule in full: a number might mean another one by then.
func removeJumps(ipt *iptables.IPTables, c Chain, keep int) error {
	lines, err := ipt.List(c.Table, c.parent())
	if err != nil {
		return err
	}
	for _, line := range lines {
		if !references(line, c) {
			continue
		}
		if keep > 0 && line == jumpLine(c) {
			keep--
			continue
		}
		if err := ipt.Delete(c.Table, c.parent(), fields(line)[2:]...); err != nil {
			return err
		}
	}
	return nil
}

func goIPTables(f Family) (*iptables.IPTables, error) {
	proto := iptables.ProtocolIPv4
	if f == IPv6 {
		proto = iptables.ProtocolIPv6
	}
	return iptables.New(iptables.IPFamily(proto), iptables.Timeout(lockSeconds))
}

// run starts a program without a shell and with an empty environment.
func run(ctx context.Context, stdin []byte, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
