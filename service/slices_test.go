package service

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// namedSlice is a slice with its Service and name.
type namedSlice struct {
	of    Name
	name  string
	slice Slice
}

// parseSlice reads "ns1/ep1-2: p11=11 p12=12 | 1.1.1.1 1.1.1.2*": slice 2 of a Service, its UDP ports and its endpoints. After an address "*" is local, "!" is not ready, "~" drains (still
// serves while it terminates) and "x" terminates without serving. A port without a name is "=11".
func parseSlice(t *testing.T, text string) namedSlice {
	t.Helper()
	id, rest, _ := strings.Cut(text, ":")
	ports, endpoints, ok := strings.Cut(rest, "|")
	namespace, name, _ := strings.Cut(id, "/")
	service, _, dash := strings.Cut(name, "-")
	if !ok || !dash {
		t.Fatalf("%q", text)
	}
	s := namedSlice{of: Name{namespace, service}, name: name}
	for _, p := range strings.Fields(ports) {
		name, number, _ := strings.Cut(p, "=")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		s.slice.Ports = append(s.slice.Ports, EndpointPort{name, UDP, uint16(n)})
	}
	for _, e := range strings.Fields(endpoints) {
		one := Endpoint{Addr: addr(strings.TrimRight(e, "*!~x")), Node: "elsewhere"}
		if strings.Contains(e, "*") {
			one.Node = "this-node"
		}
		one.Terminating = strings.ContainsAny(e, "~x")
		one.NotServing = strings.ContainsAny(e, "!x")
		one.NotReady = one.Terminating || one.NotServing
		s.slice.Endpoints = append(s.slice.Endpoints, one)
	}
	return s
}

// generated is kube-proxy's generateEndpointSliceWithOffset: n endpoints 10.0.offset.1..n, those whose number unready divides are not ready, and those that terminating
// divides terminate. hosts are taken in turn.
func generated(num, offset, n, unready, terminating int, hosts string, ports ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ns1/svc1-%d:", num)
	for i, p := range ports {
		fmt.Fprintf(&b, " port%d=%d", i, p)
	}
	b.WriteString(" |")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, " 10.0.%d.%d", offset, i)
		if h := strings.Fields(hosts); len(h) > 0 && h[i%len(h)] == "host1" {
			b.WriteString("*")
		}
		switch notServing, ends := i%unready == 0, i%terminating == 0; {
		case notServing && ends:
			b.WriteString("x")
		case notServing:
			b.WriteString("!")
		case ends:
			b.WriteString("~")
		}
	}
	return b.String()
}

// showEndpoints is what a Tracker knows, a line for each port of each Service, in the notation of parseSlice.
func showEndpoints(tr *Tracker) string {
	var b strings.Builder
	for _, n := range slices.SortedFunc(maps.Keys(tr.entries), Name.compare) {
		var all []*held
		var ports []Port
		for _, name := range slices.Sorted(maps.Keys(tr.entries[n].slices)) {
			s := tr.entries[n].slices[name]
			all = append(all, s)
			for _, p := range s.Ports {
				ports = append(ports, Port{Name: p.Name, Protocol: p.Protocol})
			}
		}
		slices.SortFunc(ports, func(a, b Port) int { return strings.Compare(a.Name, b.Name) })
		for _, p := range slices.Compact(ports) {
			found := endpointSlices{slices: all}.targets(&faults{}, tr.node, p, IPv4)
			if len(found) == 0 {
				continue
			}
			fmt.Fprintf(&b, "%s:%s", n, p.Name)
			for _, e := range found {
				fmt.Fprintf(&b, " %s%s", e.addr, marks(e))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func marks(t target) string {
	var s string
	if t.local {
		s = "*"
	}
	switch {
	case t.Terminating && t.NotServing:
		return s + "x"
	case t.Terminating:
		return s + "~"
	case t.NotServing:
		return s + "!"
	}
	return s
}

func tracking(t *testing.T, slices ...string) *Tracker {
	tr := NewTracker()
	tr.SetNode(Node{Name: "this-node"})
	for _, text := range slices {
		s := parseSlice(t, text)
		tr.SetSlice(s.of, s.name, s.slice)
	}
	return tr
}

func wantEndpoints(t *testing.T, tr *Tracker, want ...string) {
	t.Helper()
	var text string
	for _, w := range want {
		text += w + "\n"
	}
	if diff := cmp.Diff(text, showEndpoints(tr)); diff != "" {
		t.Error(diff)
	}
}

// TestSlices is kube-proxy's TestEndpointsMapFromESC and TestEndpointInfoByServicePort (pkg/proxy/endpointslicecache_test.go, v1.36.3): how slices become endpoints.
func TestSlices(t *testing.T) {
	for _, c := range []struct {
		name   string
		slices []string
		want   []string
	}{
		{"1 slice, 2 hosts, 2 ports", []string{generated(1, 1, 3, 999, 999, "host1 host2", 80, 443)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80* 10.0.1.3:80", "ns1/svc1:port1 10.0.1.1:443 10.0.1.2:443* 10.0.1.3:443"}},
		{"2 slices, same port", []string{generated(1, 1, 3, 999, 999, "", 80), generated(2, 2, 3, 999, 999, "", 80)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80 10.0.1.3:80 10.0.2.1:80 10.0.2.2:80 10.0.2.3:80"}},
		{"2 overlapping slices, same port", []string{generated(1, 1, 3, 999, 999, "", 80), generated(2, 1, 4, 999, 999, "", 80)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80 10.0.1.3:80 10.0.1.4:80"}},
		// kube-proxy's test gives both slices one name, so that the second replaces the first: the same here.
		{"the same slice twice, some unready in one or both", []string{generated(1, 1, 10, 3, 999, "", 80), generated(1, 1, 10, 6, 999, "", 80)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80 10.0.1.3:80 10.0.1.4:80 10.0.1.5:80 10.0.1.6:80! 10.0.1.7:80 10.0.1.8:80 10.0.1.9:80 10.0.1.10:80"}},
		{"2 overlapping slices, some unready in one or both: ready wins", []string{generated(1, 1, 10, 3, 999, "", 80), generated(2, 1, 10, 6, 999, "", 80)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80 10.0.1.3:80 10.0.1.4:80 10.0.1.5:80 10.0.1.6:80! 10.0.1.7:80 10.0.1.8:80 10.0.1.9:80 10.0.1.10:80"}},
		{"2 overlapping slices, some unready and some terminating", []string{generated(1, 1, 10, 3, 5, "", 80), generated(2, 1, 10, 6, 5, "", 80)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80 10.0.1.3:80 10.0.1.4:80 10.0.1.5:80~ 10.0.1.6:80! 10.0.1.7:80 10.0.1.8:80 10.0.1.9:80 10.0.1.10:80~"}},
		{"2 overlapping slices, all unready", []string{generated(1, 1, 3, 1, 999, "", 80), generated(2, 1, 3, 1, 999, "", 80)},
			[]string{"ns1/svc1:port0 10.0.1.1:80! 10.0.1.2:80! 10.0.1.3:80!"}},
		{"other Services and namespaces", []string{generated(1, 1, 2, 999, 999, "", 80), "ns1/svc2-1: port0=80 | 10.0.2.1", "ns2/svc1-1: port0=80 | 10.0.3.1"},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80", "ns1/svc2:port0 10.0.2.1:80", "ns2/svc1:port0 10.0.3.1:80"}},
		{"port 0 is none", []string{generated(1, 1, 3, 999, 999, "host1 host2", 0)}, nil},
		{"equal addresses with other ports are others", []string{generated(1, 1, 2, 999, 999, "host1 host2", 80), generated(2, 1, 2, 999, 999, "host1 host2", 8080)},
			[]string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.1:8080 10.0.1.2:80* 10.0.1.2:8080*"}},
		{"of duplicates the one that does not terminate", []string{"ns1/svc1-1: port0=80 | 10.0.1.1*~ 10.0.1.1* 10.0.1.1*x"}, []string{"ns1/svc1:port0 10.0.1.1:80*"}},
		{"of duplicates the one that does not terminate, unready", []string{"ns1/svc1-1: port0=80 | 10.0.1.1*~ 10.0.1.1*! 10.0.1.1*x"}, []string{"ns1/svc1:port0 10.0.1.1:80*!"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tracking(t, c.slices...)
			wantEndpoints(t, tr, c.want...)
			slices.Reverse(c.slices)
			if c.slices[0][:10] != c.slices[len(c.slices)-1][:10] { // other names: the order in which they come means nothing
				wantEndpoints(t, tracking(t, c.slices...), c.want...)
			}
		})
	}
}

// TestSliceChanged is kube-proxy's TestEsDataChanged: whether an update of a slice is a change. Order counts: a controller that reorders does it seldom.
func TestSliceChanged(t *testing.T) {
	for _, c := range []struct {
		name, before, after string
		changed             bool
	}{
		{"same ports", "bar/svc1-1: http=80 |", "bar/svc1-1: http=80 |", false},
		{"ports in another order", "bar/svc1-1: https=443 http=80 |", "bar/svc1-1: http=80 https=443 |", true},
		{"port removed", "bar/svc1-1: https=443 http=80 |", "bar/svc1-1: https=443 |", true},
		{"port added", "bar/svc1-1: https=443 |", "bar/svc1-1: https=443 http=80 |", true},
		{"same endpoints", "bar/svc1-1: https=443 | 10.0.1.0 10.0.1.1", "bar/svc1-1: https=443 | 10.0.1.0 10.0.1.1", false},
		{"endpoints in another order", "bar/svc1-1: https=443 | 10.0.1.0 10.0.1.1", "bar/svc1-1: https=443 | 10.0.1.1 10.0.1.0", true},
		{"endpoint added", "bar/svc1-1: https=443 | 10.0.1.0", "bar/svc1-1: https=443 | 10.0.1.1 10.0.1.0", true},
		{"endpoint drains", "bar/svc1-1: https=443 | 10.0.1.0", "bar/svc1-1: https=443 | 10.0.1.0~", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tracking(t, c.before)
			s := parseSlice(t, c.after)
			if got := tr.SetSlice(s.of, s.name, s.slice); got != c.changed {
				t.Errorf("changed %t, want %t", got, c.changed)
			}
		})
	}
}

// TestSliceUpdate is kube-proxy's TestEndpointSliceUpdate (pkg/proxy/endpointschangetracker_test.go, v1.36.3): one slice is set or removed beside others.
func TestSliceUpdate(t *testing.T) {
	three := generated(1, 1, 3, 999, 999, "host1 host2", 80)
	two := generated(2, 2, 2, 999, 999, "host1 host2", 80)
	for _, c := range []struct {
		name    string
		start   []string
		set     string
		remove  bool
		changed bool
		want    []string
	}{
		{name: "add a slice", set: three, changed: true, want: []string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80* 10.0.1.3:80"}},
		{name: "add the same slice", start: []string{three}, set: three, want: []string{"ns1/svc1:port0 10.0.1.1:80 10.0.1.2:80* 10.0.1.3:80"}},
		{name: "replace one of two", start: []string{three, two}, set: generated(1, 1, 5, 999, 999, "host1", 80), changed: true,
			want: []string{"ns1/svc1:port0 10.0.1.1:80* 10.0.1.2:80* 10.0.1.3:80* 10.0.1.4:80* 10.0.1.5:80* 10.0.2.1:80 10.0.2.2:80*"}},
		{name: "add one that overlaps, with fewer ports", start: []string{generated(1, 1, 3, 999, 999, "host1", 80, 443), generated(2, 2, 2, 999, 999, "host1", 80, 443)},
			set: generated(3, 1, 5, 999, 999, "host1", 80), changed: true,
			want: []string{"ns1/svc1:port0 10.0.1.1:80* 10.0.1.2:80* 10.0.1.3:80* 10.0.1.4:80* 10.0.1.5:80* 10.0.2.1:80* 10.0.2.2:80*",
				"ns1/svc1:port1 10.0.1.1:443* 10.0.1.2:443* 10.0.1.3:443* 10.0.2.1:443* 10.0.2.2:443*"}},
		{name: "remove one", start: []string{three, two}, set: three, remove: true, changed: true, want: []string{"ns1/svc1:port0 10.0.2.1:80 10.0.2.2:80*"}},
		{name: "remove one that is not there", start: []string{two}, set: three, remove: true, want: []string{"ns1/svc1:port0 10.0.2.1:80 10.0.2.2:80*"}},
		{name: "all become unready", start: []string{three}, set: generated(1, 1, 3, 1, 999, "host1", 80), changed: true,
			want: []string{"ns1/svc1:port0 10.0.1.1:80*! 10.0.1.2:80*! 10.0.1.3:80*!"}},
		{name: "all become ready", start: []string{generated(1, 1, 2, 1, 999, "host1", 80)}, set: generated(1, 1, 2, 999, 999, "host1", 80), changed: true,
			want: []string{"ns1/svc1:port0 10.0.1.1:80* 10.0.1.2:80*"}},
		{name: "some become ready", start: []string{generated(1, 1, 3, 2, 999, "host1", 80), generated(2, 2, 2, 2, 999, "host1", 80)},
			set: generated(1, 1, 3, 3, 999, "host1", 80), changed: true, want: []string{"ns1/svc1:port0 10.0.1.1:80* 10.0.1.2:80* 10.0.1.3:80*! 10.0.2.1:80* 10.0.2.2:80*!"}},
		{name: "some begin to terminate", start: []string{generated(1, 1, 3, 2, 2, "host1", 80), generated(2, 2, 2, 2, 2, "host1", 80)},
			set: generated(1, 1, 3, 3, 2, "host1", 80), changed: true, want: []string{"ns1/svc1:port0 10.0.1.1:80* 10.0.1.2:80*~ 10.0.1.3:80*! 10.0.2.1:80* 10.0.2.2:80*x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tracking(t, c.start...)
			tr.SetService(simple("svc1", func(s *Service) { s.Name = Name{"ns1", "svc1"}; s.Ports[0].Name = "port0" }))
			tr.Take()
			s := parseSlice(t, c.set)
			var got bool
			if c.remove {
				got = tr.DeleteSlice(s.of, s.name)
			} else {
				got = tr.SetSlice(s.of, s.name, s.slice)
			}
			if got != c.changed || tr.Dirty() > 0 != c.changed {
				t.Errorf("changed %t, %d dirty, want %t", got, tr.Dirty(), c.changed)
			}
			wantEndpoints(t, tr, c.want...)
		})
	}
}
