package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/podnet/podnet/test/controlplane"
)

const (
	servicesPath = "/api/v1/namespaces/" + serviceNamespace + "/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/namespaces/" + serviceNamespace + "/endpointslices"
	podsPath     = "/api/v1/namespaces/" + serviceNamespace + "/pods"
)

// controllers of kube-controller-manager: EndpointSlices are made by the real one, from Services' selectors and from Pods.
var controllers = []string{"node-ipam-controller", "serviceaccount-controller", "endpointslice-controller"}

// makeServices makes the namespace of the lab's Services, Pods as the scheduler and kubelets would, and the Services.
func (c *cluster) makeServices(ctx context.Context, services labServices, pods []*pod, families []bool) error {
	err := c.admin.Do(ctx, http.MethodPost, "/api/v1/namespaces", object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": serviceNamespace}}, nil)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if err := c.changePod(ctx, p, services); err != nil {
			return err
		}
	}
	for _, s := range services.all() {
		o := s.object(families)
		o["spec"].(object)["selector"] = object{s.label(): "yes"}
		if err := c.admin.Do(ctx, http.MethodPost, servicesPath, o, nil); err != nil {
			return err
		}
		if status, ok := o["status"]; ok { // what a cloud's controller does
			if err := c.admin.Do(ctx, http.MethodPatch, servicesPath+"/"+s.name+"/status", object{"status": status}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// Where the manifests put the proxy.
const (
	proxyNamespace      = "kube-system"
	proxyServiceAccount = "podnet-proxy"
)

// mountProxyToken writes what the proxy on a node knows of the cluster.
func (c *cluster) mountProxyToken(ctx context.Context, n *node) error {
	token, err := c.proxyToken(ctx, n.name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path("proxy.token"), []byte(token), 0o600); err != nil {
		return err
	}
	return c.plane.WriteKubeconfig(n.path("proxy.kubeconfig"), controlplane.Kubeconfig{TokenFile: n.path("proxy.token")})
}

func (c *cluster) proxyToken(ctx context.Context, node string) (string, error) {
	return c.plane.Token(ctx, controlplane.TokenRequest{
		Namespace: proxyNamespace, ServiceAccount: proxyServiceAccount, Node: node, Seconds: 24 * 60 * 60, // nobody renews it
	})
}

// proxyRights tries what a proxy's token must not do.
func (l *lab) proxyRights(ctx context.Context) {
	const name = "a proxy's token"
	token, err := l.cluster.proxyToken(ctx, l.nodes[0].name)
	if err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("made", err)}})
		return
	}
	proxy := l.cluster.plane.Client(token)
	cells := []cell{result("lists Services", proxy.Do(ctx, http.MethodGet, "/api/v1/services?limit=1", nil, nil))}
	label := object{"metadata": object{"labels": object{"lab": "x"}}}
	for _, try := range []struct {
		label, method, path string
		body                any
	}{
		{"Service written 403", http.MethodPatch, servicesPath + "/web?dryRun=All", label},
		{"EndpointSlice written 403", http.MethodPatch, slicesPath + "/web?dryRun=All", label},
		{"Node written 403", http.MethodPatch, nodePath(l.nodes[0].name) + "?dryRun=All", label},
		{"pods 403", http.MethodGet, "/api/v1/pods", nil},
		{"secrets 403", http.MethodGet, "/api/v1/namespaces/" + proxyNamespace + "/secrets", nil},
		{"configmaps 403", http.MethodGet, "/api/v1/namespaces/" + proxyNamespace + "/configmaps", nil},
	} {
		cells = append(cells, result(try.label, wantForbidden(proxy.Do(ctx, try.method, try.path, try.body, nil))))
	}
	l.report.add(row{Name: name, Cells: cells})
}

// label selects the pods of a Service.
func (s *labService) label() string { return serviceNamespace + "/" + s.name }

// changePod does to a Pod what its life asks for: an administrator deletes it, and its kubelet says when it is gone; or it is made and runs.
func (c *cluster) changePod(ctx context.Context, p *pod, services labServices) error {
	path := podsPath + "/" + p.name
	switch p.life {
	case leaving:
		return c.admin.Do(ctx, http.MethodDelete, path+"?gracePeriodSeconds=30", nil, nil)
	case gone:
		return c.client(kubelet(p.node.name)).Do(ctx, http.MethodDelete, path+"?gracePeriodSeconds=0", nil, nil)
	}
	labels := object{}
	for _, s := range services.all() {
		if slices.Contains(s.members, p) {
			labels[s.label()] = "yes"
		}
	}
	// The service account "default" of a new namespace is there as soon as its controller has made it.
	var refused *controlplane.StatusError
	var final error
	if _, err := poll(ctx, 10*time.Second, func() error {
		err := c.admin.Do(ctx, http.MethodPost, podsPath, object{
			"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": p.name, "labels": labels},
			"spec": object{"nodeName": p.node.name, "containers": []object{{"name": "server", "image": "lab"}}},
		}, nil)
		if errors.As(err, &refused) && refused.Code != http.StatusForbidden {
			final, err = err, nil
		}
		return err
	}); errors.Join(err, final) != nil {
		return errors.Join(err, final)
	}
	var ips []object
	for _, a := range p.addrs {
		ips = append(ips, object{"ip": a.Addr().String()})
	}
	err := c.client(kubelet(p.node.name)).Do(ctx, http.MethodPatch, path+"/status", object{"status": object{
		"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips,
		"conditions": []object{{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}},
	}}, nil)
	if err != nil {
		return fmt.Errorf("status of pod %s: %w", p.name, err)
	}
	return nil
}

// clusterServices are the checks of Services that need an API server.
func (l *lab) clusterServices(ctx context.Context) {
	l.proxyRights(ctx)
	const name = "API server through the Service kubernetes"
	var o struct {
		Spec struct{ ClusterIPs []netip.Addr }
	}
	if err := l.cluster.admin.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/services/kubernetes", nil, &o); err != nil {
		l.report.add(row{Name: name, Cells: []cell{result("found", err)}})
		return
	}
	for _, ip := range o.Spec.ClusterIPs { // one: the API server advertises one address
		var errs []error
		for _, p := range thin(l.pods()) {
			errs = append(errs, l.cluster.asks(ctx, p.netns, netip.AddrPortFrom(ip, 443)))
		}
		l.report.add(row{Name: name, Family: familyName(ip.Is6()), Cells: []cell{result("/readyz from every pod", errs...)}, Detail: fmt.Sprintf("%d pods", len(errs))})
	}
}

// asks has a pod ask the API server at an address that is not in its certificate.
func (c *cluster) asks(ctx context.Context, path string, to netip.AddrPort) error {
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // whether it is the right one is not the question
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dialWithin(requestTimeout, path, "tcp", to.String())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", to, resp.Status)
	}
	return nil
}

// joins starts a proxy on a node that was added, and has its pods ask.
func (l *lab) joins(ctx context.Context, n *node) {
	if l.proxy == "none" {
		return
	}
	err := errors.Join(l.cluster.mountProxyToken(ctx, n), l.startProxy(n))
	if err == nil {
		err = l.waitProxy(ctx, n)
	}
	if err != nil {
		l.report.add(row{Name: "added node's podnet-proxy", Cells: []cell{result("ready", err)}})
		return
	}
	for _, v6 := range l.families() {
		var asks []ask
		for _, p := range n.pods {
			asks = append(asks, ask{p.endpoint(), l.services.web.clusterIP(v6)})
		}
		a := askAll(asks, enough(len(l.services.web.members)))
		l.report.add(row{Name: "ClusterIP from the added node's pods", Family: familyName(v6), Cells: []cell{
			result("TCP", a.tcp...), result("UDP", a.udp...), result("every backend", a.all(l.services.web)), result("own IP seen", a.as(v6))}, Detail: shares(a.pods)})
	}
}

// servicesWithoutServer kills a node's proxy and starts it while there is no API server: it must leave the kernel as it is.
func (l *lab) servicesWithoutServer(n *node) (finish func()) {
	if l.proxy == "none" {
		return func() {}
	}
	all, err := l.startTraffic()
	if err == nil {
		time.Sleep(100 * time.Millisecond)
		n.proxy.stop(syscall.SIGKILL)
		err = l.startProxy(n)
	}
	return func() {
		for _, t := range all {
			still := err
			if still == nil {
				still = t.still()
			}
			r := t.finish()
			l.report.add(row{Name: "podnet-proxy restarted without API server", Family: familyName(t.v6), Cells: []cell{
				t.load.without(), result("open connection stays", still), result("UDP flow stays", stays(t.flow, r))}, Detail: fmt.Sprintf("%v; UDP %v", t.load, r)})
		}
	}
}

// servicesFollow gives the Service without endpoints one, and waits until all nodes lead there.
func (l *lab) servicesFollow(ctx context.Context) {
	if l.proxy == "none" {
		return
	}
	v6 := l.families()[0]
	with := *l.services.empty
	with.members = l.services.self.members
	slice := with.slice(v6)
	slice["metadata"].(object)["name"] = "by-hand"
	err := l.cluster.admin.Do(ctx, http.MethodPost, slicesPath, slice, nil)
	var took time.Duration
	if err == nil {
		took, err = poll(ctx, 40*time.Second, func() error {
			for _, n := range l.nodes {
				if _, err := get(n.netns, with.clusterIP(v6)); err != nil {
					return fmt.Errorf("%s: %w", n.name, err)
				}
			}
			return nil
		})
	}
	l.report.add(row{Name: "API server back, proxies follow it again", Family: familyName(v6), Cells: []cell{result("EndpointSlice made, Service reached", err)}, Detail: "followed after " + ms(took)})
}
