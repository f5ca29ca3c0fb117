package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/service"
)

// lockSeconds is how long iptables waits for the xtables lock: others hold it for seconds on hosts with many rules.
const lockSeconds = 10

// finder keeps what go-iptables found out about the programs: it starts one to learn its version.
type finder struct {
	mu    sync.Mutex
	known map[string]*goiptables.IPTables // by path
}

func (f *finder) find(path string, proto goiptables.Protocol) (*goiptables.IPTables, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ipt := f.known[path]; ipt != nil {
		return ipt, nil
	}
	ipt, err := goiptables.New(goiptables.IPFamily(proto), goiptables.Timeout(lockSeconds), goiptables.Path(path))
	if err != nil {
		return nil, err
	}
	if f.known == nil {
		f.known = map[string]*goiptables.IPTables{}
	}
	f.known[path] = ipt
	return ipt, nil
}

// path returns the program of a family.
func (t *Tools) path(f service.Family) (string, error) {
	name := "iptables"
	if f == service.IPv6 {
		name = "ip6tables"
		if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
			return "", fmt.Errorf("the kernel has no IPv6: %w", err)
		}
	}
	switch t.Variant {
	case Auto:
	case Legacy, NFT:
		name += "-" + string(t.Variant)
	default:
		return "", fmt.Errorf("iptables variant %q: want legacy, nft or nothing", t.Variant)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w: install the package iptables", name, err)
	}
	return path, nil
}

// Save runs iptables-save.
func (t *Tools) Save(ctx context.Context, f service.Family, table string) (string, error) {
	path, err := t.path(f)
	if err != nil {
		return "", err
	}
	return t.run(ctx, "", path+"-save", "-t", table)
}

// Restore runs iptables-restore.
func (t *Tools) Restore(ctx context.Context, f service.Family, input string) error {
	path, err := t.path(f)
	if err != nil {
		return err
	}
	if _, err = t.run(ctx, input, path+"-restore", "--noflush", "-w", strconv.Itoa(lockSeconds)); err != nil {
		return fmt.Errorf("%w%s", err, quoteLine(err.Error(), input))
	}
	return nil
}

var lineNumber = regexp.MustCompile(`line:? (\d+)`)

// quoteLine shows the line of the input that an error speaks of.
func quoteLine(text, input string) string {
	m := lineNumber.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	n, err := strconv.Atoi(m[1])
	lines := strings.Split(input, "\n")
	if err != nil || n < 1 || n > len(lines) {
		return ""
	}
	return fmt.Sprintf(" (%q)", lines[n-1])
}

// Rules lists a chain.
func (t *Tools) Rules(ctx context.Context, f service.Family, table, chain string) ([]string, error) {
	var rules []string
	err := t.one(ctx, f, func(ipt *goiptables.IPTables) error {
		lines, err := ipt.List(table, chain)
		for _, l := range lines {
			if args, ok := strings.CutPrefix(l, "-A "+chain+" "); ok {
				rules = append(rules, args)
			}
		}
		return err
	})
	return rules, err
}

// Insert puts a rule at the first place.
func (t *Tools) Insert(ctx context.Context, f service.Family, table, chain string, rule ...string) error {
	return t.one(ctx, f, func(ipt *goiptables.IPTables) error { return ipt.Insert(table, chain, 1, rule...) })
}

// Append puts a rule at the last place.
func (t *Tools) Append(ctx context.Context, f service.Family, table, chain string, rule ...string) error {
	return t.one(ctx, f, func(ipt *goiptables.IPTables) error { return ipt.Append(table, chain, rule...) })
}

// Delete removes a rule.
func (t *Tools) Delete(ctx context.Context, f service.Family, table, chain string, rule ...string) error {
	return t.one(ctx, f, func(ipt *goiptables.IPTables) error { return ipt.Delete(table, chain, rule...) })
}

// one does something with a rule of a built-in chain.
func (t *Tools) one(ctx context.Context, f service.Family, do func(*goiptables.IPTables) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path, err := t.path(f)
	if err != nil {
		return err
	}
	proto := goiptables.ProtocolIPv4
	if f == service.IPv6 {
		proto = goiptables.ProtocolIPv6
	}
	return t.in(func() error {
		ipt, err := t.found.find(path, proto)
		if err != nil {
			return err
		}
		return do(ipt)
	})
}

// run starts a program without a shell and with an empty environment.
func (t *Tools) run(ctx context.Context, stdin, path string, args ...string) (string, error) {
	var out string
	err := t.in(func() error {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = []string{"LC_ALL=C"}
		cmd.Stdin = strings.NewReader(stdin)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		out = stdout.String()
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(stderr.Bytes()))
		}
		return nil
	})
	return out, err
}

// in runs f in the namespace: processes that it starts belong to it.
func (t *Tools) in(f func() error) error {
	if t.Netns == "" {
		return f()
	}
	return netns.Do(t.Netns, f)
}
