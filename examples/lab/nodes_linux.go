package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/podnet/podnet/test/controlplane"
)

// nodeObject is what the lab reads of a Node.
type nodeObject struct {
	Metadata struct {
		Annotations map[string]string
	}
	Spec struct {
		PodCIDRs []netip.Prefix
	}
	Status struct {
		Conditions []condition
	}
}

type condition struct {
	Type, Status, Reason, Message string
}

// condition returns a condition by its type; one that is not there has no status.
func (o *nodeObject) condition(kind string) condition {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return condition{Type: kind}
}

func nodePath(name string) string { return "/api/v1/nodes/" + name }

func (c *cluster) node(ctx context.Context, name string) (*nodeObject, error) {
	o := new(nodeObject)
	return o, c.admin.Do(ctx, http.MethodGet, nodePath(name), nil, o)
}

// join does what kubelets do: it registers the node under the node's own identity, waits for its podCIDRs, and mounts a token for the agent. PodCIDRs are
// kube-controller-manager's to give; only a node that replaces another brings them with it.
func (c *cluster) join(ctx context.Context, n *node, podCIDRs []netip.Prefix) error {
	if err := c.register(ctx, n, podCIDRs); err != nil {
		return fmt.Errorf("register %s: %w", n.name, err)
	}
	n.registered = time.Now()
	_, err := poll(ctx, 10*time.Second, func() error {
		o, err := c.node(ctx, n.name)
		if err == nil && len(o.Spec.PodCIDRs) != len(n.ports[0].addrs) {
			err = fmt.Errorf("podCIDRs of %s: %v, want one per family", n.name, o.Spec.PodCIDRs)
		}
		n.podCIDRs = o.Spec.PodCIDRs
		return err
	})
	if err != nil {
		return err
	}
	return c.mountToken(ctx, n)
}

// register makes the Node object.
func (c *cluster) register(ctx context.Context, n *node, podCIDRs []netip.Prefix) error {
	addresses := []object{{"type": "Hostname", "address": n.name}}
	for _, p := range n.ports[0].addrs {
		addresses = append(addresses, object{"type": "InternalIP", "address": p.Addr()})
	}
	spec := object{}
	if len(podCIDRs) > 0 {
		spec["podCIDRs"], spec["podCIDR"] = podCIDRs, podCIDRs[0]
	}
	return c.client(kubelet(n.name)).Do(ctx, http.MethodPost, "/api/v1/nodes", object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": object{"name": n.name, "labels": object{"kubernetes.io/hostname": n.name, "kubernetes.io/os": "linux"}},
		"spec":     spec,
		"status": object{"addresses": addresses, "conditions": []object{
			readiness("False", "KubeletNotReady", "container runtime network not ready: cni plugin not initialized"),
		}},
	}, nil)
}

func readiness(status, reason, message string) object {
	now := time.Now().UTC().Format(time.RFC3339)
	return object{"type": "Ready", "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": now}
}

// ready reports the node Ready, as a kubelet does once there is a conflist. The agent's conditions stay.
func (c *cluster) ready(ctx context.Context, n *node) error {
	client := c.client(kubelet(n.name))
	_, err := poll(ctx, 5*time.Second, func() error { // again if the agent writes meanwhile
		var o struct {
			Metadata struct{ ResourceVersion string }
			Status   struct{ Conditions []object }
		}
		if err := client.Do(ctx, http.MethodGet, nodePath(n.name), nil, &o); err != nil {
			return err
		}
		conditions := []object{readiness("True", "KubeletReady", "kubelet is posting ready status")}
		for _, other := range o.Status.Conditions {
			if other["type"] != "Ready" {
				conditions = append(conditions, other)
			}
		}
		return client.Do(ctx, http.MethodPatch, nodePath(n.name)+"/status", object{
			"metadata": object{"resourceVersion": o.Metadata.ResourceVersion}, "status": object{"conditions": conditions},
		}, nil)
	})
	return err
}

// client returns a client with the static token of a user.
func (c *cluster) client(user string) *controlplane.Client {
	return c.plane.Client(c.plane.UserToken(user))
}

// agentToken makes a token of the shipped service account that is bound to a node. A kubelet binds it to the agent's pod; for RBAC and for the
// ValidatingAdmissionPolicy the two look the same, the name of the node is in both.
func (c *cluster) agentToken(ctx context.Context, node string) (string, error) {
	const day = 24 * 60 * 60 // nobody renews it, and a lab may stand for long
	return c.plane.Token(ctx, controlplane.TokenRequest{
		Namespace: agentNamespace, ServiceAccount: agentServiceAccount, Node: node, Seconds: day,
	})
}

// mountToken writes what the agent on a node knows of the cluster: a kubeconfig, with the token in a file of its own as in a pod.
func (c *cluster) mountToken(ctx context.Context, n *node) error {
	token, err := c.agentToken(ctx, n.name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path("token"), []byte(token), 0o600); err != nil {
		return err
	}
	return c.plane.WriteKubeconfig(n.path("kubeconfig"), controlplane.Kubeconfig{TokenFile: n.path("token")})
}

// event returns an error unless an Event with this reason was recorded about a node.
func (c *cluster) event(ctx context.Context, n *node, reason string) error {
	var list struct{ Items []struct{ Message string } }
	path := "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=" + n.name + ",reason=" + reason
	if err := c.admin.Do(ctx, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	if len(list.Items) == 0 {
		return fmt.Errorf("no Event %s about %s", reason, n.name)
	}
	return nil
}

// remove deletes a Node object.
func (c *cluster) remove(ctx context.Context, name string) error {
	return c.admin.Do(ctx, http.MethodDelete, nodePath(name), nil, nil)
}
