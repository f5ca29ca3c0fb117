package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/podnet/podnet/service"
)

// memory is a Sink.
type memory struct {
	services map[service.Name]service.Service
	slices   map[string]service.Slice
	nodes    []service.Node
}

func newMemory() *memory {
	return &memory{services: map[service.Name]service.Service{}, slices: map[string]service.Slice{}}
}

func (m *memory) SetService(s service.Service)             { m.services[s.Name] = s }
func (m *memory) DeleteService(n service.Name)             { delete(m.services, n) }
func (m *memory) SetNode(n service.Node)                   { m.nodes = append(m.nodes, n) }
func (m *memory) DeleteSlice(n service.Name, slice string) { delete(m.slices, n.String()+" "+slice) }
func (m *memory) SetSlice(n service.Name, slice string, s service.Slice) {
	m.slices[n.String()+" "+slice] = s
}

// has returns the names of what there is.
func (m *memory) has() string {
	var names []string
	for n := range m.services {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return strings.Join(append(names, slices.Sorted(maps.Keys(m.slices))...), ", ")
}

func newTestSource(t *testing.T, m *memory, o Options) *Source {
	t.Helper()
	o.NodeName = "node-a"
	s, err := New(&rest.Config{Host: "http://127.0.0.1:1"}, m, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func object(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-of-" + "x"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}}
	for _, c := range change {
		c(s)
	}
	return s
}

func list(names ...string) (out []any) {
	for _, n := range names {
		out = append(out, object(n))
	}
	return out
}

func check(t *testing.T, m *memory, want string) {
	t.Helper()
	if got := m.has(); got != want {
		t.Errorf("there is %q, want %q", got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	m := newMemory()
	s := newTestSource(t, m, Options{})
	must(t, s.services.Replace(list("a", "b"), "1"))
	check(t, m, "a, b")
	must(t, s.services.Add(object("c")))
	must(t, s.services.Update(object("b", func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeExternalName })))
	check(t, m, "a, c")
	must(t, s.services.Update(object("b")))
	check(t, m, "a, b, c")
	must(t, s.services.Update(object("b", func(o *corev1.Service) { o.Labels = map[string]string{LabelProxyName: "other"} })))
	must(t, s.services.Delete(object("a")))
	must(t, s.services.Delete(cache.DeletedFinalStateUnknown{Key: "ns/never"}))
	check(t, m, "c")
	must(t, s.services.Delete(cache.DeletedFinalStateUnknown{Key: "ns/c"}))
	check(t, m, "")
	if st := s.Status(); st.Services != 0 || st.ServiceChanges == 0 {
		t.Errorf("%+v", st)
	}
}

func slice(name, of string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of}}, AddressType: discoveryv1.AddressTypeIPv4,
	}
}

// TestSliceMoves: a slice whose label changes belongs to another Service.
func TestSliceMoves(t *testing.T) {
	m := newMemory()
	s := newTestSource(t, m, Options{})
	must(t, s.slices.Replace([]any{slice("1", "a"), slice("2", "a")}, "1"))
	check(t, m, "ns/a 1, ns/a 2")
	must(t, s.slices.Update(slice("1", "b")))
	check(t, m, "ns/a 2, ns/b 1")
	must(t, s.slices.Update(slice("1", "")))
	check(t, m, "ns/a 2")
	must(t, s.slices.Delete(slice("2", "b")))
	check(t, m, "")
}

// TestTrigger: the time of a change is told before the change.
func TestTrigger(t *testing.T) {
	m := newMemory()
	told := ""
	s := newTestSource(t, m, Options{Changed: func(of service.Name, at time.Time) { told = fmt.Sprint(of, at.UTC(), m.has()) }})
	changed := slice("1", "a")
	changed.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2024-02-03T04:05:06.789Z"}
	must(t, s.slices.Add(changed))
	if want := "ns/a 2024-02-03 04:05:06.789 +0000 UTC"; told != want {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestMassDelete: a list without most of what there was is not believed for a while; a watch is.
func TestMassDelete(t *testing.T) {
	names := strings.Fields("a b c d e f g h i j")
	for _, tt := range []struct {
		name string
		then func(*testing.T, *Source)
		at   time.Duration
		want string
	}{
		{"kept", func(*testing.T, *Source) {}, 59 * time.Second, "a, b, c, d, e, f, g, h, i, j"},
		{"let go", func(*testing.T, *Source) {}, 60 * time.Second, "a"},
		{"come back", func(t *testing.T, s *Source) { must(t, s.services.Replace(list(names[:8]...), "3")) }, 2 * time.Minute, "a, b, c, d, e, f, g, h"},
		{"come back one by one", func(t *testing.T, s *Source) { must(t, s.services.Add(object("b"))) }, time.Minute, "a, b"},
		{"missing again", func(t *testing.T, s *Source) { must(t, s.services.Replace(nil, "3")) }, 60 * time.Second, "a"}, // a has been missing for half a minute only
		{"deleted meanwhile", func(t *testing.T, s *Source) { must(t, s.services.Delete(object("b"))) }, 59 * time.Second, "a, c, d, e, f, g, h, i, j"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				s := newTestSource(t, m, Options{})
				start := time.Now()
				must(t, s.services.Replace(list(names...), "1"))
				must(t, s.services.Replace(list("a"), "2"))
				if st := s.Status(); st.HeldServices != 9 {
					t.Errorf("%d are held, want 9", st.HeldServices)
				}
				time.Sleep(30 * time.Second)
				tt.then(t, s)
				s.services.letGo(start.Add(tt.at))
				check(t, m, tt.want)
			})
		})
	}
}

func TestMassDeleteOff(t *testing.T) {
	m := newMemory()
	s := newTestSource(t, m, Options{Hold: -1})
	must(t, s.services.Replace(list(strings.Fields("a b c d e f g h i j")...), "1"))
	must(t, s.services.Replace(nil, "2"))
	check(t, m, "")
}

// TestHalf: half of them may go.
func TestHalf(t *testing.T) {
	m := newMemory()
	s := newTestSource(t, m, Options{})
	must(t, s.services.Replace(list(strings.Fields("a b c d e f g h")...), "1"))
	must(t, s.services.Replace(list(strings.Fields("a b c d")...), "2"))
	check(t, m, "a, b, c, d")
	must(t, s.services.Replace(nil, "3")) // few
	check(t, m, "")
}

// TestSynced: everything has to be listed, and Options.Node content.
func TestSynced(t *testing.T) {
	m := newMemory()
	content := false
	s := newTestSource(t, m, Options{Node: func(n Node, cidrs []netip.Prefix) (service.Node, bool) {
		return service.Node{Name: "node-a", ServiceCIDRs: cidrs}, content
	}})
	synced := func() bool {
		select {
		case <-s.Synced():
			return true
		default:
			return false
		}
	}
	for _, step := range []struct {
		waiting string
		do      func()
	}{
		{"the list of endpointslices", func() { must(t, s.services.Replace(nil, "1")) }},
		{"the list of nodes", func() { must(t, s.slices.Replace(nil, "1")) }},
		{"the list of servicecidrs", func() { must(t, s.nodes.Replace(nil, "1")) }},
		{"the Node", func() { must(t, s.cidrs.Replace(nil, "1")) }},
	} {
		step.do()
		if got := s.Status().Waiting; got != step.waiting || synced() {
			t.Fatalf("waits for %q, want %q", got, step.waiting)
		}
	}
	if len(m.nodes) > 0 {
		t.Errorf("told of a node: %v", m.nodes)
	}
	content = true
	must(t, s.nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}))
	if !synced() || len(m.nodes) != 1 {
		t.Errorf("synced: %v, nodes %v", synced(), m.nodes)
	}
	must(t, s.nodes.Update(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", ResourceVersion: "2"}})) // a heartbeat
	if len(m.nodes) != 1 {
		t.Errorf("a heartbeat is told: %v", m.nodes)
	}
	must(t, s.nodes.Delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}))
	if n := s.Node(); n.Exists || !n.Deleting {
		t.Errorf("deleted: %+v", n)
	}
}

// TestShrink: what is read survives.
func TestShrink(t *testing.T) {
	before := object("a", func(o *corev1.Service) {
		o.Labels = map[string]string{LabelProxyName: "x", "app": "y"}
		o.Annotations = map[string]string{AnnotationScheduler: "lc", "big": strings.Repeat("x", 1000)}
		o.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
		o.Spec.Selector = map[string]string{"a": "b"}
		o.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	})
	want, _ := Service(before)
	small, err := shrink(before.DeepCopy())
	must(t, err)
	o := small.(*corev1.Service)
	if got, ok := Service(o); !ok || !got.Equal(want) || o.Labels[LabelProxyName] != "x" || len(o.Labels) != 1 || o.ManagedFields != nil || len(o.Annotations) != 1 {
		t.Errorf("%+v", o)
	}
}
