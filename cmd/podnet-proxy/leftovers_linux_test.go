package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// kubeProxyRules is what kube-proxy's ipvs mode leaves in iptables, and what others have.
const kubeProxyRules = `*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "not \"KUBE-SERVICES\" -j KUBE-SERVICES" -j MINE
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -j KUBE-FIREWALL
COMMIT
`

// TestCleanupKubeProxy makes by hand what kube-proxy leaves, and has it removed: all of it, and nothing else. TestReplaceKubeProxy does so with the real one.
func TestCleanupKubeProxy(t *testing.T) {
	rtnltest.RequireKernel(t, "a node in a network namespace")
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			b := newBed(t)
			for _, name := range []string{"iptables-" + variant + "-restore", "ipset"} {
				if _, err := exec.LookPath(name); err != nil {
					rtnltest.Lacking(t, err.Error())
				}
			}
			for _, set := range []string{"KUBE-CLUSTER-IP hash:ip,port", "KUBE-NODE-PORT-TCP bitmap:port range 0-65535", "KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6", "MINE hash:ip"} {
				b.run("ipset", append([]string{"create"}, strings.Fields(set)...)...)
			}
			b.run("ipset", "add", "KUBE-CLUSTER-IP", "10.96.0.1,tcp:443")
			b.input(kubeProxyRules, "iptables-"+variant+"-restore")
			b.input("table ip kube-proxy { chain services { drop; }; }\ntable ip6 kube-proxy { set x { type ipv6_addr; }; }\ntable inet kube-proxy { }\n", "nft", "-f", "-")
			b.run("ip", "link", "add", "kube-ipvs0", "type", "bridge") // this kernel may have no dummy device
			if code, out := b.once("--cleanup-kube-proxy"); code != exitOK {
				t.Fatalf("status %d: %s", code, out)
			}
			save := b.run("iptables-" + variant + "-save")
			for _, gone := range []string{"KUBE-SERVICES -", "KUBE-MARK-MASQ", "KUBE-FORWARD", "KUBE-IPVS-FILTER", "KUBE-POSTROUTING"} {
				if strings.Contains(save, gone) {
					t.Errorf("%s is left:\n%s", gone, save)
				}
			}
			for _, stays := range []string{"-j MINE", "-A INPUT -j KUBE-FIREWALL"} {
				if !strings.Contains(save, stays) {
					t.Errorf("%s is gone:\n%s", stays, save)
				}
			}
			if sets := strings.TrimSpace(b.run("ipset", "list", "-n")); sets != "MINE" {
				t.Errorf("sets %q, want MINE", sets)
			}
			if tables := b.run("nft", "list", "tables"); strings.Contains(tables, "table ip kube-proxy") || strings.Contains(tables, "table ip6 kube-proxy") || !strings.Contains(tables, "table inet kube-proxy") {
				t.Errorf("tables:\n%s", tables)
			}
			if links := b.run("ip", "link"); strings.Contains(links, "kube-ipvs0") {
				t.Errorf("links:\n%s", links)
			}
			if code, out := b.once("--cleanup-kube-proxy"); code != exitOK || strings.Contains(out, "removed of kube-proxy") {
				t.Errorf("a second time: status %d: %s", code, out)
			}
		})
	}
}

// TestCleanupKubeProxyIPVS: of the virtual servers only kube-proxy's go.
func TestCleanupKubeProxyIPVS(t *testing.T) {
	vmtest.RequireIPVS(t)
	b := newBed(t)
	b.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
	for _, a := range []string{"10.96.0.1/32", "fd00:96::1/128"} {
		b.run("ip", "addr", "add", a, "dev", "kube-ipvs0")
	}
	b.run("ipset", "create", "KUBE-NODE-PORT-TCP", "bitmap:port", "range", "0-65535")
	b.run("ipset", "add", "KUBE-NODE-PORT-TCP", "30080")
	b.run("ipset", "create", "KUBE-EXTERNAL-IP", "hash:ip,port")
	b.run("ipset", "add", "KUBE-EXTERNAL-IP", "192.168.1.1,udp:53")
	b.input(`-A -t 10.96.0.1:443 -s rr
-A -t [fd00:96::1]:443 -s rr
-A -t 192.168.1.1:30080 -s rr
-A -u 192.168.1.1:53 -s rr
-A -t 192.168.1.1:80 -s rr
-A -u 192.168.1.1:30080 -s rr
-A -t 203.0.113.1:30080 -s rr
-A -f 7 -s rr
`, "ipvsadm", "-R")
	if code, out := b.once("--cleanup-kube-proxy"); code != exitOK {
		t.Fatalf("status %d: %s", code, out)
	}
	got := b.run("ipvsadm", "-S", "-n")
	const want = "-A -t 192.168.1.1:80 -s rr\n-A -t 203.0.113.1:30080 -s rr\n-A -u 192.168.1.1:30080 -s rr\n-A -f 7 -s rr\n"
	for line := range strings.Lines(want) {
		if !strings.Contains(got, line) {
			t.Errorf("%s is gone", line)
		}
	}
	if n := strings.Count(got, "-A "); n != 4 {
		t.Errorf("left:\n%s", got)
	}
	if links := b.run("ip", "link"); strings.Contains(links, "kube-ipvs0") {
		t.Errorf("links:\n%s", links)
	}
}

// input runs a program in the node with an input.
func (b *bed) input(text, name string, args ...string) {
	b.t.Helper()
	var out []byte
	if err := b.node.Do(func() (err error) {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(text)
		cmd.Env = os.Environ()
		out, err = cmd.CombinedOutput()
		return err
	}); err != nil {
		b.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
