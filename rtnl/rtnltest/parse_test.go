package rtnltest_test

import (
	"testing"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

const planText = `link add cni0 up mtu 1450 address 0a:58:0a:f4:00:01 alias "podnet:bridge" type bridge
link add veth1 down master cni0 hairpin on type veth peer eth0 address 0a:58:0a:f4:00:01 netns /run/netns/pod
link add podnet.1 tx-checksum off type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning
link set podnet.1 type vxlan id 1 learning
link del cni0
addr add fd00::1/64 dev cni0 nodad noprefixroute
route replace 10.1.0.0/24 via 10.1.0.0 dev podnet.1 proto 112 mtu 1400 onlink
route add 10.1.0.0/24 nhid 7 table 100 metric 5
route add blackhole 10.1.0.0/24 proto static
route add unreachable ::/0
route add 10.1.0.0/24 dev cni0 proto boot scope link src 10.1.0.1 advmss 1300
neigh replace 10.1.0.0 lladdr 0a:58:0a:f4:00:01 dev podnet.1 nud permanent
neigh del 10.1.0.0 dev podnet.1
fdb add 0a:58:0a:f4:00:01 dev podnet.1 dst 192.0.2.1 self permanent
nexthop add id 7 via 10.1.0.0 dev podnet.1 proto 112 onlink
nexthop del id 7
sysctl -w net/ipv4/ip_local_port_range=1 2
`

func TestParsePlan(t *testing.T) {
	plan, err := rtnltest.ParsePlan("# as printed\n\n" + planText)
	if err != nil {
		t.Fatal(err)
	}
	if have := plan.String(); have != planText {
		t.Errorf("printed again:\n%s\nwant:\n%s", have, planText)
	}
	for _, bad := range []string{
		"link", "link add", "link jump a", "rule add x", "link add a speed 7", "link add a mtu", "link add a mtu x", "link add a peer b", "link add a type vxlan id x",
		"link add a alias x", "link add a hairpin maybe", "addr add 10.0.0.1 dev a", "route add x", "route add 10.0.0.0/8 scope wide", "route add 10.0.0.0/8 proto zebra",
		"neigh add x dev a", "fdb add 0a dev a", "fdb add 0a:58:0a:f4:00:01 via a", "nexthop add id x", "nexthop add number 1",
	} {
		if plan, err := rtnltest.ParsePlan(bad); err == nil {
			t.Errorf("%q gives %v", bad, plan)
		}
	}
}

// FuzzParsePlan: what can be parsed prints in a form that parses to the same.
func FuzzParsePlan(f *testing.F) {
	f.Add(planText)
	f.Fuzz(func(t *testing.T, text string) {
		plan, err := rtnltest.ParsePlan(text)
		if err != nil {
			return
		}
		printed := plan.String()
		again, err := rtnltest.ParsePlan(printed)
		if err != nil {
			t.Fatalf("%q prints as %q: %v", text, printed, err)
		}
		if again.String() != printed {
			t.Errorf("%q, then %q", printed, again)
		}
		for i := range plan {
			if _, isRoute := plan[i].Object.(rtnl.Route); !isRoute && plan[i] != again[i] {
				t.Errorf("%#v, then %#v", plan[i], again[i])
			}
		}
	})
}
