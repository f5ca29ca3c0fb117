package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/internal/docstest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/vxlan"
)

// TestTakeOver takes a node that flannel has set up over and gives it back, twice, under traffic. The other nodes are flannel's all the time.
func TestTakeOver(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	for _, hostGW := range []bool{false, true} {
		t.Run(fmt.Sprintf("host-gw=%v", hostGW), func(t *testing.T) { testTakeOver(t, hostGW) })
	}
}

func testTakeOver(t *testing.T, hostGW bool) {
	_, nodes := newFlannelNodes(t, 3, hostGW)
	a, b := nodes[0], nodes[1]
	before := dump(t, a.testNode)
	leases := files(t, a.path(a.name, "networks", "cbr0"))
	for round := range 2 {
		show := func(string, ...string) {}
		if round == 0 && !hostGW {
			show = func(name string, flags ...string) {
				a.showInDocs(t, name, flags, a.migrate(t, flags...))
			}
		}
		show("from-dry-run", "--from", "flannel", "--dry-run")
		if got := dump(t, a.testNode); round == 0 && got != before {
			t.Errorf("the dry run changed something:\n%s", got)
		}
		tr := startTraffic(t, a, b)
		a.start(append(a.own(), "--take-over", "flannel")...)
		a.waitReady()
		wantTakenOver(t, a, hostGW)
		if code, body := a.get("/readyz"); round == 0 && (code != 200 || !strings.Contains(body, "10.244.1.77")) {
			t.Errorf("/readyz does not name the broken lease: %s", body)
		}
		tr.wantNoLoss("to podnet")

		_ = a.kill(15)
		tr = startTraffic(t, a, b)
		show("to-dry-run", "--to", "flannel", "--dry-run")
		a.migrate(t, "--to", "flannel")
		a.rules(t) // flanneld starts
		show("to-last", "--to", "flannel")
		a.migrate(t, "--to", "flannel")
		a.migrate(t, "--to", "flannel")
		tr.wantNoLoss("to flannel")
		if diff := cmp.Diff(marked(before), marked(dump(t, a.testNode))); diff != "" {
			t.Errorf("after the way back (-flannel's +left):\n%s", diff)
		}
		if nat := a.script(t, "nft list ruleset"); strings.Contains(nat, "podnet") {
			t.Errorf("rules of podnet are left:\n%s", nat)
		}
		delete(leases, fmt.Sprintf("10.244.%d.77", a.index))
		if diff := cmp.Diff(leases, files(t, a.path(a.name, "networks", "cbr0"))); diff != "" {
			t.Errorf("leases after the way back:\n%s", diff)
		}
		wantFlannelConfigured(t, a)
	}
}

// showInDocs compares what a command printed with the guide, where the paths are those of a real node.
func (f *flannelNode) showInDocs(t *testing.T, name string, flags []string, out string) {
	t.Helper()
	for _, path := range [][2]string{{"net.d", "/etc/cni/net.d"}, {"networks", "/var/lib/cni/networks"}, {"leases", "/var/lib/cni/podnet"}, {"subnet.env", "/run/podnet/subnet.env"}} {
		out = strings.ReplaceAll(out, f.path(f.name, path[0]), path[1])
	}
	docstest.Compare(t, "../../docs/migrate-from-flannel.md", *update, docstest.Table{Name: name, Content: "```\n$ podnet-agent migrate " + strings.Join(flags, " ") + "\n" + out + "```\n"})
}

// marked leaves out what the way there and back may change: podnet's mark, and offloads.
func marked(dump string) string {
	for _, s := range []string{` alias "flannel"`, " tx-checksum-ip-generic off", " tx-checksum-ip-generic on"} {
		dump = strings.ReplaceAll(dump, s, "")
	}
	return stable(dump)
}

func wantTakenOver(t *testing.T, n *flannelNode, hostGW bool) {
	t.Helper()
	ctx := context.Background()
	routes, err := n.conn.Routes(ctx, rtnl.RouteFilter{})
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, r := range routes {
		switch {
		case r.Protocol == rtnl.ProtocolVXLAN && !hostGW || r.Protocol == rtnl.ProtocolHostGW && hostGW:
			ours++
		case r.Gateway.IsValid():
			t.Errorf("a route is not taken over: %v", r)
		}
	}
	if want := 2 * (len(n.nodes) - 1); ours != want {
		t.Errorf("%d routes of podnet, want %d", ours, want)
	}
	links, err := n.conn.Links(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Kind == rtnl.KindVXLAN && (!strings.HasPrefix(l.Name, "flannel") || l.MAC.String() != n.mac(n.index)) {
			t.Errorf("device %s with MAC %s, want flannel's", l.Name, l.MAC)
		}
	}
	if nat := n.script(t, "iptables-save; ip6tables-save"); strings.Contains(nat, "FLANNEL") {
		t.Errorf("rules of flannel are left:\n%s", nat)
	}
	list, err := os.ReadFile(n.path(n.name, "net.d", "10-podnet.conflist"))
	if s := string(list); err != nil || !strings.Contains(s, `"name": "cbr0"`) || !strings.Contains(s, `"portmap"`) || strings.Contains(s, `"flannel"`) {
		t.Errorf("podnet's list does not keep flannel's name and plugins: %v\n%s", err, s)
	}
	for path, there := range map[string]bool{"net.d/10-flannel.conflist": false, "net.d/10-podnet.conflist": true, "subnet.env": true, "networks/cbr0/lock": false} {
		if _, err := os.Stat(n.path(n.name, path)); (err == nil) != there {
			t.Errorf("%s: %v, want it to be there: %v", path, err, there)
		}
	}
}

func wantFlannelConfigured(t *testing.T, n *flannelNode) {
	t.Helper()
	for path, there := range map[string]bool{"net.d/10-flannel.conflist": true, "net.d/10-podnet.conflist": false, "leases/cbr0/leases": false, "subnet.env": false} {
		if _, err := os.Stat(n.path(n.name, path)); (err == nil) != there {
			t.Errorf("%s: %v, want it to be there: %v", path, err, there)
		}
	}
	text, err := os.ReadFile(n.path(n.name, "flannel", podContainer))
	var conf struct {
		Type, Name string
		IPAM       struct{ Type, DataDir string }
	}
	if err := errors.Join(err, json.Unmarshal(text, &conf)); err != nil || conf.Type != "bridge" || conf.Name != "cbr0" || conf.IPAM.Type != "host-local" || conf.IPAM.DataDir != n.path(n.name, "networks") {
		t.Errorf("flannel's record of the container: %v %s", err, text)
	}
}

// files returns the content of all files in a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(text)
	}
	return out
}

// TestFlanneld starts the agent in flanneld's place, by flanneld's own command line, and stops it: the plugin flannel, its leases and its configuration stay in use.
func TestFlanneld(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	c, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	binary, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	flanneld := c.path("flanneld")
	if err := os.Symlink(binary, flanneld); err != nil {
		t.Fatal(err)
	}
	before := files(t, a.path(a.name, "networks", "cbr0"))
	tr := startTraffic(t, a, b)
	a.cmd = exec.Command(flanneld, "-ip-masq", "--kube-subnet-mgr", "--iface=eth7", "--iface=eth0", "--subnet-file="+a.path(a.name, "flannel.env"), "--etcd-prefix=/x")
	a.cmd.Env = append(os.Environ(), "FLANNELD_NET_CONFIG_PATH="+c.path("net-conf.json"), "FLANNELD_HEALTHZ_IP=127.0.0.1", "FLANNELD_HEALTHZ_PORT=10270",
		"PATH="+onlyTool(t, "nft"), "PODNET_NODES="+c.path("nodes"), "NODE_NAME="+a.name, "PODNET_STATE_DIR="+a.path(a.name, "state"))
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	if err := a.ns.Do(a.cmd.Start); err != nil {
		t.Fatal(err)
	}
	a.waitReady()
	tr.wantNoLoss("flanneld")
	if n := a.routes(rtnl.ProtocolVXLAN); n != 2 {
		t.Errorf("%d routes are podnet's, want 2", n)
	}
	if rules := a.script(t, "iptables-save; ip6tables-save"); strings.Contains(rules, "FLANNEL") {
		t.Errorf("rules of flannel are left:\n%s", rules)
	}
	if diff := cmp.Diff(before, files(t, a.path(a.name, "networks", "cbr0"))); diff != "" {
		t.Errorf("leases:\n%s", diff)
	}
	if entries, err := os.ReadDir(a.path(a.name, "net.d")); err != nil || len(entries) != 1 || entries[0].Name() != "10-flannel.conflist" {
		t.Errorf("CNI configuration: %v, %v", entries, err)
	}
	if text, err := os.ReadFile(a.path(a.name, "flannel.env")); err != nil || !strings.Contains(string(text), "FLANNEL_SUBNET=10.244.1.1/24\n") || !strings.Contains(string(text), "FLANNEL_IPMASQ=true\n") {
		t.Errorf("subnet file: %s, %v", text, err)
	}
	if log := a.log.String(); strings.Count(log, "warning: --etcd-prefix: without effect") != 1 {
		t.Errorf("no warning of --etcd-prefix:\n%s", log)
	}
	// A node that is new gets flannel's names.
	_ = a.kill(15)
	a.script(t, "ip link del flannel.1; ip link del flannel-v6.1")
	a.start("--vtep-names", "flannel")
	a.waitReady()
	if l, err := a.conn.Link(t.Context(), "flannel.1"); err != nil || l.MAC.String() != a.mac(a.index) {
		t.Errorf("flannel.1: %v, %v", l, err)
	}
	tr = startTraffic(t, a, b)
	tr.wantNoLoss("flannel.1 made anew")
}

// onlyTool returns a PATH with one tool alone: as in a container, without iptables.
func onlyTool(t *testing.T, only string) string {
	t.Helper()
	path, err := exec.LookPath(only)
	if err != nil {
		rtnltest.Lacking(t, err.Error())
	}
	dir := t.TempDir()
	if err := os.Symlink(path, filepath.Join(dir, only)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRename gives a node to flannel that podnet has set up by itself: its devices have podnet's names until then.
func TestRename(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	c, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	a.script(t, "ip link del flannel.1; ip link del flannel-v6.1; rm "+a.path(a.name, "net.d", "10-flannel.conflist")+"; rm -r "+a.path(a.name, "networks"))
	_ = c
	a.start(a.own()...)
	a.waitReady()
	tr := startTraffic(t, a, b)
	_ = a.kill(15)
	a.migrate(t, "--to", "flannel")
	tr.wantNoLoss("renamed")
	for _, name := range []string{"flannel.1", "flannel-v6.1"} {
		if l, err := a.conn.Link(t.Context(), name); err != nil || l.MAC.String() != a.mac(a.index) || l.Up != rtnl.On {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	if _, err := os.Stat(a.path(a.name, "net.d", "10-flannel.conflist")); err != nil {
		t.Error(err)
	}
}

// TestTakeOverKilled kills the agent at each step of the takeover, and starts it again.
func TestTakeOverKilled(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	_, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	there := func(elem ...string) bool {
		_, err := os.Lstat(a.path(append([]string{a.name}, elem...)...))
		return err == nil
	}
	for _, step := range []struct {
		name string
		done func() bool
	}{
		{"devices marked", func() bool {
			l, err := a.conn.Link(t.Context(), "flannel.1")
			return err == nil && l.Alias == vxlan.Alias
		}},
		{"a route marked", func() bool { return a.routes(rtnl.ProtocolVXLAN) > 0 }},
		{"name recorded", func() bool { return there("state", "network.json") }},
		{"store made", func() bool { return there("leases", "cbr0", "leases") }},
		{"leases closed", func() bool { return !there("networks", "cbr0", "lock") }},
		{"list set aside", func() bool { return there("net.d", "10-flannel.conflist.before-podnet") }},
		{"subnet file", func() bool { return there("subnet.env") }},
		{"list written", func() bool { return there("net.d", "10-podnet.conflist") }},
	} {
		tr := startTraffic(t, a, b)
		a.start(append(a.own(), "--take-over", "flannel")...)
		if !poll(patience, step.done) {
			t.Fatalf("%s: never", step.name)
		}
		_ = a.kill(syscall.SIGKILL)
		a.start(append(a.own(), "--take-over", "flannel")...)
		a.waitReady()
		wantTakenOver(t, a, false)
		_ = a.kill(syscall.SIGTERM)
		a.migrate(t, "--to", "flannel")
		a.rules(t)
		a.migrate(t, "--to", "flannel")
		wantFlannelConfigured(t, a)
		tr.wantNoLoss("killed after: " + step.name)
	}
}

// TestMigrateFrom takes a node over by the command alone; the agent comes later. The FORWARD chain drops by default, as Docker has it: the rules of flannel that
// accept the pods' traffic stay, with iptables at hand and without.
func TestMigrateFrom(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	_, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	a.script(t, "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
	tr := startTraffic(t, a, b)
	a.migrate(t, "--from", "flannel")
	if n := a.routes(rtnl.ProtocolVXLAN); n != 2 {
		t.Errorf("%d routes are podnet's, want 2", n)
	}
	for path, there := range map[string]bool{"net.d/10-flannel.conflist": false, "net.d/10-podnet.conflist": true, "subnet.env": true, "networks/cbr0/lock": false, "leases/cbr0/leases": true} {
		if _, err := os.Stat(a.path(a.name, path)); (err == nil) != there {
			t.Errorf("%s: %v, want it to be there: %v", path, err, there)
		}
	}
	if rules := a.script(t, "iptables-save"); !strings.Contains(rules, "FLANNEL-POSTRTG") {
		t.Errorf("flannel's masquerading is gone before podnet's stands:\n%s", rules)
	}
	for _, path := range []string{onlyTool(t, "nft"), os.Getenv("PATH")} {
		a.cmd = a.command(append(a.own(), "--take-over", "flannel")...)
		a.cmd.Env = append(os.Environ(), "PATH="+path)
		a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
		if err := a.ns.Do(a.cmd.Start); err != nil {
			t.Fatal(err)
		}
		a.waitReady()
		for tool, rules := range map[string]string{"iptables": a.script(t, "iptables-save"), "ip6tables": a.script(t, "ip6tables-save")} {
			if strings.Contains(rules, "FLANNEL-POSTRTG") || !strings.Contains(rules, "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD") {
				t.Errorf("%s: want FLANNEL-FWD to stay, and FLANNEL-POSTRTG to go:\n%s", tool, rules)
			}
		}
		_ = a.kill(syscall.SIGTERM)
	}
	tr.wantNoLoss("by command")
}

// TestTakeOverNFTables takes over a node whose flanneld has EnableNFTables.
func TestTakeOverNFTables(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	c, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	a.script(t, `
nft flush ruleset
for f in "ip flannel-ipv4 10.244.0.0/16 10.244.$I.0/24 224.0.0.0/4" "ip6 flannel-ipv6 fd00:244::/48 fd00:244:0:$I::/64 ff00::/8"; do
	set -- $f
	nft add table $1 $2
	nft add chain $1 $2 postrtg '{ type nat hook postrouting priority srcnat; }'
	nft add chain $1 $2 forward '{ type filter hook forward priority filter; }'
	nft add rule $1 $2 postrtg meta mark 0x4000 return
	nft add rule $1 $2 postrtg $1 saddr $4 $1 daddr $3 return
	nft add rule $1 $2 postrtg $1 saddr $3 $1 daddr $4 return
	nft add rule $1 $2 postrtg $1 saddr $3 $1 daddr != $5 masquerade fully-random
	nft add rule $1 $2 forward $1 saddr $3 accept
	nft add rule $1 $2 forward $1 daddr $3 accept
done`)
	c.changeNetConf(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}`)
	tr := startTraffic(t, a, b)
	a.start(append(a.own(), "--take-over", "flannel")...)
	a.waitReady()
	wantTakenOver(t, a, false)
	tr.wantNoLoss("nftables")
	if tables := a.script(t, "nft list tables"); strings.Contains(tables, "flannel") || !strings.Contains(tables, "table ip6 podnet-masq") {
		t.Errorf("tables:\n%s", tables)
	}
}

// TestNotTakenOver finds flannel's node without having been told to take it over: nothing of flannel's changes, and the agent says what to do.
func TestNotTakenOver(t *testing.T) {
	rtnltest.RequireKernel(t, "nodes in network namespaces")
	_, nodes := newFlannelNodes(t, 2, false)
	a, b := nodes[0], nodes[1]
	tr := startTraffic(t, a, b)
	a.start(a.own()...)
	if !poll(patience, func() bool {
		_, body := a.get("/readyz")
		return strings.Contains(body, "with --take-over flannel the agent takes it over")
	}) {
		_, body := a.get("/readyz")
		t.Errorf("/readyz: %s", body)
	}
	if there := a.routes(rtnl.ProtocolVXLAN); there > 0 {
		t.Errorf("%d routes were written", there)
	}
	if _, err := os.Stat(a.path(a.name, "net.d", "10-podnet.conflist")); err == nil {
		t.Error("a second configuration list was written")
	}
	tr.wantNoLoss("not taken over")
}
