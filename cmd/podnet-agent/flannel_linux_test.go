package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// flannelNode is a node whose kernel is as flanneld and flannel's CNI plugins leave it (v0.28, pkg/backend/vxlan and host-gw; plugins v1.9): made by the
// same commands, since there is no package with flanneld. It has one pod with a network namespace of its own.
type flannelNode struct {
	*testNode
	pod     *rtnltest.Netns
	kube    bool
	outside []endpoint // a host that knows nothing of pods
}

const podContainer = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func newFlannelNodes(t *testing.T, n int, hostGW bool) (*testCluster, []*flannelNode) {
	t.Helper()
	for _, tool := range []string{"ip", "bridge", "iptables", "ip6tables"} {
		if _, err := exec.LookPath(tool); err != nil {
			rtnltest.Lacking(t, err.Error())
		}
	}
	c := newCluster(t, n)
	if hostGW {
		c.netConf("host-gw", "10.244.0.0/16")
	}
	return c, flannelNodesOn(t, c, hostGW, false)
}

// flannelNodesOn makes the nodes of a cluster flannel's.
func flannelNodesOn(t *testing.T, c *testCluster, hostGW, kube bool) []*flannelNode {
	t.Helper()
	outside := rtnltest.NewNetns(t)
	mustWrite(t, c.fabric.Conn(t),
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "outside", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: outside.Path()}}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "outside", Master: "br0"}})
	mustWrite(t, outside.Conn(t), rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}})
	var hosts []endpoint
	for _, p := range []string{"192.168.1.253/24", "fd00:192::fd/64"} {
		host := netip.MustParsePrefix(p)
		mustWrite(t, outside.Conn(t), rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: host, NoDAD: host.Addr().Is6()}})
		hosts = append(hosts, endpoint{outside, host.Addr()})
	}
	var nodes []*flannelNode
	for _, n := range c.nodes {
		f := &flannelNode{testNode: n, pod: rtnltest.NewNetns(t), kube: kube, outside: hosts}
		n.describeAs(n.descriptor() + "vtepMAC: '" + f.mac(n.index) + "'\n")
		f.script(t, `
for s in net.ipv4.ip_forward net.ipv6.conf.all.forwarding; do sysctl -qw $s=1; done
ip addr del 10.244.$I.10/32 dev lo; ip addr del fd00:244:0:$I::10/128 dev lo`)
		f.podByBridgePlugin(t)
		f.rules(t)
		if !hostGW {
			f.devices(t)
		}
		for _, peer := range c.nodes {
			if peer != n {
				f.peer(t, peer.index, hostGW)
			}
		}
		nodes = append(nodes, f)
	}
	for _, f := range nodes { // a live cluster is past duplicate address detection
		if !poll(patience, func() bool {
			return strings.TrimSpace(f.script(t, "ip -6 addr show tentative; ip -n $POD -6 addr show tentative")) == ""
		}) {
			t.Fatal("addresses stay tentative")
		}
	}
	return nodes
}

// mac is the random one that flanneld has chosen, and published.
func (f *flannelNode) mac(i int) string { return fmt.Sprintf("5e:7a:91:00:00:%02x", i) }

// mac6 is that of the IPv6 VTEP. Node descriptions in files know one MAC for both, so it is another one only with Kubernetes.
func (f *flannelNode) mac6(i int) string {
	if f.kube {
		return fmt.Sprintf("5e:7a:91:00:06:%02x", i)
	}
	return f.mac(i)
}

func (f *flannelNode) script(t *testing.T, text string, env ...string) string {
	t.Helper()
	cmd := exec.Command("sh", "-euc", text)
	cmd.Env = append(os.Environ(), append(env, fmt.Sprintf("I=%d", f.index), "MAC="+f.mac(f.index), "MAC6="+f.mac6(f.index), "POD="+f.pod.Name())...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := f.ns.Do(cmd.Run); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", f.name, err, text, &out)
	}
	return out.String()
}

func (f *flannelNode) devices(t *testing.T) {
	t.Helper()
	f.script(t, `
ip link add flannel.1 address $MAC mtu 1450 type vxlan id 1 dev eth0 local 192.168.1.$I dstport 8472 nolearning
sysctl -qw net/ipv6/conf/flannel.1/accept_ra=0
ip addr add 10.244.$I.0/32 dev flannel.1
ip link set flannel.1 up
ip link add flannel-v6.1 address $MAC6 mtu 1430 type vxlan id 1 dev eth0 local fd00:192::$I dstport 8472 nolearning
sysctl -qw net/ipv6/conf/flannel-v6.1/accept_ra=0
ip -6 addr add fd00:244:0:$I::/128 dev flannel-v6.1 nodad
ip link set flannel-v6.1 up`)
}

// peer writes what flanneld writes for another node.
func (f *flannelNode) peer(t *testing.T, i int, hostGW bool) {
	t.Helper()
	script := `
ip neigh replace 10.244.$P.0 lladdr $PMAC dev flannel.1 nud permanent
bridge fdb replace $PMAC dev flannel.1 dst 192.168.1.$P self permanent
ip route replace 10.244.$P.0/24 via 10.244.$P.0 dev flannel.1 onlink
ip -6 neigh replace fd00:244:0:$P:: lladdr $PMAC6 dev flannel-v6.1 nud permanent
bridge fdb replace $PMAC6 dev flannel-v6.1 dst fd00:192::$P self permanent
ip -6 route replace fd00:244:0:$P::/64 via fd00:244:0:$P:: dev flannel-v6.1 onlink`
	if hostGW {
		script = `
ip route add 10.244.$P.0/24 via 192.168.1.$P dev eth0
ip -6 route add fd00:244:0:$P::/64 via fd00:192::$P dev eth0`
	}
	f.script(t, script, fmt.Sprintf("P=%d", i), "PMAC="+f.mac(i), "PMAC6="+f.mac6(i))
}

// rules writes flanneld's iptables rules.
func (f *flannelNode) rules(t *testing.T) {
	t.Helper()
	f.script(t, `
rules() { # tool network podCIDR multicast
	$1 -t nat -N FLANNEL-POSTRTG; $1 -t filter -N FLANNEL-FWD
	$1 -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
	$1 -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG -s $3 -d $2 -m comment --comment "flanneld masq" -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG -s $2 -d $3 -m comment --comment "flanneld masq" -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG ! -s $2 -d $3 -m comment --comment "flanneld masq" -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG -s $2 ! -d $4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
	$1 -t nat -A FLANNEL-POSTRTG ! -s $2 -d $2 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
	$1 -t filter -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
	$1 -t filter -A FLANNEL-FWD -s $2 -m comment --comment "flanneld forward" -j ACCEPT
	$1 -t filter -A FLANNEL-FWD -d $2 -m comment --comment "flanneld forward" -j ACCEPT
}
rules iptables 10.244.0.0/16 10.244.$I.0/24 224.0.0.0/4
rules ip6tables fd00:244::/48 fd00:244:0:$I::/64 ff00::/8`)
}

// podByBridgePlugin makes the bridge, one pod, its leases, and the files of flannel.
func (f *flannelNode) podByBridgePlugin(t *testing.T) {
	t.Helper()
	f.script(t, `
ip link add cni0 type bridge; ip link set cni0 up
ip addr add 10.244.$I.1/24 dev cni0; ip addr add fd00:244:0:$I::1/64 dev cni0 nodad
ip link add veth0a1b2c3d mtu 1450 type veth peer name eth0 mtu 1450 netns $POD
ip link set veth0a1b2c3d master cni0 up; bridge link set dev veth0a1b2c3d hairpin on
ip -n $POD addr add 10.244.$I.20/24 dev eth0; ip -n $POD addr add fd00:244:0:$I::20/64 dev eth0 nodad
ip -n $POD link set eth0 up; ip -n $POD route add default via 10.244.$I.1; ip -n $POD -6 route add default via fd00:244:0:$I::1`)
	leases := f.path(f.name, "networks", "cbr0")
	if err := errors.Join(os.MkdirAll(leases, 0o755), os.MkdirAll(f.path(f.name, "net.d"), 0o755)); err != nil {
		t.Fatal(err)
	}
	write(t, f.path(f.name, "net.d", "10-flannel.conflist"), strings.Replace(flannelConflist, "DIR", f.path(f.name), -1))
	write(t, filepath.Join(leases, "lock"), "")
	write(t, filepath.Join(leases, "last_reserved_ip.0"), fmt.Sprintf("10.244.%d.20", f.index))
	write(t, filepath.Join(leases, "last_reserved_ip.1"), fmt.Sprintf("fd00:244:0:%d::20", f.index))
	write(t, filepath.Join(leases, fmt.Sprintf("10.244.%d.20", f.index)), podContainer+"\r\neth0")
	write(t, filepath.Join(leases, fmt.Sprintf("fd00:244:0:%d::20", f.index)), podContainer+"\r\neth0")
	write(t, filepath.Join(leases, fmt.Sprintf("10.244.%d.77", f.index)), "") // a crash before the data was on the disk
	write(t, f.path(f.name, "flannel.env"), fmt.Sprintf("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.%d.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\n"+
		"FLANNEL_IPV6_SUBNET=fd00:244:0:%d::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", f.index, f.index))
}

const flannelConflist = `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","dataDir":"DIR/flannel","ipam":{"dataDir":"DIR/networks"},
"delegate":{"hairpinMode":true,"isDefaultGateway":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}`

func (f *flannelNode) endpoint(v6 bool) endpoint {
	if v6 {
		return endpoint{f.pod, netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%d::20", f.index))}
	}
	return endpoint{f.pod, netip.MustParseAddr(fmt.Sprintf("10.244.%d.20", f.index))}
}

// own are the agent's flags of this node.
func (f *flannelNode) own() []string {
	return []string{"--cni-data-dir", f.path(f.name, "leases")}
}

// migrate runs podnet-agent migrate.
func (f *flannelNode) migrate(t *testing.T, flags ...string) string {
	t.Helper()
	binary, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, append(append([]string{"migrate", "--subnet-file", f.path(f.name, "subnet.env"), "--cni-conf-dir", f.path(f.name, "net.d"),
		"--state-dir", f.path(f.name, "state"), "--flannel-subnet-file", f.path(f.name, "flannel.env")}, f.own()...), flags...)...)
	var out []byte
	if err := f.ns.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("%s migrate %v: %v\n%s", f.name, flags, err, out)
	}
	return string(out)
}

// talk is a TCP connection that carries a line each millisecond and back.
type talk struct {
	conn, peer net.Conn
	done       sync.WaitGroup
	stop       chan struct{}
	err        error
	lines      int
	longest    time.Duration
}

func startTalk(t *testing.T, from, to endpoint) *talk {
	t.Helper()
	var l net.Listener
	err := to.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to.addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := &talk{stop: make(chan struct{})}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if err := from.ns.Do(func() (err error) {
		k.conn, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	k.peer = <-accepted
	k.done.Go(func() { _, _ = io.Copy(k.peer, k.peer) })
	k.done.Go(func() {
		defer k.conn.Close()
		buf := make([]byte, 8)
		for {
			select {
			case <-k.stop:
				return
			case <-time.After(time.Millisecond):
			}
			start := time.Now()
			_ = k.conn.SetDeadline(start.Add(10 * time.Second))
			if _, k.err = k.conn.Write([]byte("12345678")); k.err == nil {
				_, k.err = io.ReadFull(k.conn, buf)
			}
			if k.err != nil {
				return
			}
			k.longest = max(k.longest, time.Since(start))
			k.lines++
		}
	})
	return k
}

func (k *talk) finish() (lines int, longest time.Duration, err error) {
	close(k.stop)
	k.done.Wait()
	k.peer.Close()
	return k.lines, k.longest, k.err
}

// traffic is between the pods of two nodes, both ways and both families.
type traffic struct {
	t      *testing.T
	probes []*probe
	talks  []*talk
}

func startTraffic(t *testing.T, a, b *flannelNode) *traffic {
	t.Helper()
	tr := &traffic{t: t}
	for _, to := range a.outside {
		tr.talks = append(tr.talks, startTalk(t, a.endpoint(to.addr.Is6()), to)) // masqueraded: there is no way back to pods from there
	}
	for _, v6 := range []bool{false, true} {
		p := startProbeBetween(t, a.endpoint(v6), b.endpoint(v6))
		if !p.answers(1) {
			t.Fatalf("%s does not reach %s (IPv6: %v)", a.endpoint(v6).addr, b.endpoint(v6).addr, v6)
		}
		tr.probes = append(tr.probes, p)
		tr.talks = append(tr.talks, startTalk(t, a.endpoint(v6), b.endpoint(v6)), startTalk(t, b.endpoint(v6), a.endpoint(v6)))
	}
	return tr
}

// wantNoLoss ends the traffic.
func (tr *traffic) wantNoLoss(what string) {
	tr.t.Helper()
	for i, p := range tr.probes {
		p.answers(200)
		sent, lost, outage := p.finish()
		tr.t.Logf("%s, IPv%d: %d packets sent, %d lost", what, 4+2*i, sent, lost)
		if lost > 0 || sent < 200 {
			tr.t.Errorf("%s, IPv%d: %d of %d packets lost, %v without an answer", what, 4+2*i, lost, sent, outage)
		}
	}
	for _, k := range tr.talks {
		lines, longest, err := k.finish()
		if err != nil || lines < 20 {
			tr.t.Errorf("%s: a TCP connection ended after %d lines: %v", what, lines, err)
		}
		tr.t.Logf("%s: TCP %v: %d lines, at most %v for one", what, k.conn.RemoteAddr(), lines, longest.Round(time.Microsecond))
	}
}

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
	compareDocs(t, "../../docs/migrate-from-flannel.md", func(text string) string {
		return replaceTable(t, text, name, "```\n$ podnet-agent migrate "+strings.Join(flags, " ")+"\n"+out+"```\n")
	})
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
	if ours != 4 {
		t.Errorf("%d routes of podnet, want 4", ours)
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
