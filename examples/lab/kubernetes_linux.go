package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podnet/podnet/test/controlplane"
)

// Where the manifests put the agent.
const (
	agentNamespace      = "podnet-system"
	agentServiceAccount = "podnet-agent"
)

const apiPort = 6443

// spareNodes are those that join while the lab runs.
const spareNodes = 3

// object is a Kubernetes object, or a part of one.
type object = map[string]any

// cluster is the Kubernetes side of a lab.
type cluster struct {
	plane *controlplane.ControlPlane
	admin *controlplane.Client
}

// kubelet returns the name under which the kubelet of a node asks the API server.
func kubelet(node string) string { return "system:node:" + node }

// startCluster starts the control plane on its machine, applies the shipped manifests and registers the nodes.
func (l *lab) startCluster(ctx context.Context) error {
	l.report.progress("control plane: etcd, kube-apiserver, kube-controller-manager %s", controlplane.Version)
	var kubelets []controlplane.User
	for i := range len(l.nodes) + spareNodes {
		kubelets = append(kubelets, controlplane.User{Name: kubelet("node-" + letters(i)), Groups: []string{"system:nodes"}})
	}
	var addrs []netip.Addr
	for _, p := range l.control.ports[0].addrs {
		addrs = append(addrs, p.Addr())
	}
	plane, err := controlplane.Start(ctx, controlplane.Config{
		Dir:          l.path("control"), // end and sweep remove it with the run's directory
		Netns:        l.control.netns,
		Addresses:    addrs,
		Port:         apiPort,
		Users:        kubelets,
		ClusterCIDRs: l.clusterCIDRs(),
		Controllers:  controllers,
		Flags: map[controlplane.Component][]string{
			// Kubelets may do here what they may do in a real cluster; these are added to RBAC and to the default admission.
			controlplane.APIServer: {"--authorization-mode=Node", "--enable-admission-plugins=NodeRestriction"},
		},
	})
	if err != nil {
		return err
	}
	l.cluster = &cluster{plane: plane, admin: plane.Admin()}
	l.report.progress("manifests: kubectl apply -k, an overlay of deploy/base and deploy/proxy/base with this lab's network")
	if err := l.applyManifests(ctx); err != nil {
		return err
	}
	l.report.progress("nodes: registered as kubelets do, podCIDRs from kube-controller-manager")
	for _, n := range l.nodes {
		if err := l.cluster.join(ctx, n, nil); err != nil {
			return err
		}
	}
	return nil
}

// applyManifests applies what is shipped. The DaemonSets are only looked at by the API server: nothing here schedules their pods, and the
// lab starts the agents and proxies itself.
func (l *lab) applyManifests(ctx context.Context) error {
	dir := l.path("manifests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	base, err := relative(dir, filepath.Join(l.deploy, "base"))
	if err != nil {
		return err
	}
	resources := []string{base}
	configs := []object{{"name": "podnet-config", "namespace": agentNamespace, "behavior": "merge", "files": []string{"net-conf.json"}}}
	if l.proxy != "none" {
		if base, err = relative(dir, filepath.Join(l.deploy, "proxy", "base")); err != nil {
			return err
		}
		resources = append(resources, base)
		configs = append(configs, object{"name": "podnet-proxy", "namespace": proxyNamespace, "behavior": "merge", "literals": []string{
			"KUBERNETES_SERVICE_HOST=" + l.control.addr(l.families()[0]).String(), fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", apiPort)}})
	}
	overlay, err := json.MarshalIndent(object{ // JSON is YAML
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources, "configMapGenerator": configs,
	}, "", "  ")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"kustomization.yaml": overlay, "net-conf.json": l.netConf()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	_, err = l.cluster.plane.Kubectl(ctx, nil, "apply", "-k", dir)
	return err
}

// relative returns the way from one directory to another: kustomize takes no absolute paths.
func relative(from, to string) (string, error) {
	for _, dir := range []*string{&from, &to} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return "", err
		}
		if *dir, err = filepath.EvalSymlinks(absolute); err != nil {
			return "", err
		}
	}
	return filepath.Rel(from, to)
}

// kubectlCommand returns a command line that a person can use while the lab stands.
func (l *lab) kubectlCommand(args string) string {
	binaries, err := controlplane.Find()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("ip netns exec %s-control %s/kubectl --kubeconfig %s %s", l.id, binaries, l.path("control", "admin.kubeconfig"), args)
}

// poll calls try until it returns nil, and returns how long that took; after limit, the last error.
func poll(ctx context.Context, limit time.Duration, try func() error) (time.Duration, error) {
	start := time.Now()
	for {
		err := try()
		took := time.Since(start)
		if err == nil {
			return took, nil
		}
		if took > limit {
			return took, fmt.Errorf("after %s: %w", ms(took), err)
		}
		select {
		case <-ctx.Done():
			return took, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ours reports whether agents write an annotation.
func ours(key string) bool {
	return strings.HasPrefix(key, "flannel.alpha.coreos.com/") || strings.HasPrefix(key, "podnet.dev/")
}
