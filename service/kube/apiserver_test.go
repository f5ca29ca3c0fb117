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
	first    string // what was there when Synced was closed
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

func changes(t *testing.T, b *bed) {
	b.do(http.MethodPost, servicesPath, serviceObject("dns", nil, nil))
	b.do(http.MethodPost, slicesPath, sliceObject("dns-1", "dns", "10.244.1.4", nil))
	b.want("dns kubernetes web dns-1 web-1")
	b.do(http.MethodPatch, servicesPath+"/dns", js{"metadata": js{"labels": js{"service.kubernetes.io/service-proxy-name": "other"}}})
	b.want("kubernetes web dns-1 web-1")
	b.do(http.MethodPatch, servicesPath+"/dns", js{"metadata": js{"labels": js{"service.kubernetes.io/service-proxy-name": nil}}})
	b.want("dns kubernetes web dns-1 web-1")
	b.do(http.MethodPatch, servicesPath+"/dns", js{"spec": js{"type": "ExternalName", "externalName": "example.org", "clusterIP": "", "clusterIPs": nil}})
	b.want("kubernetes web dns-1 web-1")
	b.do(http.MethodDelete, servicesPath+"/dns", nil)
	b.do(http.MethodDelete, slicesPath+"/dns-1", nil)
	b.want("kubernetes web web-1")
	b.do(http.MethodPatch, "/api/v1/nodes/node-a", js{"metadata": js{"labels": js{"topology.kubernetes.io/zone": "z2"}}})
	b.await(10*time.Second, func() error {
		b.sink.mu.Lock()
		defer b.sink.mu.Unlock()
		if b.sink.node.Zone != "z2" {
			return fmt.Errorf("zone %q", b.sink.node.Zone)
		}
		return nil
	})
	b.do(http.MethodPatch, "/api/v1/nodes/node-a", js{"spec": js{"taints": []js{{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}}}})
	b.await(10*time.Second, func() error {
		if !b.source.Node().Deleting {
			return errors.New("the taint is not seen")
		}
		return nil
	})
}

// events writes Events about a Service.
func events(t *testing.T, b *bed) {
	r := kube.NewRecorder(b.source, "podnet-test")
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = r.Run(ctx) })
	defer done.Wait()
	defer cancel()
	web := service.Name{Namespace: "default", Name: "web"}
	r.Warn(web, "Invalid", "this is wrong")
	r.Warn(web, "Invalid", "this is wrong") // not again
	r.Warn(web, "Invalid", "that too"+strings.Repeat("é", 2000))
	b.await(10*time.Second, func() error {
		var list struct {
			Items []struct {
				Reason, Message string
				InvolvedObject  struct{ Kind, Name, UID string }
				Source          struct{ Component, Host string }
			}
		}
		if err := b.plane.Admin().Do(ctx, http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector=reason=Invalid", nil, &list); err != nil {
			return err
		}
		if len(list.Items) != 2 || list.Items[0].InvolvedObject.UID != b.source.UID(web) || list.Items[0].Source.Component != "podnet-test" || list.Items[0].Source.Host != "node-a" {
			return fmt.Errorf("events %+v, lost %d", list.Items, r.Lost())
		}
		return nil
	})
}

// serverRestarts: what happened meanwhile is known afterwards, and nothing else changes. The watch's version is too old for the new process: 410.
func serverRestarts(t *testing.T, b *bed) {
	b.do(http.MethodPost, servicesPath, serviceObject("before", nil, nil))
	b.want("before kubernetes web web-1")
	deletes := b.sink.deleted()
	if err := b.plane.Kill(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := b.plane.Start(t.Context(), controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	b.do(http.MethodPost, servicesPath, serviceObject("after", nil, nil))
	b.want("after before kubernetes web web-1")
	if n := b.sink.deleted() - deletes; n != 0 {
		t.Errorf("%d were deleted in between", n)
	}
	b.do(http.MethodDelete, servicesPath+"/before", nil)
	b.do(http.MethodDelete, servicesPath+"/after", nil)
	b.want("kubernetes web web-1")
}

// serverGone: a Source that starts without an API server tells nothing, and begins when that is there.
func serverGone(t *testing.T, b *bed) {
	if err := b.plane.Stop(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	b.await(20*time.Second, func() error {
		if b.source.Status().Err == nil {
			return errors.New("the API server's absence is not noticed")
		}
		return nil
	})
	if got := b.sink.has(); got != "kubernetes web web-1" {
		t.Errorf("without an API server there is %q", got)
	}
	late := &bed{t: t, plane: b.plane}
	late.start(kube.Options{})
	late.await(20*time.Second, func() error {
		if s := late.source.Status(); s.Err == nil || s.Waiting == "" {
			return fmt.Errorf("%+v: want an error and a reason to wait", s)
		}
		return nil
	})
	if got := late.sink.has(); got != "" {
		t.Errorf("out of nothing: %q", got)
	}
	if err := b.plane.Start(t.Context(), controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	late.synced()
	late.want("kubernetes web web-1")
	b.await(60*time.Second, func() error { return b.source.Status().Err })
}

// etcdRestored: an etcd that forgets nearly all Services is not believed for a while.
func etcdRestored(t *testing.T, b *bed) {
	saved := t.TempDir() + "/etcd"
	stop := func(do func() error) {
		t.Helper()
		if err := b.plane.Stop(controlplane.APIServer); err != nil {
			t.Fatal(err)
		}
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if err := b.plane.Start(t.Context(), controlplane.APIServer); err != nil {
			t.Fatal(err)
		}
	}
	stop(func() error {
		if err := b.plane.Stop(controlplane.Etcd); err != nil {
			return err
		}
		if err := b.plane.SaveEtcd(saved); err != nil {
			return err
		}
		return b.plane.Start(t.Context(), controlplane.Etcd)
	})
	for i := range 10 {
		b.do(http.MethodPost, servicesPath, serviceObject(fmt.Sprintf("s%d", i), nil, nil))
	}
	const all = "kubernetes s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 web web-1"
	b.want(all)
	stop(func() error { return b.plane.RestoreEtcd(t.Context(), saved) })
	b.await(60*time.Second, func() error {
		if n := b.source.Status().HeldServices; n != 10 {
			return fmt.Errorf("%d are held, want 10", n)
		}
		return nil
	})
	b.want(all)
}

// rbacLost: a Source that may not read any more keeps what it has.
func rbacLost(t *testing.T, b *bed) {
	late := &bed{t: t, plane: b.plane}
	late.start(kube.Options{})
	late.synced()
	b.allow([]js{})
	defer b.allow(role)
	lost := &bed{t: t, plane: b.plane}
	lost.start(kube.Options{})
	lost.await(20*time.Second, func() error {
		if err := lost.source.Status().Err; err == nil || !strings.Contains(err.Error(), "forbidden") {
			return fmt.Errorf("error %v", err)
		}
		return nil
	})
	if got := late.sink.has(); got != "kubernetes web web-1" || late.sink.deleted() > 0 {
		t.Errorf("there is %q", got)
	}
	b.allow(role[:2]) // without ServiceCIDRs
	lost.synced()
	lost.want("kubernetes web web-1")
	b.allow(role)
	lost.await(60*time.Second, func() error { return lost.source.Status().Err })
}

// halfOpen: the API server stops without a word, as behind a cable that was pulled.
func halfOpen(t *testing.T, b *bed) {
	b.start(kube.Options{})
	b.synced()
	if err := b.plane.Pause(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	defer func() { _ = b.plane.Resume(controlplane.APIServer) }()
	b.await(60*time.Second, func() error {
		if b.source.Status().Err == nil {
			return errors.New("nothing is noticed")
		}
		return nil
	})
	t.Logf("noticed after %v", time.Since(start).Round(time.Second))
	if err := b.plane.Resume(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	b.do(http.MethodPost, servicesPath, serviceObject("after", nil, nil))
	b.want("after kubernetes web web-1")
}
