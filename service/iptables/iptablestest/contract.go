package iptablestest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
)

// contract is a kernel under the contract, in one family.
type contract struct {
	*testing.T
	kernel iptables.Kernel
	family service.Family
}

// Contract checks what service/iptables relies on in a kernel. It must have no rules, and may be changed by nobody else during the test.
func Contract(t *testing.T, k iptables.Kernel) {
	for _, f := range service.Families() {
		t.Run(f.String(), func(t *testing.T) {
			c := contract{t, k, f}
			t.Run("restore", func(t *testing.T) { c.T = t; c.restore() })
			t.Run("refusals", func(t *testing.T) { c.T = t; c.refusals() })
			t.Run("hooks", func(t *testing.T) { c.T = t; c.hooks() })
			t.Run("context", func(t *testing.T) { c.T = t; c.cancelled() })
		})
	}
}

// lines returns what Save says about chains that begin with T-, as names and the rules' targets and comments.
func (c contract) holds(table string, want ...string) {
	c.Helper()
	text, err := c.kernel.Save(c.Context(), c.family, table)
	if err != nil {
		c.Fatalf("Save: %v", err)
	}
	var have []string
	for line := range strings.Lines(text) {
		words := split(line)
		switch {
		case strings.HasPrefix(line, ":T-"):
			have = append(have, words[0])
		case strings.HasPrefix(line, "-A T-"):
			have = append(have, words[1]+" "+after(words, "--comment")+" "+after(words, "-j")+after(words, "-g"))
		}
	}
	slices.Sort(have)
	if slices.Sort(want); !slices.Equal(have, want) {
		c.Fatalf("table %s holds %q, want %q in:\n%s", table, have, want, text)
	}
}

func after(words []string, flag string) string {
	if i := slices.Index(words, flag); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

func (c contract) put(lines ...string) error {
	return c.kernel.Restore(c.Context(), c.family, strings.Join(lines, "\n")+"\n")
}

func (c contract) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c contract) restore() {
	c.holds("nat")
	longest := "T-" + strings.Repeat("X", 26)
	c.must(c.put("*nat", ":T-A - [0:0]", ":"+longest+" - [0:0]",
		`-A T-A -m comment --comment "podnet-0123456789abcdef-3 ns/name:port" -p tcp --dport 80 -j `+longest,
		"-A T-A -p udp --dport 53:60 -m comment --comment two -g "+longest, "-A T-A -m comment --comment three", "COMMIT"))
	all := []string{":T-A", ":" + longest, "T-A podnet-0123456789abcdef-3 ns/name:port " + longest, "T-A two " + longest, "T-A three "}
	c.holds("nat", all...)
	c.holds("filter")

	// What is not declared stays; what is declared is emptied, and filled, in one step.
	c.must(c.put("*nat", ":T-B - [0:0]", "-A T-B -m comment --comment b -j RETURN", "COMMIT"))
	c.holds("nat", append(all, ":T-B", "T-B b RETURN")...)
	c.must(c.put("*nat", ":T-A - [0:0]", ":T-C - [0:0]", "-A T-A -m comment --comment new -j T-C", "COMMIT"))
	c.holds("nat", ":T-A", "T-A new T-C", ":T-B", "T-B b RETURN", ":T-C", ":"+longest)

	// Several tables in one input; chains go when nothing leads to them any more.
	c.must(c.put("*nat", ":T-A - [0:0]", ":T-C - [0:0]", "-X T-C", ":T-D - [0:0]", "-A T-A -m comment --comment d -j T-D", "COMMIT", "*filter", ":T-F - [0:0]", "-A T-F -m comment --comment f -j REJECT", "COMMIT"))
	c.holds("nat", ":T-A", "T-A d T-D", ":T-B", "T-B b RETURN", ":T-D", ":"+longest)
	c.holds("filter", ":T-F", "T-F f REJECT")
	c.must(c.put("*nat", ":T-A - [0:0]", ":T-B - [0:0]", ":T-D - [0:0]", ":"+longest+" - [0:0]", "-X T-A", "-X T-B", "-X T-D", "-X "+longest, "COMMIT", "*filter", ":T-F - [0:0]", "-X T-F", "COMMIT"))
	c.holds("nat")
	c.holds("filter")
	// Removing what is not there, after it was declared.
	c.must(c.put("*nat", ":T-A - [0:0]", "-X T-A", "COMMIT"))
	c.holds("nat")
}

// refusals change nothing in their table.
func (c contract) refusals() {
	c.must(c.put("*nat", ":T-A - [0:0]", ":T-B - [0:0]", "-A T-A -m comment --comment a -j T-B", "COMMIT"))
	here := []string{":T-A", ":T-B", "T-A a T-B"}
	other := "192.0.2.1"
	if c.family == service.IPv4 {
		other = "2001:db8::1"
	}
	for name, line := range map[string]string{
		"a chain that is not there":    "-A T-A -j T-NOBODY",
		"a chain that is in use":       "-X T-B",
		"an address of another family": "-A T-A -d " + other + " -j RETURN",
		"an option":                    "-A T-A --nonsense 1 -j RETURN",
		"a port without protocol":      "-A T-A --dport 80 -j RETURN",
		"a rule in no chain":           "-A T-NOBODY -j RETURN",
		"a name of 29 bytes":           ":T-" + strings.Repeat("X", 27) + " - [0:0]",
	} {
		if err := c.put("*nat", ":T-Z - [0:0]", line, "COMMIT"); err == nil {
			c.Errorf("Restore of %s (%s): no error", name, line)
		}
		c.holds("nat", here...)
	}
	// Each table is written by itself: the first one is in place when the second is refused.
	if err := c.put("*filter", ":T-F - [0:0]", "COMMIT", "*nat", ":T-Z - [0:0]", "-A T-A -j T-NOBODY", "COMMIT"); err == nil {
		c.Error("Restore with a refused second table: no error")
	}
	c.holds("nat", here...)
	c.must(c.put("*filter", ":T-F - [0:0]", "-X T-F", "COMMIT", "*nat", ":T-A - [0:0]", ":T-B - [0:0]", "-X T-A", "-X T-B", "COMMIT"))
	c.holds("filter")
}

// hooks are rules in built-in chains.
func (c contract) hooks() {
	ctx, k := c.Context(), c.kernel
	c.must(c.put("*filter", ":T-A - [0:0]", ":T-B - [0:0]", "COMMIT"))
	rule := func(to string) []string {
		return []string{"-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", "two words", "-j", to}
	}
	rules := func(want ...string) {
		c.Helper()
		list, err := k.Rules(ctx, c.family, "filter", "FORWARD")
		if err != nil {
			c.Fatalf("Rules: %v", err)
		}
		var have []string
		for _, r := range list {
			words := split(r)
			if to := after(words, "-j"); slices.Equal(words, rule(to)) {
				have = append(have, to)
			} else {
				c.Errorf("Rules: %q, want %q", words, rule(to))
			}
		}
		if !slices.Equal(have, want) {
			c.Errorf("rules lead to %q, want %q", have, want)
		}
		text, err := k.Save(ctx, c.family, "filter")
		if n := strings.Count(text, "-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"two words\" -j T-"); err != nil || n != len(want) {
			c.Errorf("Save prints %d of these rules, want %d, %v:\n%s", n, len(want), err, text)
		}
	}
	rules()
	c.must(k.Append(ctx, c.family, "filter", "FORWARD", rule("T-A")...))
	c.must(k.Insert(ctx, c.family, "filter", "FORWARD", rule("T-B")...))
	c.must(k.Append(ctx, c.family, "filter", "FORWARD", rule("T-B")...))
	rules("T-B", "T-A", "T-B")
	c.must(k.Delete(ctx, c.family, "filter", "FORWARD", rule("T-B")...))
	rules("T-A", "T-B")
	c.must(k.Delete(ctx, c.family, "filter", "FORWARD", rule("T-B")...))
	if err := k.Delete(ctx, c.family, "filter", "FORWARD", rule("T-B")...); err == nil {
		c.Error("Delete of a rule that is not there: no error")
	}
	if err := k.Insert(ctx, c.family, "filter", "FORWARD", rule("T-NOBODY")...); err == nil {
		c.Error("Insert of a rule to a chain that is not there: no error")
	}
	if err := c.put("*filter", ":T-A - [0:0]", "-X T-A", "COMMIT"); err == nil {
		c.Error("a chain went that a built-in one leads to")
	}
	rules("T-A")
	c.must(k.Delete(ctx, c.family, "filter", "FORWARD", rule("T-A")...))
	c.must(c.put("*filter", ":T-A - [0:0]", ":T-B - [0:0]", "-X T-A", "-X T-B", "COMMIT"))
	if _, err := k.Rules(ctx, c.family, "filter", "T-A"); err == nil {
		c.Error("Rules of a chain that is not there: no error")
	}
}

func (c contract) cancelled() {
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	if _, err := c.kernel.Save(ctx, c.family, "nat"); err == nil {
		c.Error("Save with a cancelled context: no error")
	}
	if err := c.kernel.Restore(ctx, c.family, "*nat\n:T-A - [0:0]\nCOMMIT\n"); err == nil {
		c.Error("Restore with a cancelled context: no error")
	}
	if err := c.kernel.Insert(ctx, c.family, "nat", "OUTPUT", "-j", "RETURN"); err == nil {
		c.Error("Insert with a cancelled context: no error")
	}
	c.holds("nat")
}
