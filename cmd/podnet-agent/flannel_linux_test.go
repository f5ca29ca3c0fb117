package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
ip link set cni0 address $(ip -br link show cni0 | awk '{print $3}') # the plugin pins it
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
