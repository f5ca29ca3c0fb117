package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/podnet/podnet/test/controlplane/controlplanetest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// kubeProxy returns kube-proxy's binary, which test/kube/build -p builds.
func kubeProxy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(controlplanetest.Binaries(t), "kube-proxy")
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("REQUIRE_KUBE") == "1" {
			t.Fatalf("REQUIRE_KUBE=1: %v: run test/kube/build -p", err)
		}
		t.Skip(err)
	}
	return path
}

// startKubeProxy starts kube-proxy with podnet-proxy's configuration file.
func (b *kubeBed) startKubeProxy(binary, mode string) {
	b.t.Helper()
	write(b.t, b.path("kube-proxy.conf"), fmt.Sprintf("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclientConnection: {kubeconfig: %s}\n"+
		"hostnameOverride: node-a\nclusterCIDR: 10.244.0.0/16,fd00:244::/48\nmode: %s\nconntrack: {maxPerCore: 0}\n", b.path("kubeconfig"), mode))
	b.launch(exec.Command(binary, "--config", b.path("kube-proxy.conf")))
}

// TestReplaceKubeProxy moves a node from kube-proxy to podnet-proxy and back, under load.
func TestReplaceKubeProxy(t *testing.T) {
	b, binary := newMigration(t)
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			b.t = t
			b.run("nft", "add table ip mine")
			b.replace(binary, mode, "nftables", func() error {
				got := b.run("nft", "list", "ruleset")
				for _, left := range []string{"KUBE-SERVICES", "KUBE-SVC", "KUBE-MARK-MASQ", "KUBE-FORWARD", "table ip kube-proxy", "table ip6 kube-proxy"} {
					if strings.Contains(got, left) {
						return fmt.Errorf("left: %s", left)
					}
				}
				if !strings.Contains(got, "table ip podnet-service") {
					return errors.New("our tables are missing")
				}
				return nil
			})
			after := b.run("nft", "list", "ruleset")
			if strings.Contains(after, "KUBE-S") || strings.Contains(after, "kube-proxy") || !strings.Contains(after, "table ip mine") {
				t.Errorf("kube-proxy left\n%s", after)
			}
		})
	}
}

// TestReplaceKubeProxyIPVS is the same from mode ipvs to mode ipvs: virtual servers are taken over with their connections. It needs a kernel with IPVS, and an API server on it:
// go run ./test/vm/run -v -run TestReplaceKubeProxyIPVS ./cmd/podnet-proxy
func TestReplaceKubeProxyIPVS(t *testing.T) {
	vmtest.RequireIPVS(t)
	b, binary := newMigration(t)
	gone := func() error {
		if links := b.run("ip", "-o", "link"); strings.Contains(links, "kube-ipvs0") {
			return fmt.Errorf("left: %s", links)
		}
		if sets := b.run("ipset", "list", "-n"); strings.Contains(sets, "KUBE-") {
			return fmt.Errorf("left: sets %s", sets)
		}
		return nil
	}
	b.replace(binary, "ipvs", "ipvs", func() error {
		if err := gone(); err != nil {
			return err
		}
		if servers := b.run("ipvsadm", "-S", "-n"); !strings.Contains(servers, "-A -t 10.96.0.10:80") || strings.Contains(servers, "192.168.1.1:30080") { // NodePorts are at a mark now
			return fmt.Errorf("virtual servers:\n%s", servers)
		}
		return nil
	})
	if err := gone(); err != nil {
		t.Error(err)
	}
	if servers := b.run("ipvsadm", "-S", "-n"); strings.Contains(servers, "10.96.0.10") {
		t.Errorf("left:\n%s", servers)
	}
}

// newMigration is a node and an API server that serve both proxies, with a Service web of two endpoints.
func newMigration(t *testing.T) (*kubeBed, string) {
	binary := kubeProxy(t)
	b := newKubeBed(t)
	// kube-proxy reads its Node by name, besides listing it.
	role := js{}
	for k, v := range proxyRole {
		role[k] = v
	}
	role["rules"] = append(proxyRole["rules"].([]js), js{"apiGroups": []string{""}, "resources": []string{"nodes"}, "verbs": []string{"get"}},
		js{"apiGroups": []string{"events.k8s.io"}, "resources": []string{"events"}, "verbs": []string{"create", "patch"}})
	b.do(http.MethodPut, "/apis/rbac.authorization.k8s.io/v1/clusterroles/podnet-proxy", role, nil)
	b.do(http.MethodPost, servicesPath, js{"apiVersion": "v1", "kind": "Service", "metadata": js{"name": "web"}, "spec": js{
		"type": "NodePort", "clusterIP": "10.96.0.10", "ports": []js{{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}},
	}}, nil)
	b.endpoints(2, 3)
	return b, binary
}

// replace has podnet-proxy take a node from kube-proxy, and kube-proxy take it back, under load. replaced says what is not as it should be after the first half.
func (b *kubeBed) replace(binary, mode, ours string, replaced func() error) {
	t := b.t
	b.startKubeProxy(binary, mode)
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
	load := b.load("10.96.0.10:80")
	b.kill(syscall.SIGKILL)
	b.start("--replace-kube-proxy", "--mode", ours)
	b.await(replaced)
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
	b.servers(b.client, "tcp", "192.168.1.1:30080", pod(false, 2), pod(false, 3))
	load()

	// And back: first kube-proxy stands, then ours is removed.
	load = b.load("10.96.0.10:80")
	b.kill(syscall.SIGTERM)
	b.startKubeProxy(binary, mode)
	b.await(func() error { // its health is well before its first sync is over
		_, _, body, err := b.get("http://127.0.0.1:10249/metrics")
		stands := regexp.MustCompile(`(?m)^kubeproxy_sync_proxy_rules_last_timestamp_seconds\{ip_family="IPv[46]"\} [1-9]`)
		if err == nil && len(stands.FindAllString(body, -1)) != 2 {
			err = errors.New("kube-proxy does not stand yet")
		}
		return err
	})
	if code, out := b.once("--cleanup", "--mode", ours); code != exitOK {
		t.Errorf("cleanup: status %d: %s", code, out)
	}
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
	load()
	b.kill(syscall.SIGKILL)
	if code, out := b.once("--cleanup-kube-proxy"); code != exitOK {
		t.Errorf("cleanup of kube-proxy: status %d: %s", code, out)
	}
}
