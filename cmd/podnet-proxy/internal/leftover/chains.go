package leftover

import (
	"bufio"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Server is an IPVS virtual server.
type Server struct {
	Addr     netip.Addr
	Port     uint16
	Protocol uint8 // IANA's number
}

// kubeChains are kube-proxy's chains with fixed names, of all tables, modes and versions since 1.20.
func kubeChains() []string {
	return []string{
		"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-POSTROUTING", "KUBE-MARK-MASQ",
		"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
	}
}

// shared are chains that others use too: CNI plugins and old kubelets jump to the first, and the second does what it asks.
func shared() []string { return []string{"KUBE-MARK-MASQ", "KUBE-POSTROUTING"} }

func kubeChain(name string) bool {
	for _, prefix := range []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains(kubeChains(), name)
}

// table is what iptables-save says of one table.
type table struct {
	name   string
	chains []string // user-defined ones
	rules  []rule
}

type rule struct {
	chain, text, target string // text is without "-A"
}

// parseSave reads the output of iptables-save.
func parseSave(text string) []table {
	var tables []table
	s := bufio.NewScanner(strings.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		switch {
		case strings.HasPrefix(line, "*"):
			tables = append(tables, table{name: line[1:]})
		case len(tables) == 0:
		case strings.HasPrefix(line, ":"):
			if f := strings.Fields(line[1:]); len(f) > 1 && f[1] == "-" {
				t := &tables[len(tables)-1]
				t.chains = append(t.chains, f[0])
			}
		case strings.HasPrefix(line, "-A "):
			t := &tables[len(tables)-1]
			t.rules = append(t.rules, parseRule(line[len("-A "):]))
		}
	}
	return tables
}

// parseRule finds out where a rule jumps. Words in quotes (comments) are no options.
func parseRule(text string) rule {
	r := rule{text: text}
	r.chain, _, _ = strings.Cut(text, " ")
	words := fields(text)
	for i, w := range words {
		if (w == "-j" || w == "-g") && i+1 < len(words) {
			r.target = words[i+1]
		}
	}
	return r
}

// fields splits a rule at spaces outside of double quotes, as iptables-save writes them (with backslashes before quotes inside).
func fields(text string) []string {
	var out []string
	var word strings.Builder
	quoted, any := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quoted && i+1 < len(text):
			i++
			word.WriteByte(text[i])
		case c == '"':
			quoted, any = !quoted, true
			word.WriteByte(c) // so that a quoted -j is none
		case c == ' ' && !quoted:
			if any {
				out = append(out, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteByte(c)
			any = true
		}
	}
	if any {
		out = append(out, word.String())
	}
	return out
}

// restore returns the input of iptables-restore --noflush that removes kube-proxy's chains and the rules that jump to them, and how many chains those are.
func restore(tables []table) (text string, chains int) {
	var b strings.Builder
	for _, t := range tables {
		remove := t.removable()
		var jumps []string
		for _, r := range t.rules {
			if slices.Contains(remove, r.target) && !slices.Contains(remove, r.chain) {
				jumps = append(jumps, r.text)
			}
		}
		if len(remove) == 0 {
			continue
		}
		chains += len(remove)
		fmt.Fprintf(&b, "*%s\n", t.name)
		for _, c := range remove {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c) // empties it
		}
		for _, j := range jumps {
			fmt.Fprintf(&b, "-D %s\n", j)
		}
		for _, c := range remove {
			fmt.Fprintf(&b, "-X %s\n", c)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String(), chains
}

// removable returns the chains of kube-proxy that nobody else needs, sorted.
func (t table) removable() []string {
	var remove []string
	for _, c := range t.chains {
		if kubeChain(c) {
			remove = append(remove, c)
		}
	}
	foreign := slices.ContainsFunc(t.rules, func(r rule) bool { return r.target == "KUBE-MARK-MASQ" && !kubeChain(r.chain) })
	if foreign {
		remove = slices.DeleteFunc(remove, func(c string) bool { return slices.Contains(shared(), c) })
	}
	slices.Sort(remove)
	return remove
}

// setNames returns the names of kube-proxy's ipsets of both families. The kernel cuts names at 31 bytes, and so does kube-proxy.
func setNames() []string {
	const maxName = 31
	var out []string
	for _, n := range []string{
		"LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-FW", "LOAD-BALANCER-SOURCE-IP",
		"LOAD-BALANCER-SOURCE-CIDR", "NODE-PORT-TCP", "NODE-PORT-LOCAL-TCP", "NODE-PORT-UDP", "NODE-PORT-LOCAL-UDP", "NODE-PORT-SCTP-HASH", "NODE-PORT-LOCAL-SCTP-HASH",
		"HEALTH-CHECK-NODE-PORT", "IPVS-IPS",
	} {
		for _, prefix := range []string{"KUBE-", "KUBE-6-"} {
			name := prefix + n
			out = append(out, name[:min(len(name), maxName)])
		}
	}
	return out
}
