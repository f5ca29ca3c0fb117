package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestCapabilities: NET_ADMIN is all that the proxy needs, in each mode, with root's files. deploy/image has the container itself, whose kernel has no IPVS.
func TestCapabilities(t *testing.T) {
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		rtnltest.Lacking(t, err.Error())
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	eachMode(t, []string{"nftables", "iptables", "ipvs"}, func(t *testing.T, mode string) {
		b := newBed(t)
		b.describeWeb(2, 3)
		cmd := b.command("--mode", mode, "--nodeport-addresses", "192.168.1.0/24")
		cmd.Path, cmd.Args = setpriv, append([]string{"setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs", self}, cmd.Args[1:]...)
		b.launch(cmd)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
		b.servers(b.client, "udp", "[fd00:96::a]:80", pod(true, 2), pod(true, 3))
		b.servers(b.client, "tcp", "192.168.1.1:30080", pod(false, 2), pod(false, 3))
		b.run("nft", "flush", "ruleset")
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
		for line := range strings.Lines(b.log.String()) {
			if strings.Contains(line, "level=ERROR") || strings.Contains(line, "not permitted") || strings.Contains(line, "denied") && !strings.Contains(line, "level=DEBUG") {
				t.Errorf("the log says %s", line)
			}
		}
	})
}
