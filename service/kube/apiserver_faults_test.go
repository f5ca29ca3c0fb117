package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
	"github.com/podnet/podnet/test/controlplane"
)

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
