package wire

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// rules are written by hand, in both families; the lookups below say what they do.
const rules = `
table ip nat {
	chain prerouting { type nat hook prerouting priority -100; jump services; }
	chain output { type nat hook output priority -100; jump services; }
	chain services {
		ip daddr 10.96.0.1 meta l4proto { tcp, udp, sctp } th dport 80 dnat to numgen random mod 3 map { 0: 10.244.0.1, 1: 10.244.0.2, 2: 10.244.0.3 } : 8080
		ip daddr 10.96.0.2 tcp dport 80 meta mark set 1 dnat to WEB
		ip daddr 10.96.0.5 tcp dport 80 dnat to SSH
	}
	chain postrouting { type nat hook postrouting priority 100; meta mark 1 masquerade fully-random; }
}
table ip filter {
	chain forward { type filter hook forward priority 0; jump check; }
	chain input { type filter hook input priority 0; jump check; }
	chain output { type filter hook output priority 0; jump check; }
	chain check {
		ip daddr 10.96.0.3 reject
		ip daddr 10.96.0.4 drop
		ip daddr 192.168.0.1 udp dport 3000 reject
	}
}
`

func load(t testing.TB, ns *rtnltest.Netns, text string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		rtnltest.Lacking(t, "no nft to write the rules with")
	}
	err := ns.Do(func() error {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader(text)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("nft: %s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// six writes rules and addresses in IPv6.
func six(s string) string {
	return strings.NewReplacer("10.96.0.", "fd00:96::", "10.244.0.", "fd00:244::", "192.168.0.", "fd00:192::", "203.0.113.", "2600::", "table ip ", "table ip6 ", "ip daddr", "ip6 daddr").Replace(s)
}

func TestWire(t *testing.T) {
	w := New(t)
	load(t, w.Netns(), strings.NewReplacer("WEB", "10.244.0.1:8080", "SSH", "192.168.0.1:22").Replace(rules))
	load(t, w.Netns(), strings.NewReplacer("WEB", "[fd00:244::1]:8080", "SSH", "[fd00:192::1]:22").Replace(six(rules)))
	if err := w.SetMachine(servicetest.Machine{Local: []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd00:192::1")}}); err != nil {
		t.Fatal(err)
	}
	const pod, node, outside = "10.244.0.2", "192.168.0.1", "203.0.113.9"
	all := func(masq string) string {
		return "10.244.0.1|8080" + masq + " 10.244.0.2|8080" + masq + " 10.244.0.3|8080" + masq
	}
	for _, c := range []struct {
		name, from, in, to string
		port               uint16
		protocol           service.Protocol
		want               string
	}{
		{"TCP from a pod", pod, "cni0", "10.96.0.1", 80, service.TCP, all("")},
		{"UDP from outside", outside, "eth0", "10.96.0.1", 80, service.UDP, all("")},
		{"SCTP from outside", outside, "eth0", "10.96.0.1", 80, service.SCTP, all("")},
		{"TCP from the node", node, "", "10.96.0.1", 80, service.TCP, all("")},
		{"UDP from the node", node, "", "10.96.0.1", 80, service.UDP, all("")},
		{"masqueraded from outside", outside, "", "10.96.0.2", 80, service.TCP, "10.244.0.1|8080(masquerade)"},
		{"masqueraded from the node, to its own address", node, "", "10.96.0.2", 80, service.TCP, "10.244.0.1|8080(masquerade)"},
		{"rejected from outside", outside, "eth0", "10.96.0.3", 80, service.TCP, "REJECT"},
		{"rejected from outside, UDP", outside, "eth0", "10.96.0.3", 80, service.UDP, "REJECT"},
		{"rejected from outside, SCTP", outside, "eth0", "10.96.0.3", 80, service.SCTP, "REJECT"},
		{"rejected from the node", node, "", "10.96.0.3", 80, service.UDP, "REJECT"},
		{"dropped from outside", outside, "eth0", "10.96.0.4", 80, service.TCP, "DROP"},
		{"passes to elsewhere", pod, "cni0", "203.0.113.7", 80, service.TCP, "pass"},
		{"passes from the node", node, "", "203.0.113.7", 80, service.UDP, "pass"},
		{"is the node's own, nobody listens", outside, "eth0", node, 3001, service.UDP, "pass"},
		{"is the node's own, TCP", outside, "eth0", node, 22, service.TCP, "pass"},
		{"is the node's own, SCTP", outside, "eth0", node, 22, service.SCTP, "pass"},
		{"from the node to itself", node, "", node, 22, service.TCP, "pass"},
		{"the node's own, rejected", outside, "eth0", node, 3000, service.UDP, "REJECT"},
		{"the node as endpoint", outside, "eth0", "10.96.0.5", 80, service.TCP, "192.168.0.1|22"},
	} {
		for name, translate := range map[string]func(string) string{c.name: func(s string) string { return s }, c.name + " (IPv6)": six} {
			t.Run(name, func(t *testing.T) {
				p := servicetest.Packet{From: netip.MustParseAddr(translate(c.from)), In: c.in, To: netip.MustParseAddr(translate(c.to)), Port: c.port, Protocol: c.protocol}
				got, err := w.Lookup(p)
				if err != nil {
					t.Fatal(err)
				}
				want := strings.NewReplacer("[", "", "]:", "|").Replace(got.String())
				if p.To.Is4() {
					want = strings.ReplaceAll(want, ":", "|")
				}
				if want != translate(c.want) {
					t.Errorf("%s\n got %s\nwant %s", p, want, translate(c.want))
				}
			})
		}
	}
}
