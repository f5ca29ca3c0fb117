package vmtest_test

import (
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// TestTraffic: a TCP connection of a client goes through a virtual server to a real server, which sees the director's address. It shows that the guest is a place
// to test IPVS, with packets, namespaces and nftables' masquerade after IPVS.
func TestTraffic(t *testing.T) {
	vmtest.RequireIPVS(t)
	client, director, server := rtnltest.NewNetns(t), rtnltest.NewNetns(t), rtnltest.NewNetns(t)
	script := strings.NewReplacer("CLIENT", client.Name(), "DIRECTOR", director.Name(), "SERVER", server.Name()).Replace(`
link() { # namespace, its address, the director's, the director's link
	ip link add eth0 netns $1 type veth peer name $4 netns DIRECTOR
	ip -n $1 addr add $2/24 dev eth0; ip -n $1 link set eth0 up
	ip -n DIRECTOR addr add $3/24 dev $4; ip -n DIRECTOR link set $4 up
	ip -n $1 route add default via $3
}
link CLIENT 10.0.1.2 10.0.1.1 client
link SERVER 10.0.2.2 10.0.2.1 server
d="ip netns exec DIRECTOR"
$d sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1
$d ip route add local 10.96.0.0/16 dev lo table local
$d ipvsadm -A -t 10.96.0.10:80 -s rr
$d ipvsadm -a -t 10.96.0.10:80 -r 10.0.2.2:8080 -m
$d nft 'add table ip t; add chain ip t c { type nat hook postrouting priority srcnat; }; add rule ip t c ct original ip daddr 10.96.0.10 masquerade'
`)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var l net.Listener
	if err := server.Do(func() (err error) { l, err = net.Listen("tcp", "10.0.2.2:8080"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host)
			c.Close()
		}
	}()
	var seen []byte
	err := client.Do(func() error {
		c, err := net.DialTimeout("tcp", "10.96.0.10:80", 30*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		seen, err = io.ReadAll(c)
		return err
	})
	if err != nil || string(seen) != "10.0.2.1" {
		t.Errorf("the server saw %q, %v, want the director", seen, err)
	}
}
