package deploy

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// TestProxyObjects does the same for podnet-proxy.
func TestProxyObjects(t *testing.T) {
	all := objects(t, "proxy/base")
	want := []string{"ClusterRole podnet-proxy", "ClusterRoleBinding podnet-proxy", "DaemonSet kube-system/podnet-proxy", "ServiceAccount kube-system/podnet-proxy"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(all))); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if a := read[corev1.ServiceAccount](t, all, "ServiceAccount kube-system/podnet-proxy").AutomountServiceAccountToken; a == nil || *a {
		t.Error("the service account gives its token to every pod")
	}
	watch := []string{"list", "watch"}
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services", "nodes"}, Verbs: watch},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: watch},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs"}, Verbs: watch},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
	}
	if diff := cmp.Diff(rules, read[rbacv1.ClusterRole](t, all, "ClusterRole podnet-proxy").Rules); diff != "" {
		t.Errorf("ClusterRole (-want +got):\n%s", diff)
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "podnet-proxy", Namespace: "kube-system"}}
	if diff := cmp.Diff(subjects, read[rbacv1.ClusterRoleBinding](t, all, "ClusterRoleBinding podnet-proxy").Subjects); diff != "" {
		t.Errorf("binding (-want +got):\n%s", diff)
	}
}

// TestProxyConfigs: what is shipped is kube-proxy's configuration; podnet-proxy's own tests read it for meaning.
func TestProxyConfigs(t *testing.T) {
	paths, err := filepath.Glob("proxy/overlays/*/config.conf")
	if err != nil || len(paths) != 2 {
		t.Fatal(err, paths)
	}
	for _, path := range append(paths, "proxy/base/config.conf") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var c v1alpha1.KubeProxyConfiguration
		if err := yaml.UnmarshalStrict(text, &c); err != nil || c.Kind != "KubeProxyConfiguration" || c.ClusterCIDR == "" {
			t.Errorf("%s: %+v, %v", path, c, err)
		}
		mode := filepath.Base(filepath.Dir(path))
		if mode == "base" {
			mode = "nftables"
		}
		if string(c.Mode) != mode {
			t.Errorf("%s: mode %q", path, c.Mode)
		}
	}
}
