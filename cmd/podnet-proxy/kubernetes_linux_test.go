package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

type js = map[string]any

// proxyRole is all that podnet-proxy may do: deploy/ has the same.
var proxyRole = js{
	"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": js{"name": "podnet-proxy"},
	"rules": []js{
		{"apiGroups": []string{""}, "resources": []string{"services", "nodes"}, "verbs": []string{"list", "watch"}},
		{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": []string{"list", "watch"}},
		{"apiGroups": []string{"networking.k8s.io"}, "resources": []string{"servicecidrs"}, "verbs": []string{"list", "watch"}},
		{"apiGroups": []string{""}, "resources": []string{"events"}, "verbs": []string{"create"}},
	},
}

// kubeBed is a bed whose Services are in a real API server, which runs where the client is.
type kubeBed struct {
	*bed
	plane *controlplane.ControlPlane
}

func newKubeBed(t *testing.T) *kubeBed {
	rtnltest.RequireKernel(t, "a node in a network namespace")
	controlplanetest.Binaries(t)
	b := &kubeBed{bed: newBed(t)}
	b.plane = controlplanetest.Start(t, controlplane.Config{
		Netns: b.client.Path(), Addresses: []netip.Addr{netip.MustParseAddr(clientAddr[false])}, Users: []controlplane.User{{Name: "proxy"}},
	})
	b.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterroles", proxyRole, nil)
	b.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", js{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": js{"name": "podnet-proxy"},
		"roleRef":  js{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "podnet-proxy"},
		"subjects": []js{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "proxy"}},
	}, nil)
	if err := b.plane.WriteKubeconfig(b.path("kubeconfig"), controlplane.Kubeconfig{Token: b.plane.UserToken("proxy")}); err != nil {
		t.Fatal(err)
	}
	b.do(http.MethodPost, "/api/v1/nodes", js{"apiVersion": "v1", "kind": "Node", "metadata": js{"name": "node-a"}}, nil)
	b.do(http.MethodPatch, "/api/v1/nodes/node-a/status", js{"status": js{"addresses": []js{{"type": "InternalIP", "address": nodeAddr[false]}, {"type": "InternalIP", "address": nodeAddr[true]}}}}, nil)
	return b
}

func (b *kubeBed) do(method, path string, in, out any) {
	b.t.Helper()
	if err := b.plane.Admin().Do(context.Background(), method, path, in, out); err != nil {
		b.t.Fatal(err)
	}
}

// start starts the proxy with kube-proxy's kind of configuration.
func (b *kubeBed) start(flags ...string) {
	b.t.Helper()
	write(b.t, b.path("config.conf"), fmt.Sprintf("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclientConnection: {kubeconfig: %s}\n"+
		"hostnameOverride: node-a\nclusterCIDR: 10.244.0.0/16,fd00:244::/48\nmode: iptables\nconntrack: {maxPerCore: 0}\nlogging: {verbosity: 4}\n", b.path("kubeconfig")))
	b.launch(proxyCommand(append([]string{"--config", b.path("config.conf"), "--mode", "nftables"}, flags...)...))
}

const (
	servicesPath = "/api/v1/namespaces/default/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
)

// endpoints replaces the EndpointSlice of the Service.
func (b *kubeBed) endpoints(pods ...int) {
	b.t.Helper()
	list := []js{}
	for _, i := range pods {
		list = append(list, js{"addresses": []string{pod(false, i)}, "nodeName": "node-a"})
	}
	object := js{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": js{"name": "web-1", "labels": js{"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
		"ports": []js{{"name": "http", "port": 8080, "protocol": "TCP"}}, "endpoints": list,
	}
	err := b.plane.Admin().Do(context.Background(), http.MethodPut, slicesPath+"/web-1", object, nil)
	var status *controlplane.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		err = b.plane.Admin().Do(context.Background(), http.MethodPost, slicesPath, object, nil)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestKubernetes runs the real binary against a real API server.
func TestKubernetes(t *testing.T) {
	b := newKubeBed(t)
	b.do(http.MethodPost, servicesPath, js{"apiVersion": "v1", "kind": "Service", "metadata": js{"name": "web"}, "spec": js{
		"type": "NodePort", "clusterIP": "10.96.0.10", "externalIPs": []string{"203.0.113.7"}, "ports": []js{{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}},
	}}, nil)
	b.endpoints(2, 3)
	b.start()
	for _, step := range []struct {
		name string
		run  func(*testing.T, *kubeBed)
	}{
		{"serves", kubeServes}, {"events", kubeEvents}, {"changes", kubeChanges}, {"node", kubeNode}, {"server is gone", kubeServerGone}, {"deleted", kubeDeleted},
	} {
		if !t.Run(step.name, func(t *testing.T) { b.t = t; step.run(t, b) }) {
			return
		}
	}
}

func kubeServes(t *testing.T, b *kubeBed) {
	for _, from := range []*rtnltest.Netns{b.client, b.node} {
		b.servers(from, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
		b.servers(from, "tcp", "192.168.1.1:30080", pod(false, 2), pod(false, 3))
	}
	b.servers(b.node, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
	// The API server's own Service: whoever it is, it answers with TLS.
	if err := b.node.Do(func() error {
		resp, err := (&http.Client{Transport: &http.Transport{}}).Get("http://10.96.0.1:443/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}); err != nil {
		t.Errorf("the ClusterIP of the API server: %v", err)
	}
}

func kubeEvents(t *testing.T, b *kubeBed) {
	b.await(func() error {
		var list struct {
			Items []struct{ Message string }
		}
		b.do(http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector=reason=Invalid,involvedObject.name=web", nil, &list)
		if len(list.Items) != 1 || !strings.Contains(list.Items[0].Message, `spec.externalIPs "203.0.113.7": is not in the ranges`) {
			return fmt.Errorf("events %+v", list.Items)
		}
		return nil
	})
}

func kubeChanges(t *testing.T, b *kubeBed) {
	load := b.load("10.96.0.10:80")
	for range 3 {
		b.endpoints(3, 4)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 3), pod(false, 4))
		b.endpoints(2)
		b.servers(b.client, "tcp", "192.168.1.1:30080", pod(false, 2))
	}
	load()
	b.do(http.MethodPatch, servicesPath+"/web", js{"spec": js{"ports": []js{{"name": "http", "port": 81, "targetPort": 8080, "nodePort": 30081}}}}, nil)
	b.servers(b.client, "tcp", "10.96.0.10:81", pod(false, 2))
	b.servers(b.client, "tcp", "192.168.1.1:30081", pod(false, 2))
	b.unreachable(b.client, "192.168.1.1:30080", syscall.ECONNREFUSED)
	b.unreachable(b.client, "10.96.0.10:80", syscall.ECONNREFUSED)
}

// kubeNode: the cluster autoscaler takes the node away.
func kubeNode(t *testing.T, b *kubeBed) {
	health := func(path string, want int) {
		t.Helper()
		b.await(func() error {
			code, _, body, err := b.get("http://127.0.0.1:10256" + path)
			if err == nil && code != want {
				err = fmt.Errorf("%s: %d %s, want %d", path, code, body, want)
			}
			return err
		})
	}
	health("/healthz", 200)
	b.do(http.MethodPatch, "/api/v1/nodes/node-a", js{"spec": js{"taints": []js{{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}}}}, nil)
	health("/healthz", 503)
	health("/livez", 200)
	b.do(http.MethodPatch, "/api/v1/nodes/node-a", js{"spec": js{"taints": nil}}, nil)
	health("/healthz", 200)
}

// kubeServerGone: without an API server everything stays as it is, over restarts too.
func kubeServerGone(t *testing.T, b *kubeBed) {
	if err := b.plane.Stop(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	load := b.load("10.96.0.10:81")
	b.kill(syscall.SIGTERM)
	b.start()
	b.await(func() error {
		if want := "the API server does not answer as wanted"; !strings.Contains(b.log.String(), want) {
			return fmt.Errorf("the log does not say %q", want)
		}
		return nil
	})
	b.servers(b.client, "tcp", "10.96.0.10:81", pod(false, 2))
	b.await(func() error {
		code, _, body, err := b.get("http://127.0.0.1:10256/livez")
		if err == nil && code != 200 {
			err = fmt.Errorf("livez %d %s", code, body)
		}
		return err
	})
	b.kill(syscall.SIGKILL)
	b.start()
	if err := b.plane.Start(t.Context(), controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	b.endpoints(3)
	b.await(func() error { return nil })
	b.servers(b.client, "tcp", "10.96.0.10:81", pod(false, 3))
	load()
}

func kubeDeleted(t *testing.T, b *kubeBed) {
	b.do(http.MethodDelete, servicesPath+"/web", nil, nil)
	b.await(func() error {
		if server, _, err := ask(b.client, "tcp", "10.96.0.10:81"); err == nil {
			return fmt.Errorf("%s answers", server)
		}
		return nil
	})
	b.unreachable(b.client, "192.168.1.1:30081", syscall.ECONNREFUSED)
}
