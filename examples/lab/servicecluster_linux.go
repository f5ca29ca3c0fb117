package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/podnet/podnet/test/controlplane"
)

const (
	servicesPath = "/api/v1/namespaces/" + serviceNamespace + "/services"
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
	// FIXME until the manifests have it
	_ = c.admin.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+agentNamespace+"/serviceaccounts", object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": proxyServiceAccount}}, nil)
	_ = c.admin.Do(ctx, http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": object{"name": proxyServiceAccount},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
		"subjects": []object{{"kind": "ServiceAccount", "namespace": agentNamespace, "name": proxyServiceAccount}}}, nil)
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
const proxyServiceAccount = "podnet-proxy"

// mountProxyToken writes what the proxy on a node knows of the cluster.
func (c *cluster) mountProxyToken(ctx context.Context, n *node) error {
	token, err := c.plane.Token(ctx, controlplane.TokenRequest{
		Namespace: agentNamespace, ServiceAccount: proxyServiceAccount, Node: n.name, Seconds: 24 * 60 * 60, // nobody renews it
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path("proxy.token"), []byte(token), 0o600); err != nil {
		return err
	}
	return c.plane.WriteKubeconfig(n.path("proxy.kubeconfig"), controlplane.Kubeconfig{TokenFile: n.path("proxy.token")})
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
