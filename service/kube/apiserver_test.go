package kube_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

// sink is a Sink that several goroutines use.
type sink struct {
	mu       sync.Mutex
	services map[string]service.Service
	slices   map[string]service.Slice
	node     service.Node
	deletes  int
}

func newSink() *sink {
	return &sink{services: map[string]service.Service{}, slices: map[string]service.Slice{}}
}

func (s *sink) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *sink) SetService(v service.Service) { s.do(func() { s.services[v.Name.Name] = v }) }
func (s *sink) DeleteService(n service.Name) {
	s.do(func() { delete(s.services, n.Name); s.deletes++ })
}
func (s *sink) SetSlice(n service.Name, slice string, v service.Slice) {
	s.do(func() { s.slices[slice] = v })
}
func (s *sink) DeleteSlice(n service.Name, slice string) {
	s.do(func() { delete(s.slices, slice); s.deletes++ })
}
func (s *sink) SetNode(n service.Node) { s.do(func() { s.node = n }) }

// has returns the names of what there is.
func (s *sink) has() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(append(slices.Sorted(maps.Keys(s.services)), slices.Sorted(maps.Keys(s.slices))...), " ")
}

func (s *sink) deleted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deletes
}

// bed is a Source in front of a real API server.
type bed struct {
	t      *testing.T
	plane  *controlplane.ControlPlane
	sink   *sink
	source *kube.Source
}

type js = map[string]any

var role = []js{
	{"apiGroups": []string{""}, "resources": []string{"services", "nodes"}, "verbs": []string{"list", "watch"}},
	{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": []string{"list", "watch"}},
	{"apiGroups": []string{"networking.k8s.io"}, "resources": []string{"servicecidrs"}, "verbs": []string{"list", "watch"}},
	{"apiGroups": []string{""}, "resources": []string{"events"}, "verbs": []string{"create"}},
}

func (b *bed) do(method, path string, in any) {
	b.t.Helper()
	if err := b.plane.Admin().Do(b.t.Context(), method, path, in, nil); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) allow(rules []js) {
	b.t.Helper()
	const path = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
	object := js{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": js{"name": "proxy"}, "rules": rules}
	err := b.plane.Admin().Do(b.t.Context(), http.MethodPut, path+"/proxy", object, nil)
	var status *controlplane.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		err = b.plane.Admin().Do(b.t.Context(), http.MethodPost, path, object, nil)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

const (
	servicesPath = "/api/v1/namespaces/default/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
)

func serviceObject(name string, spec, metadata js) js {
	all := js{"ports": []js{{"port": 80}}}
	maps.Copy(all, spec)
	meta := js{"name": name}
	maps.Copy(meta, metadata)
	return js{"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": all}
}

func sliceObject(name, of, addr string, labels js) js {
	all := js{"kubernetes.io/service-name": of}
	maps.Copy(all, labels)
	return js{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": js{"name": name, "labels": all}, "addressType": "IPv4",
		"ports": []js{{"name": "", "port": 8080, "protocol": "TCP"}}, "endpoints": []js{{"addresses": []string{addr}, "nodeName": "node-a"}}}
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, plane: controlplanetest.Start(t, controlplane.Config{Users: []controlplane.User{{Name: "proxy"}}})}
	b.allow(role)
	b.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", js{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": js{"name": "proxy"},
		"roleRef":  js{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "proxy"},
		"subjects": []js{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "proxy"}},
	})
	b.do(http.MethodPost, "/api/v1/nodes", js{"apiVersion": "v1", "kind": "Node", "metadata": js{"name": "node-a", "labels": js{"topology.kubernetes.io/zone": "z1"}}})
	b.do(http.MethodPost, servicesPath, serviceObject("web", nil, nil))
	b.do(http.MethodPost, servicesPath, serviceObject("headless", js{"clusterIP": "None"}, nil))
	b.do(http.MethodPost, servicesPath, serviceObject("foreign", nil, js{"labels": js{"service.kubernetes.io/service-proxy-name": "other"}}))
	b.do(http.MethodPost, servicesPath, js{"apiVersion": "v1", "kind": "Service", "metadata": js{"name": "name"}, "spec": js{"type": "ExternalName", "externalName": "example.org"}})
	b.do(http.MethodPost, slicesPath, sliceObject("web-1", "web", "10.244.1.2", nil))
	b.do(http.MethodPost, slicesPath, sliceObject("headless-1", "headless", "10.244.1.3", js{"service.kubernetes.io/headless": ""}))
	b.eventually(func() error {
		return b.plane.Admin().Do(t.Context(), http.MethodGet, servicesPath+"/kubernetes", nil, nil)
	}) // the API server makes it when it comes to it
	return b
}

// eventually waits until a function is content.
func (b *bed) eventually(look func() error) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bed) config() *rest.Config {
	b.t.Helper()
	path := b.t.TempDir() + "/kubeconfig"
	if err := b.plane.WriteKubeconfig(path, controlplane.Kubeconfig{Token: b.plane.UserToken("proxy")}); err != nil {
		b.t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		b.t.Fatal(err)
	}
	return config
}

// start starts a Source that ends with the test or stop.
func (b *bed) start(o kube.Options) (stop func()) {
	b.t.Helper()
	b.sink = newSink()
	o.NodeName = "node-a"
	o.Logger = slog.New(slog.NewTextHandler(b.t.Output(), nil))
	var err error
	if b.source, err = kube.New(b.config(), b.sink, o); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	source := b.source
	go func() {
		defer close(done)
		if err := source.Run(ctx); !errors.Is(err, context.Canceled) {
			b.t.Errorf("Run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return stop
}

func (b *bed) synced() {
	b.t.Helper()
	select {
	case <-b.source.Synced():
	case <-time.After(30 * time.Second):
		b.t.Fatalf("not synced: %+v", b.source.Status())
	}
}

// await waits until a function is content, and says how the Source is if it is not.
func (b *bed) await(limit time.Duration, look func() error) {
	b.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("after %v: %v; %+v", limit, err, b.source.Status())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bed) want(what string) {
	b.t.Helper()
	b.await(30*time.Second, func() error {
		if got := b.sink.has(); got != what {
			return fmt.Errorf("there is %q, want %q", got, what)
		}
		return nil
	})
}

// TestAPIServer lets a Source live through a day with a real API server.
func TestAPIServer(t *testing.T) {
	b := newBed(t)
	b.start(kube.Options{})
	b.synced()
	if got, want := b.sink.has(), "kubernetes web web-1"; got != want {
		t.Fatalf("when synced there is %q, want %q", got, want)
	}
	web := b.sink.services["web"]
	if len(web.ClusterIPs) != 1 || web.Created == 0 || b.sink.slices["web-1"].Endpoints[0].Node != "node-a" {
		t.Errorf("web: %+v, endpoints %+v", web, b.sink.slices["web-1"])
	}
	if n := b.sink.node; n.Zone != "z1" || n.Name != "node-a" || !slices.Contains(n.ServiceCIDRs, netip.MustParsePrefix("10.96.0.0/16")) {
		t.Errorf("node: %+v", n)
	}
	if uid := b.source.UID(web.Name); len(uid) != 36 {
		t.Errorf("UID %q", uid)
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T, *bed)
	}{
		{"changes", changes}, {"events", events}, {"server restarts", serverRestarts}, {"server is gone", serverGone}, {"etcd is restored", etcdRestored}, {"RBAC is lost", rbacLost}, {"half open", halfOpen},
	} {
		if !t.Run(step.name, func(t *testing.T) { b.t = t; step.run(t, b) }) {
			return
		}
	}
}
