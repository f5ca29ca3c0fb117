package servicefile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/servicefile"
	"github.com/podnet/podnet/service"
)

var comparable = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// memory is a Sink.
type memory struct {
	services map[service.Name]service.Service
	slices   map[string]service.Slice
	node     service.Node
	calls    int
}

func newMemory() *memory {
	return &memory{services: map[service.Name]service.Service{}, slices: map[string]service.Slice{}}
}

func (m *memory) SetService(s service.Service) { m.services[s.Name] = s; m.calls++ }
func (m *memory) DeleteService(n service.Name) { delete(m.services, n); m.calls++ }
func (m *memory) SetNode(n service.Node)       { m.node = n }
func (m *memory) DeleteSlice(n service.Name, slice string) {
	delete(m.slices, n.String()+" "+slice)
	m.calls++
}
func (m *memory) SetSlice(n service.Name, slice string, s service.Slice) {
	m.slices[n.String()+" "+slice] = s
	m.calls++
}

// has returns what there is: Services with their first address, and slices with the number of their endpoints.
func (m *memory) has() string {
	var out []string
	for n, s := range m.services {
		out = append(out, fmt.Sprintf("%s=%s", n.Name, s.ClusterIPs[0]))
	}
	slices.Sort(out)
	for _, n := range slices.Sorted(maps.Keys(m.slices)) {
		out = append(out, fmt.Sprintf("%s:%d", n, len(m.slices[n].Endpoints)))
	}
	return strings.Join(out, " ")
}

// dir is a directory of descriptions and a Source that reads it.
type dir struct {
	t      *testing.T
	path   string
	sink   *memory
	source *servicefile.Source
}

func newDir(t *testing.T, o servicefile.Options) *dir {
	d := &dir{t: t, path: t.TempDir(), sink: newMemory()}
	o.NodeName = "node-a"
	d.source = servicefile.New(d.path, d.sink, o)
	return d
}

func (d *dir) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dir) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
}

// scan looks and compares what there is, and the problems.
func (d *dir) scan(want string, problems ...string) {
	d.t.Helper()
	d.source.Scan()
	if diff := cmp.Diff(want, d.sink.has()); diff != "" {
		d.t.Errorf("(-want +got):\n%s", diff)
	}
	got := ""
	if err := d.source.Status().Err; err != nil {
		got = strings.ReplaceAll(err.Error(), d.path+"/", "")
	}
	if diff := cmp.Diff(strings.Join(problems, "; "), got); diff != "" {
		d.t.Errorf("problems (-want +got):\n%s", diff)
	}
}

const (
	web = "service: web\naddresses: [10.96.0.1]\nports: [{port: 80}]\nendpoints: [10.244.1.2, 10.244.1.3]\n"
	dns = "service: kube-system/dns\naddresses: [10.96.0.10]\nports: [{name: dns, protocol: UDP, port: 53}]\n"
)

func TestShort(t *testing.T) {
	d := newDir(t, servicefile.Options{})
	d.write("a.yaml", `
service: shop/web
addresses: [10.96.0.1, "fd00::1"]
externalIPs: [192.0.2.1]
loadBalancerIPs: [192.0.2.2]
loadBalancerSourceRanges: [198.51.100.0/24]
ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: dns, protocol: UDP, port: 53}]
endpoints:
- 10.244.1.2
- {address: 10.244.1.3, node: node-a}
- {address: 10.244.1.4, ready: false}
- {address: 10.244.1.5, terminating: true}
internalTrafficPolicy: Local
externalTrafficPolicy: Local
affinity: 3h
healthCheckNodePort: 31000
scheduler: lc
`)
	d.scan("web=10.96.0.1 shop/web short form:4")
	n := service.Name{Namespace: "shop", Name: "web"}
	a := netip.MustParseAddr
	want := service.Service{
		Name: n, ClusterIPs: []netip.Addr{a("10.96.0.1"), a("fd00::1")}, ExternalIPs: []netip.Addr{a("192.0.2.1")}, LoadBalancerIPs: []netip.Addr{a("192.0.2.2")},
		SourceRanges:   []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		Ports:          []service.Port{{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: service.UDP, Port: 53}},
		InternalPolicy: service.Local, ExternalPolicy: service.Local, Affinity: 3 * time.Hour, HealthCheckNodePort: 31000, Scheduler: "lc",
	}
	if diff := cmp.Diff(want, d.sink.services[n], comparable); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	endpoints := service.Slice{
		Ports: []service.EndpointPort{{Name: "http", Protocol: service.TCP, Port: 8080}, {Name: "dns", Protocol: service.UDP, Port: 53}},
		Endpoints: []service.Endpoint{
			{Addr: a("10.244.1.2")}, {Addr: a("10.244.1.3"), Node: "node-a"}, {Addr: a("10.244.1.4"), NotReady: true, NotServing: true}, {Addr: a("10.244.1.5"), NotReady: true, Terminating: true},
		},
	}
	if diff := cmp.Diff(endpoints, d.sink.slices["shop/web short form"], comparable); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestKubernetesObjects reads what kubectl prints.
func TestKubernetesObjects(t *testing.T) {
	d := newDir(t, servicefile.Options{})
	d.write("list.json", `{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "headless"}, "spec": {"clusterIP": "None"}}]}`)
	d.write("slice.yml", `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [{addresses: [10.244.1.2]}]
--- # and
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}
status: {addresses: [{type: InternalIP, address: 192.168.1.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {topology.kubernetes.io/zone: z2}}
`)
	d.scan("web=10.96.0.1 default/web web-1:1")
	if n := d.sink.node; n.Zone != "z1" || len(n.Addrs) != 1 || n.Name != "node-a" {
		t.Errorf("node %+v", n)
	}
	d.write("slice.yml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: other}}\naddressType: IPv4\n")
	d.scan("web=10.96.0.1 default/other web-1:0")
}

func TestChanges(t *testing.T) {
	d := newDir(t, servicefile.Options{})
	d.write("a.yaml", web+"---\n"+dns)
	d.scan("dns=10.96.0.10 web=10.96.0.1 default/web short form:2 kube-system/dns short form:0")
	calls := d.sink.calls
	d.scan("dns=10.96.0.10 web=10.96.0.1 default/web short form:2 kube-system/dns short form:0")
	d.write("a.yaml", strings.ReplaceAll(web, "10.244.1.3, ", "")+"---\n"+dns+"# only a comment\n")
	d.scan("dns=10.96.0.10 web=10.96.0.1 default/web short form:2 kube-system/dns short form:0")
	if d.sink.calls != calls {
		t.Errorf("%d calls though nothing changed", d.sink.calls-calls)
	}
	d.write("a.yaml", dns)
	d.write("b.yaml", strings.ReplaceAll(web, ", 10.244.1.3", ""))
	d.scan("dns=10.96.0.10 web=10.96.0.1 default/web short form:1 kube-system/dns short form:0")
	d.remove("a.yaml")
	d.scan("web=10.96.0.1 default/web short form:1")
	d.write(".hidden.yaml", dns)
	d.write("README.md", dns)
	d.scan("web=10.96.0.1 default/web short form:1")
	d.write("c.yaml", web)
	d.scan("web=10.96.0.1 default/web short form:1", "c.yaml:1: Service default/web: described before, in b.yaml", "c.yaml:1: endpoints of Service default/web: described before, in b.yaml")
}

// TestBroken: what is broken leaves what it described before.
func TestBroken(t *testing.T) {
	const all = "dns=10.96.0.10 web=10.96.0.1 default/web short form:2 kube-system/dns short form:0"
	for _, tt := range []struct{ name, text, want, problem string }{
		{"no YAML", web + "---\n{", all, "a.yaml:6: line 1: did not find expected node content"},
		{"empty", "", all, "a.yaml: describes nothing: kept as it was (remove the file to remove that)"},
		{"comments", "# nothing\n---\n", all, "a.yaml: describes nothing: kept as it was (remove the file to remove that)"},
		{"unknown field", "service: web\naddreses: [10.96.0.1]\n---\n" + dns, all, `a.yaml:1: Service default/web: unknown field "addreses"`},
		{"unknown kind", dns + "---\nkind: Pod\napiVersion: v1\n", all, `a.yaml:5: apiVersion "v1", kind "Pod": want v1 Service, Node or List, discovery.k8s.io/v1 EndpointSlice, or neither and the short form`},
		{"neither", "a: b\n", all, `a.yaml:1: says neither kind nor service: want a Service or EndpointSlice of Kubernetes, or the short form with service: name`},
		{"one broken, one gone", "service: web\naddresses: [x]\nports: [{port: 80}]", "web=10.96.0.1 default/web short form:2", `a.yaml:1: Service default/web: addresses "x": want an IP address`},
		{"many faults", "service: web\nports: [{port: 0, protocol: DCCP}]\naffinity: 1ms\nexternalTrafficPolicy: local\nendpoints: [{address: a}]\n---\n" + dns, all,
			`a.yaml:1: Service default/web: externalTrafficPolicy "local": want Cluster or Local; affinity "1ms": want whole seconds from 1s to 24h; addresses "": want at least one: the addresses at which the Service is reached; ` +
				`ports.protocol "DCCP": want TCP, UDP or SCTP; ports.port "0": want 1 to 65535; endpoints "a": want an IP address`},
		{"port", "service: web\naddresses: [10.96.0.1]\nports: [{port: 70000}]\n---\n" + dns, all, "a.yaml:1: Service default/web: cannot unmarshal number 70000 into Go struct field shortPort.ports.port of type uint16"},
		{"name", "service: a/b/c\n", "", `a.yaml:1: Service a/b/c: service "a/b/c": want name or namespace/name`},
		{"hostile name", "service: \"a\\nb\"\n---\n" + web + "---\n" + dns, all, `a.yaml:1: Service default/a; b: service "a\nb": want name or namespace/name`},
		{"slice of nobody", web + "---\n" + dns + "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\n", all, "a.yaml:10: EndpointSlice default/x: label kubernetes.io/service-name is missing: want the name of the Service"},
		{"list", "apiVersion: v1\nkind: List\nitems: [{kind: Pod, apiVersion: v1}]", all, `a.yaml:1: items[0] : apiVersion "v1", kind "Pod": want v1 Service, Node or List, discovery.k8s.io/v1 EndpointSlice, or neither and the short form`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDir(t, servicefile.Options{})
			d.write("a.yaml", web+"---\n"+dns)
			d.scan(all)
			d.write("a.yaml", tt.text)
			d.scan(tt.want, tt.problem)
			d.write("a.yaml", web)
			d.scan("web=10.96.0.1 default/web short form:2")
		})
	}
}

// TestUnreadable: a directory that is gone, or a file that cannot be read, changes nothing.
func TestUnreadable(t *testing.T) {
	d := newDir(t, servicefile.Options{})
	d.write("a.yaml", web)
	d.scan("web=10.96.0.1 default/web short form:2")
	if err := os.Rename(d.path, d.path+"x"); err != nil {
		t.Fatal(err)
	}
	d.scan("web=10.96.0.1 default/web short form:2", "everything kept as it was: stat "+d.path+": no such file or directory")
	if err := os.Rename(d.path+"x", d.path); err != nil {
		t.Fatal(err)
	}
	d.scan("web=10.96.0.1 default/web short form:2")
	d.remove("a.yaml")
	if err := os.Symlink("/dev/null", filepath.Join(d.path, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	d.scan("web=10.96.0.1 default/web short form:2", "a.yaml: kept as it was: not a regular file")
}

// TestNotSynced: without a directory nothing is known, and nothing may be programmed.
func TestNotSynced(t *testing.T) {
	d := newDir(t, servicefile.Options{})
	if err := os.Remove(d.path); err != nil {
		t.Fatal(err)
	}
	d.source.Scan()
	select {
	case <-d.source.Synced():
		t.Error("synced")
	default:
	}
	if err := os.Mkdir(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	d.source.Scan()
	<-d.source.Synced()
}

// TestMassDelete: a directory that is nearly empty all of a sudden is not believed for a minute.
func TestMassDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDir(t, servicefile.Options{})
		var want []string
		for i := range 5 {
			d.write(fmt.Sprintf("%d.yaml", i), fmt.Sprintf("service: s%d\naddresses: [10.96.0.%d]\nports: [{port: 80}]\n", i, i))
			want = append(want, fmt.Sprintf("s%d=10.96.0.%d", i, i))
		}
		for i := range 5 {
			want = append(want, fmt.Sprintf("default/s%d short form:0", i))
		}
		all := strings.Join(want, " ")
		d.scan(all)
		for i := range 4 {
			d.remove(fmt.Sprintf("%d.yaml", i))
		}
		d.scan(all)
		if n := d.source.Status().HeldServices; n != 8 {
			t.Errorf("%d are held, want 8", n)
		}
		time.Sleep(59 * time.Second)
		d.scan(all)
		time.Sleep(time.Second)
		d.scan("s4=10.96.0.4 default/s4 short form:0")
	})
}

// TestRun: changes are noticed.
func TestRun(t *testing.T) {
	d := newDir(t, servicefile.Options{Poll: time.Hour})
	d.write("a.yaml", web)
	done := make(chan error)
	seen := make(chan string, 100)
	watched := &notifying{memory: d.sink, seen: seen}
	d.source = servicefile.New(d.path, watched, servicefile.Options{Poll: time.Hour})
	go func() { done <- d.source.Run(t.Context()) }()
	await := func(want string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-deadline:
				t.Fatalf("%s is not noticed", want)
			}
		}
	}
	await("web")
	<-d.source.Synced()
	d.write("new", dns)
	if err := os.Rename(filepath.Join(d.path, "new"), filepath.Join(d.path, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	await("dns")
	d.remove("b.yaml")
	await("-dns")
}

// notifying tells of every change of a Service.
type notifying struct {
	*memory
	seen chan string
}

func (n *notifying) SetService(s service.Service) { n.memory.SetService(s); n.seen <- s.Name.Name }
func (n *notifying) DeleteService(s service.Name) { n.memory.DeleteService(s); n.seen <- "-" + s.Name }
