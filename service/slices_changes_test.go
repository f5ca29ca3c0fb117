package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestEndpointChanges is kube-proxy's TestUpdateEndpointsMap (pkg/proxy/endpointschangetracker_test.go, v1.36.3): slices before and after, which Services that changes, the
// endpoints then, and how many are local and ready.
func TestEndpointChanges(t *testing.T) {
	many := []string{"ns1/ep1-1: p11=11 p12=12 | 1.1.1.1 1.1.1.2*", "ns1/ep1-2: p13=13 p14=14 | 1.1.1.3 1.1.1.4*", "ns2/ep2-1: p21=21 p22=22 | 2.2.2.1 2.2.2.2*"}
	for _, c := range []struct {
		name          string
		before, after []string
		changed       string
		want          []string
		local         string
	}{
		{name: "empty"},
		{name: "no change, unnamed port", before: []string{"ns1/ep1-1: =11 | 1.1.1.1"}, after: []string{"ns1/ep1-1: =11 | 1.1.1.1"}, want: []string{"ns1/ep1: 1.1.1.1:11"}},
		{name: "no change, named port, local", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1*"}, after: []string{"ns1/ep1-1: p11=11 | 1.1.1.1*"},
			want: []string{"ns1/ep1:p11 1.1.1.1:11*"}, local: "ns1/ep1 1"},
		{name: "no change, several slices", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1", "ns1/ep1-2: p12=12 | 1.1.1.2"},
			after: []string{"ns1/ep1-1: p11=11 | 1.1.1.1", "ns1/ep1-2: p12=12 | 1.1.1.2"}, want: []string{"ns1/ep1:p11 1.1.1.1:11", "ns1/ep1:p12 1.1.1.2:12"}},
		{name: "no change, several slices and ports, local", before: []string{"ns1/ep1-1: p11=11 p12=12 | 1.1.1.1*", "ns1/ep1-2: p13=13 | 1.1.1.3"},
			after: []string{"ns1/ep1-1: p11=11 p12=12 | 1.1.1.1*", "ns1/ep1-2: p13=13 | 1.1.1.3"},
			want:  []string{"ns1/ep1:p11 1.1.1.1:11*", "ns1/ep1:p12 1.1.1.1:12*", "ns1/ep1:p13 1.1.1.3:13"}, local: "ns1/ep1 1"},
		{name: "no change, several of all", before: many, after: many,
			want: []string{"ns1/ep1:p11 1.1.1.1:11 1.1.1.2:11*", "ns1/ep1:p12 1.1.1.1:12 1.1.1.2:12*", "ns1/ep1:p13 1.1.1.3:13 1.1.1.4:13*", "ns1/ep1:p14 1.1.1.3:14 1.1.1.4:14*",
				"ns2/ep2:p21 2.2.2.1:21 2.2.2.2:21*", "ns2/ep2:p22 2.2.2.1:22 2.2.2.2:22*"}, local: "ns1/ep1 2, ns2/ep2 1"},
		{name: "add a slice", after: []string{"ns1/ep1-1: =11 | 1.1.1.1*"}, changed: "ns1/ep1", want: []string{"ns1/ep1: 1.1.1.1:11*"}, local: "ns1/ep1 1"},
		{name: "remove a slice", before: []string{"ns1/ep1-1: =11 | 1.1.1.1*"}, changed: "ns1/ep1"},
		{name: "add an address and a port", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1"}, after: []string{"ns1/ep1-1: p11=11 p12=12 | 1.1.1.1 1.1.1.2*"}, changed: "ns1/ep1",
			want: []string{"ns1/ep1:p11 1.1.1.1:11 1.1.1.2:11*", "ns1/ep1:p12 1.1.1.1:12 1.1.1.2:12*"}, local: "ns1/ep1 1"},
		{name: "remove an address and a port", before: []string{"ns1/ep1-1: p11=11 p12=12 | 1.1.1.1 1.1.1.2*"}, after: []string{"ns1/ep1-1: p11=11 | 1.1.1.1"}, changed: "ns1/ep1",
			want: []string{"ns1/ep1:p11 1.1.1.1:11"}},
		{name: "add a second slice", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1"}, after: []string{"ns1/ep1-1: p11=11 | 1.1.1.1", "ns1/ep1-2: p12=12 | 1.1.1.2*"}, changed: "ns1/ep1",
			want: []string{"ns1/ep1:p11 1.1.1.1:11", "ns1/ep1:p12 1.1.1.2:12*"}, local: "ns1/ep1 1"},
		{name: "remove the second slice", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1", "ns1/ep1-2: p12=12 | 1.1.1.2"}, after: []string{"ns1/ep1-1: p11=11 | 1.1.1.1"}, changed: "ns1/ep1",
			want: []string{"ns1/ep1:p11 1.1.1.1:11"}},
		{name: "rename a port", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1"}, after: []string{"ns1/ep1-1: p11-2=11 | 1.1.1.1"}, changed: "ns1/ep1", want: []string{"ns1/ep1:p11-2 1.1.1.1:11"}},
		{name: "renumber a port", before: []string{"ns1/ep1-1: p11=11 | 1.1.1.1"}, after: []string{"ns1/ep1-1: p11=22 | 1.1.1.1"}, changed: "ns1/ep1", want: []string{"ns1/ep1:p11 1.1.1.1:22"}},
		{name: "add and remove much",
			before:  []string{"ns1/ep1-1: p11=11 | 1.1.1.1", "ns2/ep2-1: p22=22 | 2.2.2.2* 2.2.2.22*", "ns2/ep2-2: p23=23 | 2.2.2.3*", "ns4/ep4-1: p44=44 | 4.4.4.4* 4.4.4.5*", "ns4/ep4-2: p45=45 | 4.4.4.6*"},
			after:   []string{"ns1/ep1-1: p11=11 | 1.1.1.1 1.1.1.11", "ns1/ep1-2: p12=12 p122=122 | 1.1.1.2", "ns3/ep3-1: p33=33 | 3.3.3.3", "ns4/ep4-1: p44=44 | 4.4.4.4*"},
			want:    []string{"ns1/ep1:p11 1.1.1.1:11 1.1.1.11:11", "ns1/ep1:p12 1.1.1.2:12", "ns1/ep1:p122 1.1.1.2:122", "ns3/ep3:p33 3.3.3.3:33", "ns4/ep4:p44 4.4.4.4:44*"},
			changed: "ns1/ep1 ns2/ep2 ns3/ep3 ns4/ep4", local: "ns4/ep4 1"},
		{name: "from no address to one", before: []string{"ns1/ep1-1: |"}, after: []string{"ns1/ep1-1: =11 | 1.1.1.1"}, changed: "ns1/ep1", want: []string{"ns1/ep1: 1.1.1.1:11"}},
		{name: "from ready to terminating", before: []string{"ns1/ep1-1: =11 | 1.1.1.1"}, after: []string{"ns1/ep1-1: =11 | 1.1.1.1~"}, changed: "ns1/ep1", want: []string{"ns1/ep1: 1.1.1.1:11~"}},
		{name: "from terminating to none", before: []string{"ns1/ep1-1: =11 | 1.1.1.1~"}, after: []string{"ns1/ep1-1: |"}, changed: "ns1/ep1"},
		// TestGetLocalEndpointIPs: addresses count once, terminating ones not at all.
		{name: "local and ready, by address", after: []string{"ns2/ep2-1: p22=22 | 2.2.2.2* 2.2.2.22*", "ns2/ep2-2: p23=23 | 2.2.2.3*~ 2.2.2.2*", "ns4/ep4-1: p44=44 | 4.4.4.4*~ 4.4.4.5"},
			want:    []string{"ns2/ep2:p22 2.2.2.2:22* 2.2.2.22:22*", "ns2/ep2:p23 2.2.2.2:23* 2.2.2.3:23*~", "ns4/ep4:p44 4.4.4.4:44*~ 4.4.4.5:44"},
			changed: "ns2/ep2 ns4/ep4", local: "ns2/ep2 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tracking(t, c.before...)
			for _, n := range []Name{{"ns1", "ep1"}, {"ns2", "ep2"}, {"ns3", "ep3"}, {"ns4", "ep4"}} {
				tr.SetService(Service{Name: n, ClusterIPs: addrs("10.96.0." + n.Name[2:]), ExternalPolicy: Local, HealthCheckNodePort: 30000, Ports: []Port{{Protocol: UDP, Port: 80, NodePort: 30001}}})
			}
			tr.Take()
			after := map[string]bool{}
			for _, text := range c.after {
				s := parseSlice(t, text)
				after[s.of.String()+s.name] = true
				tr.SetSlice(s.of, s.name, s.slice)
			}
			for _, text := range c.before {
				if s := parseSlice(t, text); !after[s.of.String()+s.name] {
					tr.DeleteSlice(s.of, s.name)
				}
			}
			var changed []string
			for _, n := range slices.SortedFunc(maps.Keys(tr.dirty), Name.compare) {
				changed = append(changed, n.String())
			}
			if got := strings.Join(changed, " "); got != c.changed {
				t.Errorf("changed %q, want %q", got, c.changed)
			}
			wantEndpoints(t, tr, c.want...)
			tr.MarkAll()
			var local []string
			for _, p := range tr.Take() {
				if p.Program.LocalReady > 0 {
					local = append(local, fmt.Sprint(p.Program.Name, " ", p.Program.LocalReady))
				}
			}
			if got := strings.Join(local, ", "); got != c.local {
				t.Errorf("local and ready: %q, want %q", got, c.local)
			}
		})
	}
}
