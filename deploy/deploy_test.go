// Package deploy holds the manifests; this test keeps them honest.
package deploy

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// objects returns the documents of all YAML files below a directory that are Kubernetes objects.
func objects(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" || filepath.Base(path) == "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var head struct {
				Kind     string
				Metadata struct{ Name, Namespace string }
			}
			if err := yaml.Unmarshal([]byte(document), &head); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			out[head.Kind+" "+strings.TrimPrefix(head.Metadata.Namespace+"/", "/")+head.Metadata.Name] = []byte(document)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// read decodes one object; a field that its type does not have is an error.
func read[T any](t *testing.T, all map[string][]byte, name string) T {
	t.Helper()
	var v T
	text, ok := all[name]
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// TestObjects names every object, decodes it strictly, and holds what it grants and how it runs against what is allowed.
func TestObjects(t *testing.T) {
	all := objects(t, "base")
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"ClusterRole podnet-agent", "ClusterRoleBinding podnet-agent", "DaemonSet podnet-system/podnet-agent", "Namespace podnet-system", "Role default/podnet-agent-events",
		"RoleBinding default/podnet-agent-events", "ServiceAccount podnet-system/podnet-agent", "ValidatingAdmissionPolicy podnet-agent", "ValidatingAdmissionPolicyBinding podnet-agent"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	read[corev1.Namespace](t, all, "Namespace podnet-system")
	if a := read[corev1.ServiceAccount](t, all, "ServiceAccount podnet-system/podnet-agent").AutomountServiceAccountToken; a == nil || *a {
		t.Error("the service account gives its token to every pod")
	}

	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}},
	}
	if diff := cmp.Diff(rules, read[rbacv1.ClusterRole](t, all, "ClusterRole podnet-agent").Rules); diff != "" {
		t.Errorf("ClusterRole (-want +got):\n%s", diff)
	}
	rules = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}}}
	if diff := cmp.Diff(rules, read[rbacv1.Role](t, all, "Role default/podnet-agent-events").Rules); diff != "" {
		t.Errorf("Role (-want +got):\n%s", diff)
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "podnet-agent", Namespace: "podnet-system"}}
	cluster, events := read[rbacv1.ClusterRoleBinding](t, all, "ClusterRoleBinding podnet-agent"), read[rbacv1.RoleBinding](t, all, "RoleBinding default/podnet-agent-events")
	if diff := cmp.Diff([]any{subjects, subjects}, []any{cluster.Subjects, events.Subjects}); diff != "" {
		t.Errorf("bindings (-want +got):\n%s", diff)
	}

	policy := read[admissionv1.ValidatingAdmissionPolicy](t, all, "ValidatingAdmissionPolicy podnet-agent")
	binding := read[admissionv1.ValidatingAdmissionPolicyBinding](t, all, "ValidatingAdmissionPolicyBinding podnet-agent")
	if *policy.Spec.FailurePolicy != admissionv1.Fail || binding.Spec.PolicyName != policy.Name || !slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny) {
		t.Error("the admission policy is not in force")
	}
	// The parts that Helm and kustomize users rename: they have to agree.
	if user := "system:serviceaccount:" + subjects[0].Namespace + ":" + subjects[0].Name; !strings.Contains(policy.Spec.MatchConditions[0].Expression, `"`+user+`"`) {
		t.Errorf("the admission policy is not about %s", user)
	}
}

// TestPods holds every container against the least that it can work with.
func TestPods(t *testing.T) {
	daemonSets := map[string]appsv1.DaemonSet{
		"base":      read[appsv1.DaemonSet](t, objects(t, "base"), "DaemonSet podnet-system/podnet-agent"),
		"uninstall": read[appsv1.DaemonSet](t, objects(t, "uninstall"), "DaemonSet kube-system/podnet-uninstall"),
		"proxy":     read[appsv1.DaemonSet](t, objects(t, "proxy/base"), "DaemonSet kube-system/podnet-proxy"),
		"cleanup":   read[appsv1.DaemonSet](t, objects(t, "proxy/cleanup"), "DaemonSet kube-system/podnet-proxy-cleanup"),
	}
	caps := map[string][]corev1.Capability{"base install": nil, "base agent": {"NET_ADMIN"}, "uninstall cleanup": {"NET_ADMIN"}, "uninstall uninstall": nil,
		"proxy proxy": {"NET_ADMIN"}, "cleanup cleanup": {"NET_ADMIN", "NET_RAW"}, "cleanup done": nil}
	for name, ds := range daemonSets {
		pod := ds.Spec.Template.Spec
		if !pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.PriorityClassName != "system-node-critical" || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: pod: %+v", name, pod)
		}
		if len(pod.Tolerations) != 1 || pod.Tolerations[0] != (corev1.Toleration{Operator: corev1.TolerationOpExists}) {
			t.Errorf("%s: tolerations: %v", name, pod.Tolerations)
		}
		for _, c := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
			s := c.SecurityContext
			if s == nil || *s.AllowPrivilegeEscalation || *s.Privileged || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s: %s: %+v", name, c.Name, s)
			}
			if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: caps[name+" "+c.Name]}, s.Capabilities); diff != "" {
				t.Errorf("%s: %s: capabilities (-want +got):\n%s", name, c.Name, diff)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() || !c.Resources.Limits.Cpu().IsZero() {
				t.Errorf("%s: %s: resources: %+v", name, c.Name, c.Resources)
			}
		}
		for _, v := range pod.Volumes {
			if v.HostPath != nil && !slices.Contains([]string{"/opt/cni/bin", "/etc/cni/net.d", "/run/podnet", "/var/lib/podnet", "/proc/sys/net", "/run/xtables.lock"}, v.HostPath.Path) {
				t.Errorf("%s: host path %s", name, v.HostPath.Path)
			}
		}
	}
	agent := daemonSets["base"].Spec.Template.Spec.Containers[0]
	for _, m := range agent.VolumeMounts {
		if m.Name == "cni-bin" {
			t.Error("the agent itself can write plugins: only its init container needs to")
		}
	}
	proxy := daemonSets["proxy"].Spec.Template.Spec.Containers[0]
	for _, p := range []struct {
		probe *corev1.Probe
		path  string
		port  int
	}{{agent.LivenessProbe, "/healthz", 10270}, {agent.ReadinessProbe, "/readyz", 10270}, {proxy.LivenessProbe, "/livez", 10256}, {proxy.ReadinessProbe, "/healthz", 10256}} {
		if p.probe == nil || p.probe.HTTPGet.Path != p.path || p.probe.HTTPGet.Port.IntValue() != p.port {
			t.Errorf("probe of %s: %+v", p.path, p.probe)
		}
	}
}

// TestKustomizations: every file is named, and every name is a file.
func TestKustomizations(t *testing.T) {
	paths, err := filepath.Glob("overlays/*/kustomization.yaml")
	more, err2 := filepath.Glob("proxy/*/*/kustomization.yaml")
	if err := errors.Join(err, err2); err != nil || len(more) < 4 {
		t.Fatal(err, more)
	}
	paths = append(paths, more...)
	for _, path := range append(paths, "base/kustomization.yaml", "uninstall/kustomization.yaml", "proxy/base/kustomization.yaml", "proxy/cleanup/kustomization.yaml") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var k struct {
			Resources          []string
			Patches            []struct{ Path string }
			ConfigMapGenerator []struct {
				Name, Namespace, Behavior string
				Files                     []string
			}
		}
		if err := yaml.Unmarshal(text, &k); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var want []string
		for _, r := range k.Resources {
			if r != "../../base" {
				want = append(want, r)
			}
		}
		for _, p := range k.Patches {
			want = append(want, p.Path)
		}
		for _, g := range k.ConfigMapGenerator {
			want = append(want, g.Files...)
			name := "podnet-system/podnet-config"
			if strings.HasPrefix(path, "proxy/") {
				name = "kube-system/podnet-proxy"
			}
			if g.Namespace+"/"+g.Name != name || (g.Behavior == "merge") == strings.Contains("/"+path, "/base/") {
				t.Errorf("%s: ConfigMap: %+v", path, g)
			}
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, e := range entries {
			if e.Name() != "kustomization.yaml" {
				have = append(have, e.Name())
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s (-named +there):\n%s", path, diff)
		}
	}
}

// TestPatches: an overlay's patch changes what the base has; one with a mistyped name would add something instead.
func TestPatches(t *testing.T) {
	base := read[appsv1.DaemonSet](t, objects(t, "base"), "DaemonSet podnet-system/podnet-agent")
	for _, dir := range []string{"from-flannel", "metrics", "without-kube-proxy"} {
		patch := read[appsv1.DaemonSet](t, objects(t, "overlays/"+dir), "DaemonSet podnet-system/podnet-agent")
		c := patch.Spec.Template.Spec.Containers
		if len(c) != 1 || c[0].Name != base.Spec.Template.Spec.Containers[0].Name || len(c[0].Env) == 0 {
			t.Errorf("%s: %+v", dir, c)
		}
	}
	base = read[appsv1.DaemonSet](t, objects(t, "proxy/base"), "DaemonSet kube-system/podnet-proxy")
	for _, dir := range []string{"from-kube-proxy", "iptables"} {
		text := objects(t, "proxy/overlays/"+dir)["DaemonSet kube-system/podnet-proxy"]
		var patch appsv1.DaemonSet
		if err := yaml.Unmarshal(text, &patch); err != nil { // not strictly: it has $patch
			t.Fatal(err)
		}
		c := patch.Spec.Template.Spec.Containers
		if len(c) != 1 || c[0].Name != base.Spec.Template.Spec.Containers[0].Name {
			t.Errorf("%s: %+v", dir, c)
		}
		for _, a := range base.Spec.Template.Spec.Containers[0].Args { // arguments are replaced, all at once
			if len(c[0].Args) > 0 && !strings.HasPrefix(a, "--config=") && !slices.Contains(c[0].Args, a) {
				t.Errorf("%s loses %s", dir, a)
			}
		}
	}
}

// TestImage: manifests and Dockerfile agree.
func TestImage(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	docker := string(text)
	for _, image := range []string{"podnet-agent", "podnet-proxy"} {
		if !strings.Contains(docker, "\nFROM scratch AS "+image+"\n") || !strings.Contains(docker, `ENTRYPOINT ["/`+image+`"]`) {
			t.Errorf("the image of %s has a base, or another entry point", image)
		}
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))[1]
	if !strings.Contains(docker, "ARG GO_VERSION="+language+".") {
		t.Errorf("go.mod wants Go %s, the Dockerfile has another", language)
	}
	for _, name := range []string{"nft.lock", "iptables.lock"} {
		lock, err := os.ReadFile("image/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSpace(string(lock)), "\n") {
			if !strings.HasPrefix(line, "#") && !regexp.MustCompile(`^(file usr/\S+( \S+)?|(amd64|arm64) [a-z0-9.+-]+ \S+ [0-9a-f]{64})$`).MatchString(line) {
				t.Errorf("%s line %d: %q", name, i+1, line)
			}
		}
	}
}

// TestNetConf: what is shipped is JSON with flannel's keys; the agent's own tests read them for meaning.
func TestNetConf(t *testing.T) {
	paths, err := filepath.Glob("*/net-conf.json")
	more, err2 := filepath.Glob("overlays/*/net-conf.json")
	if err != nil || err2 != nil || len(more) < 2 {
		t.Fatal(err, err2, more)
	}
	for _, path := range append(paths, more...) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var conf struct {
			Network, IPv6Network string
			EnableIPv6           bool
			Backend              struct {
				Type          string
				DirectRouting bool
			}
		}
		d := json.NewDecoder(strings.NewReader(string(text)))
		d.DisallowUnknownFields()
		if err := d.Decode(&conf); err != nil || conf.Network == "" || conf.Backend.Type == "" || conf.EnableIPv6 != (conf.IPv6Network != "") {
			t.Errorf("%s: %+v, %v", path, conf, err)
		}
	}
}
