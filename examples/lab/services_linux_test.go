package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// planned returns a topology whose pods have addresses, and its Services.
func planned(t *testing.T, nodes, pods int, family string) (*topology, labServices) {
	t.Helper()
	topo, err := newTopology(options{nodes: nodes, pods: pods, backend: "vxlan", family: family, proxy: "nftables", checks: "all", slow: 1}, "id", "/dir")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range topo.pods() {
		for _, v6 := range topo.families() {
			p.addrs = append(p.addrs, segment{prefixes: clusterCIDRs}.host(v6, 10+i))
		}
	}
	return topo, topo.planServices()
}

// TestServicesAreKubernetes: what the lab writes are fields of Kubernetes' types, and no two Services want the same.
func TestServicesAreKubernetes(t *testing.T) {
	for _, c := range []struct {
		nodes, pods int
		family      string
	}{{3, 2, "dual"}, {1, 1, "ipv6"}, {50, 50, "ipv4"}} {
		topo, services := planned(t, c.nodes, c.pods, c.family)
		seen := map[string]string{}
		for _, s := range services.all() {
			var service corev1.Service
			strict(t, s.object(topo.families()), &service)
			for _, ip := range service.Spec.ClusterIPs {
				for _, p := range service.Spec.Ports {
					claim(t, seen, fmt.Sprint(ip, p.Port, p.Protocol), s.name)
				}
			}
			for _, p := range service.Spec.Ports {
				if p.NodePort != 0 {
					claim(t, seen, fmt.Sprint(p.NodePort, p.Protocol), s.name)
				}
			}
			if len(s.members) > mostMembers {
				t.Errorf("%s has %d endpoints, want %d at most", s.name, len(s.members), mostMembers)
			}
			for _, v6 := range topo.families() {
				var slice discoveryv1.EndpointSlice
				strict(t, s.slice(v6), &slice)
				if len(slice.Endpoints) != len(s.members) {
					t.Errorf("%s: %d endpoints, want %d", s.name, len(slice.Endpoints), len(s.members))
				}
			}
		}
		if last := topo.nodes[len(topo.nodes)-1]; services.local.on(last) != (c.nodes == 1) {
			t.Errorf("%d nodes: an endpoint of %s on the last: %v", c.nodes, services.local.name, services.local.on(last))
		}
	}
}

func claim(t *testing.T, seen map[string]string, what, by string) {
	t.Helper()
	if other, ok := seen[what]; ok {
		t.Errorf("%s and %s want %s", other, by, what)
	}
	seen[what] = by
}

func strict(t *testing.T, o object, into any) {
	t.Helper()
	data, err := yaml.Marshal(o)
	if err == nil {
		err = yaml.UnmarshalStrict(data, into)
	}
	if err != nil {
		t.Errorf("%v: %s", err, data)
	}
}

// TestSliceFollowsPods: a pod that is being deleted serves and is not ready; then it is gone.
func TestSliceFollowsPods(t *testing.T) {
	_, services := planned(t, 1, 3, "ipv4")
	services.web.members[1].life, services.web.members[2].life = leaving, gone
	got, err := json.Marshal(services.web.slice(false)["endpoints"])
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"addresses":["10.244.0.10"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"node-a"},` +
		`{"addresses":["10.244.0.11"],"conditions":{"ready":false,"serving":true,"terminating":true},"nodeName":"node-a"}]`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// TestNames asks the name service's code with Go's resolver.
func TestNames(t *testing.T) {
	topo, services := planned(t, 1, 1, "dual")
	names := map[string]*labService{"web.lab.svc.cluster.local.": services.web}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			_, _ = c.WriteTo(answerDNS(buf[:n], names, topo.families()), from)
		}
	}()
	resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("udp", c.LocalAddr().String())
	}}
	for _, q := range []struct{ network, name, want string }{
		{"ip4", "web.lab.svc.cluster.local.", "[10.96.0.20]"},
		{"ip6", "WEB.lab.svc.cluster.local.", "[fd00:10:96::14]"},
		{"ip4", "none.lab.svc.cluster.local.", "no such host"},
	} {
		addrs, err := resolver.LookupNetIP(t.Context(), q.network, q.name)
		if got := fmt.Sprint(addrs, err); !strings.Contains(got, q.want) {
			t.Errorf("%s %s: %s, want %s", q.network, q.name, got, q.want)
		}
	}
}

func FuzzAnswerDNS(f *testing.F) {
	f.Add([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01"))
	f.Add([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, query []byte) {
		reply := answerDNS(query, nil, []bool{false})
		if reply != nil && (len(reply) > len(query) || reply[2]&0x80 == 0) {
			t.Errorf("%x: %x", query, reply)
		}
	})
}

func TestParseReply(t *testing.T) {
	got, err := parseReply("pod-a1 10.244.0.2 hello")
	if want := (reply{"pod-a1", netip.MustParseAddr("10.244.0.2")}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "pod-a1", "pod-a1 here"} {
		if got, err := parseReply(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}

func TestBars(t *testing.T) {
	var b strings.Builder
	bars(&b, map[string]int{"pod-b1": 1, "pod-a1": 3})
	want := "    pod-a1          3   75 %  " + strings.Repeat("#", 45) + "\n    pod-b1          1   25 %  " + strings.Repeat("#", 15) + "\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestEven(t *testing.T) {
	if err := even(map[string]int{"a": 480, "b": 520}, 2); err != nil {
		t.Error(err)
	}
	if err := even(map[string]int{"a": 300, "b": 700}, 2); err == nil {
		t.Error("300 and 700 of 1,000 count as even")
	}
}

// TestSpeakers judges flows by who answered.
func TestSpeakers(t *testing.T) {
	one, two := &flow{by: map[string]int{"pod-a1": 9}}, &flow{by: map[string]int{"pod-a1": 5, "pod-b1": 4}}
	for _, c := range []struct {
		name    string
		err     error
		finding bool
	}{
		{"stays, nothing lost", stays(one, flowResult{sent: 9}), false},
		{"stays, something lost", stays(one, flowResult{sent: 9, lost: 1}), true},
		{"stays, answered by two", stays(two, flowResult{sent: 9}), true},
		{"moved", moved(two, flowResult{sent: 9, lost: 1, outage: healLimit}, moveLimit), false},
		{"moved too late", moved(two, flowResult{sent: 9, lost: 1, outage: 2 * moveLimit}, moveLimit), true},
		{"never moved", moved(one, flowResult{sent: 9}, moveLimit), true},
	} {
		if (c.err != nil) != c.finding {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
}
