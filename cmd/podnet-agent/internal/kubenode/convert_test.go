package kubenode

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

const annotationPrefix = "flannel.alpha.coreos.com/"

var compareNodes = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}

func testKeys() flannel.Keys {
	k, err := flannel.NewKeys(flannel.DefaultPrefix)
	if err != nil {
		panic(err)
	}
	return k
}

func dualStack(backend string) netconf.Config {
	return netconf.Config{Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/48")}, Backend: netconf.Backend{Type: backend, VNI: 1}}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func cidrs(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func TestPeer(t *testing.T) {
	internal := []kubeapi.Address{{Type: "ExternalIP", Address: "203.0.113.1"}, {Type: "InternalIP", Address: "192.168.1.1"}, {Type: "InternalIP", Address: "fd00::1"}, {Type: "InternalIP", Address: "192.168.2.1"}}
	mac := rtnl.MAC{0x8e, 0x12, 0xfe, 0x33, 1, 2}
	const data = `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`
	directRouting := dualStack("vxlan")
	directRouting.Backend.DirectRouting = true
	for _, c := range []struct {
		name        string
		net         netconf.Config
		podCIDRs    []string
		addresses   []kubeapi.Address
		annotations map[string]string
		want        node.Node
		err         string
	}{
		{"without annotations", dualStack("vxlan"), []string{"10.244.1.0/24", "fd00:244:0:1::/64"}, internal, nil,
			node.Node{PodCIDRs: cidrs("10.244.1.0/24", "fd00:244:0:1::/64"), Addresses: addrs("192.168.1.1", "fd00::1")}, ""},
		{"external addresses only", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal[:1], nil,
			node.Node{PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("203.0.113.1")}, ""},
		{"annotated", dualStack("vxlan"), []string{"10.244.1.0/24", "fd00:244:0:1::/64"}, internal,
			map[string]string{"backend-type": "vxlan", "backend-data": data, "backend-v6-data": `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:03"}`, "public-ip": "192.168.9.9"},
			node.Node{PodCIDRs: cidrs("10.244.1.0/24", "fd00:244:0:1::/64"), Addresses: addrs("192.168.9.9", "fd00::1"), VTEPMAC: mac, VTEPMAC6: rtnl.MAC{0x8e, 0x12, 0xfe, 0x33, 1, 3}}, ""},
		{"annotated in one family", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal, map[string]string{"backend-type": "vxlan", "backend-data": data},
			node.Node{PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.1.1", "fd00::1"), VTEPMAC: mac, VTEPMAC6: vxlan.MACFor("a", "podnet-v6.1")}, ""},
		{"overwrite is the agent's to publish", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal[:2], map[string]string{"public-ip-overwrite": "203.0.113.9"},
			node.Node{PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.1.1")}, ""},
		{"no podCIDR", dualStack("vxlan"), nil, internal, nil, node.Node{}, errNoPodCIDR.Error()},
		{"broken podCIDR", dualStack("vxlan"), []string{"10.244.1.0"}, internal, nil, node.Node{}, `podCIDR "10.244.1.0": not a CIDR`},
		{"podCIDR with host bits", dualStack("vxlan"), []string{"10.244.1.1/24"}, internal, nil, node.Node{}, `has host bits`},
		{"all of IPv4", dualStack("vxlan"), []string{"0.0.0.0/0"}, internal, nil, node.Node{}, `want unicast addresses`},
		{"no address", dualStack("vxlan"), []string{"10.244.1.0/24"}, []kubeapi.Address{{Type: "InternalIP", Address: "not-an-address"}}, nil, node.Node{}, "addresses: none"},
		{"address in its own podCIDR", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal, map[string]string{"public-ip": "10.244.1.5"}, node.Node{}, "lies in the node's own podCIDR"},
		{"hostile address", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal, map[string]string{"public-ip": "127.0.0.1"}, node.Node{}, `annotation flannel.alpha.coreos.com/public-ip "127.0.0.1"`},
		{"hostile data", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal, map[string]string{"backend-type": "vxlan", "backend-data": "{"}, node.Node{}, `backend-data "{"`},
		{"another backend", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal, map[string]string{"backend-type": "wireguard", "backend-data": `{"PublicKey":"x"}`}, node.Node{}, "its backend-type is wireguard, and vxlan here"},
		{"another VNI", dualStack("vxlan"), []string{"10.244.1.0/24"}, internal, map[string]string{"backend-type": "vxlan", "backend-data": `{"VNI":2,"VtepMAC":"8e:12:fe:33:01:02"}`}, node.Node{}, "its VNI is 2, and 1 here"},
		{"host-gw there, direct routing here", directRouting, []string{"10.244.1.0/24"}, internal[:2], map[string]string{"backend-type": "host-gw", "backend-data": "null"},
			node.Node{PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.1.1")}, ""},
		{"vxlan there, host-gw here", dualStack("host-gw"), []string{"10.244.1.0/24"}, internal[:2], map[string]string{"backend-type": "vxlan", "backend-data": `{"VNI":2,"VtepMAC":"8e:12:fe:33:01:02"}`},
			node.Node{PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.1.1")}, "any"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := kubeapi.Node{Name: "a", UID: "u", PodCIDRs: c.podCIDRs, Addresses: c.addresses, Annotations: map[string]string{}}
			for k, v := range c.annotations {
				in.Annotations[annotationPrefix+k] = v
			}
			got, _, err := converter{testKeys(), c.net}.peer(in)
			if c.err == "any" { // the backend ignores the MAC
				got.VTEPMAC, got.VTEPMAC6 = rtnl.MAC{}, rtnl.MAC{}
				c.err = ""
			}
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v, want %q", err, c.err)
				}
				return
			}
			c.want.Name = "a"
			if diff := cmp.Diff(c.want, got, compareNodes); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// This node is described by its kubelet and its administrator; what it has published itself counts only where they say nothing.
func TestOwn(t *testing.T) {
	in := kubeapi.Node{Name: "a", PodCIDRs: []string{"10.244.1.0/24"}, Addresses: []kubeapi.Address{{Type: "InternalIP", Address: "192.168.1.1"}},
		Annotations: map[string]string{annotationPrefix + "public-ip": "203.0.113.7", annotationPrefix + "public-ip-overwrite": "203.0.113.7", annotationPrefix + "public-ipv6": "fd00::7", annotationPrefix + "backend-data": "{"}}
	c := converter{testKeys(), dualStack("vxlan")}
	got, said, err := c.own(in)
	if diff := cmp.Diff(node.Node{Name: "a", PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.1.1", "fd00::7")}, got, compareNodes); diff != "" {
		t.Error(diff)
	}
	if said.Of(rtnl.IPv4).Overwrite.String() != "203.0.113.7" || err == nil || !strings.Contains(err.Error(), "backend-data") {
		t.Errorf("%+v, %v", said, err)
	}
	in.Annotations = map[string]string{annotationPrefix + "node-public-ip": "192.168.5.1"}
	in.PodCIDRs = append(in.PodCIDRs, "fd00:244:0:1::/64")
	if got, _, err = c.own(in); err != nil || fmt.Sprint(got.Addresses) != "[192.168.5.1 ::]" {
		t.Errorf("%+v, %v", got, err)
	}
}

// settle is what a node named self makes of others.
func settle(all []ranked) ([]node.Node, []conflict) {
	var pointers []*ranked
	for i := range all {
		pointers = append(pointers, &all[i])
	}
	var c claims
	return c.settle(pointers, "self")
}

func TestSettle(t *testing.T) {
	peer := func(name string, age int64, podCIDR, addr string) ranked {
		return ranked{node.Node{Name: name, PodCIDRs: cidrs(podCIDR), Addresses: addrs(addr)}, age, "uid-" + name}
	}
	for _, c := range []struct {
		name      string
		all       []ranked
		want      string
		conflicts []string
	}{
		{"none", []ranked{peer("self", 0, "10.244.0.0/24", "192.168.0.1"), peer("b", 1, "10.244.1.0/24", "192.168.0.2")}, "b self", nil},
		{"podCIDR: the older one, not the first by name", []ranked{peer("a", 2, "10.244.1.0/24", "192.168.0.2"), peer("z", 1, "10.244.1.0/24", "192.168.0.3")}, "z",
			[]string{`node "a": podCIDR 10.244.1.0/24 is that of the older node "z"`}},
		{"at the same second: the smaller UID", []ranked{peer("b", 1, "10.244.1.0/24", "192.168.0.2"), peer("a", 1, "10.244.1.0/24", "192.168.0.3")}, "a",
			[]string{`node "b": podCIDR 10.244.1.0/24 is that of the older node "a"`}},
		{"part of an older podCIDR", []ranked{peer("b", 2, "10.244.1.128/25", "192.168.0.2"), peer("a", 1, "10.244.1.0/24", "192.168.0.3")}, "a",
			[]string{`node "b": podCIDR 10.244.1.128/25 is that of the older node "a"`}},
		{"around an older podCIDR", []ranked{peer("b", 2, "10.244.0.0/16", "192.168.0.2"), peer("a", 1, "10.244.1.0/24", "192.168.0.3")}, "a",
			[]string{`node "b": podCIDR 10.244.0.0/16 holds that of the older node "a"`}},
		{"address", []ranked{peer("b", 2, "10.244.2.0/24", "192.168.0.3"), peer("a", 1, "10.244.1.0/24", "192.168.0.3")}, "a",
			[]string{`node "b": address 192.168.0.3 is that of the older node "a"`}},
		{"this node is older", []ranked{peer("b", 2, "10.244.1.0/24", "192.168.0.2"), peer("self", 1, "10.244.1.0/24", "192.168.0.3")}, "self",
			[]string{`node "b": podCIDR 10.244.1.0/24 is that of the older node "self"`}},
		{"this node is younger: it stays here, and gives way elsewhere", []ranked{peer("b", 1, "10.244.1.0/24", "192.168.0.2"), peer("self", 2, "10.244.1.0/24", "192.168.0.3")}, "self",
			[]string{`node "self": podCIDR 10.244.1.0/24 is that of the older node "b"`}},
		{"three", []ranked{peer("c", 3, "10.244.1.0/24", "192.168.0.4"), peer("b", 2, "10.244.1.0/24", "192.168.0.3"), peer("a", 1, "10.244.1.0/24", "192.168.0.2")}, "a",
			[]string{`node "b": podCIDR 10.244.1.0/24 is that of the older node "a"`, `node "c": podCIDR 10.244.1.0/24 is that of the older node "a"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes, conflicts := settle(c.all)
			var names, texts []string
			for _, n := range nodes {
				names = append(names, n.Name)
			}
			for _, c := range conflicts {
				texts = append(texts, c.String())
			}
			if strings.Join(names, " ") != c.want {
				t.Errorf("%v work, want %s", names, c.want)
			}
			if diff := cmp.Diff(c.conflicts, texts); diff != "" {
				t.Error(diff)
			}
		})
	}
	mac := rtnl.MAC{2, 0, 0, 0, 0, 1}
	same := []ranked{peer("a", 1, "10.244.1.0/24", "192.168.0.2"), peer("b", 2, "10.244.2.0/24", "192.168.0.3")}
	same[0].node.VTEPMAC, same[1].node.VTEPMAC = mac, mac
	if nodes, conflicts := settle(same); len(nodes) != 1 || len(conflicts) != 1 || !strings.Contains(conflicts[0].String(), "VTEP MAC 02:00:00:00:00:01 is that of") {
		t.Errorf("%v, %v", nodes, conflicts)
	}
}

// A node that loses changes nothing for the one that wins, and takes over in one step when that goes (fault B10).
func TestSettleReplace(t *testing.T) {
	old := ranked{node.Node{Name: "z-old", PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.0.2")}, 1, "1"}
	fresh := ranked{node.Node{Name: "a-new", PodCIDRs: cidrs("10.244.1.0/24"), Addresses: addrs("192.168.0.3")}, 2, "2"}
	for _, step := range []struct {
		all  []ranked
		want string
	}{{[]ranked{old}, "192.168.0.2"}, {[]ranked{fresh, old}, "192.168.0.2"}, {[]ranked{fresh}, "192.168.0.3"}} {
		nodes, _ := settle(step.all)
		if len(nodes) != 1 || nodes[0].Addresses[0].String() != step.want {
			t.Errorf("%v, want the podCIDR at %s", nodes, step.want)
		}
	}
}
