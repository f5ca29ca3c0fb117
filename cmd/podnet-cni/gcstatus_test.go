package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/veth"
)

func TestGC(t *testing.T) {
	n := newNode(t)
	other := strings.Replace(dualConf, `"net"`, `"other"`, 1)
	n.must("ADD", "c1", "pod1", dualConf)
	n.must("ADD", "c2", "pod2", dualConf)
	n.kernel.Netns("pod3")
	n.must("ADD", "c3", "pod3", other) // of another network: not this one's business
	gc := func(list string) string { return strings.Replace(dualConf, `"ipam"`, list+`,"ipam"`, 1) }

	n.must("GC", "", "", gc(`"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"},{"containerID":"unknown","ifname":"eth0"}]`))
	want := strings.Join([]string{
		"lease c1/eth0 10.244.1.2", "lease c3/eth0 10.244.1.2",
		`link cni0 master "" alias "podnet:bridge"`,
		fmt.Sprintf("link %s master %q alias %q", veth.HostName("c1", "eth0"), "cni0", veth.Mark("c1", "eth0")),
		fmt.Sprintf("link %s master %q alias %q", veth.HostName("c3", "eth0"), "cni0", veth.Mark("c3", "eth0")),
	}, "\n")
	sorted := strings.Split(want, "\n")
	slices.Sort(sorted)
	if diff := cmp.Diff(strings.Join(sorted, "\n"), n.state()); diff != "" {
		t.Errorf("after GC (-want +got):\n%s", diff)
	}
	n.must("GC", "", "", gc(`"cni.dev/attachments":[{"containerID":"c1","ifname":"eth0"}]`)) // the key of older runtimes
	if !strings.Contains(n.state(), "lease c1/eth0") {
		t.Error("GC with the old key removed a valid attachment")
	}
	if _, err := n.run("GC", "", "", gc(`"cni.dev/valid-attachments":[{"containerID":"../x","ifname":"eth0"}]`)); err == nil || err.Code != 7 {
		t.Errorf("GC with a name that cannot be: %v, want code 7", err)
	}
	n.must("GC", "", "", dualConf) // nothing is valid
	if s := n.state(); strings.Contains(s, "c1/eth0") || !strings.Contains(s, "c3/eth0") {
		t.Errorf("after the last GC:\n%s", s)
	}
	newNode(t).must("GC", "", "", dualConf)
}

func TestGCReportsAndGoesOn(t *testing.T) {
	n := newNode(t)
	n.must("ADD", "c1", "pod1", dualConf)
	n.must("ADD", "c2", "pod2", dualConf)
	stuck := veth.HostName("c1", "eth0")
	n.kernel.Fault = func(c rtnltest.Call) error {
		if l, ok := c.Change.Object.(rtnl.Link); ok && c.Change.Verb == rtnl.Delete && l.Name == stuck {
			return syscall.EBUSY
		}
		return nil
	}
	_, err := n.run("GC", "", "", dualConf)
	n.kernel.Fault = nil
	if err == nil || err.Code != codeGC || !strings.Contains(err.Error(), "c1/eth0") {
		t.Errorf("GC: %v, want code %d that names c1/eth0", err, codeGC)
	}
	if s := n.state(); strings.Contains(s, "c2") || !strings.Contains(s, "lease c1/eth0") {
		t.Errorf("want c2 gone, c1's lease kept as long as its link is there:\n%s", s)
	}
}

func TestStatus(t *testing.T) {
	n := newNode(t)
	n.must("STATUS", "", "", dualConf)
	missing := `{"cniVersion":"1.1.0","name":"net","subnetFile":"/nonexistent/subnet.env"}`
	if _, err := n.run("STATUS", "", "", missing); err == nil || err.Code != 50 || !strings.Contains(err.Error(), "podnet-agent") {
		t.Errorf("without subnet file: %v, want code 50 that says who writes it", err)
	}
	if _, err := n.run("ADD", "c1", "pod1", missing); err == nil || err.Code != 11 {
		t.Errorf("ADD without subnet file: %v, want code 11", err)
	}
	if _, err := n.run("STATUS", "", "", strings.Replace(dualConf, "10.244.1.0/24", "10.244.1.1/24", 1)); err == nil || err.Code != 7 {
		t.Errorf("with a bad subnet: %v, want code 7", err)
	}
	n.masq.Missing(masq.NFTables)
	n.masq.Missing(masq.IPTables)
	if _, err := n.run("STATUS", "", "", dualConf); err == nil || err.Code != 50 {
		t.Errorf("without a packet filter: %v, want code 50", err)
	}
	n = newNode(t)
	n.must("ADD", "c1", "pod1", dualConf)
	n.must("STATUS", "", "", dualConf)
	if err := n.write("node", rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: "cni0"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.run("STATUS", "", "", dualConf); err == nil || err.Code != 51 {
		t.Errorf("without the bridge of attached pods: %v, want code 51", err)
	}
}
