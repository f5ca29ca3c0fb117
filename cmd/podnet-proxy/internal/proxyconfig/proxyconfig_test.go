package proxyconfig_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
)

var comparable = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func host() (string, error) { return "Node-A", nil }

const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// file writes a configuration file, with apiVersion and kind before the text unless it has its own.
func file(t testing.TB, text string) string {
	t.Helper()
	if !strings.Contains(text, "kind:") {
		text = head + text
	}
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagFaults(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--mode userspace", `--mode "userspace": want auto, nftables, ipvs or iptables`},
		{"--proxy-mode userspace", `--proxy-mode "userspace": is no mode of Linux today: want nftables, ipvs, iptables, or nothing for auto`},
		{"--proxy-mode x", `--proxy-mode "x": want nftables, ipvs, iptables, or nothing for auto`},
		{"--cluster-cidr 10.244.0.0", `--cluster-cidr "10.244.0.0": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56`},
		{"--cluster-cidr 10.0.0.0/8,x", `--cluster-cidr "x": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56`},
		{"--cluster-cidr ::ffff:10.0.0.0/104", `--cluster-cidr "::ffff:10.0.0.0/104": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56`},
		{"--detect-local-mode nodecidr", `--detect-local-mode "nodecidr": want ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix`},
		{"--detect-local-mode BridgeInterface", `--pod-bridge-interface "": want a device name of 1 to 15 bytes without space, '/', ':', '%' or control bytes`},
		{"--detect-local-mode InterfaceNamePrefix --pod-interface-name-prefix a/b", `--pod-interface-name-prefix "a/b": want a device name of 1 to 15 bytes without space, '/', ':', '%' or control bytes`},
		{"--nodeport-addresses primary,10.0.0.0/8", `--nodeport-addresses "primary,10.0.0.0/8": want primary alone, or CIDRs`},
		{"--nodeport-addresses 10.0.0.0", `--nodeport-addresses "10.0.0.0": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56, or primary`},
		{"--healthz-bind-address 10256", `--healthz-bind-address "10256": want IP:port such as 0.0.0.0:10256, [::]:10256 or 127.0.0.1:10249`},
		{"--healthz-bind-address 0.0.0.0:0", `--healthz-bind-address "0.0.0.0:0": port "0": want 1 to 65535`},
		{"--metrics-bind-address host:1", `--metrics-bind-address "host:1": want IP:port such as 0.0.0.0:10256, [::]:10256 or 127.0.0.1:10249`},
		{"--metrics-bind-address 0.0.0.0:10256", `--metrics-bind-address "0.0.0.0:10256": is healthzBindAddress too: want another port`},
		{"--bind-address eth0", `--bind-address "eth0": want an IP address`},
		{"--iptables-masquerade-bit 32", `--iptables-masquerade-bit "32": want 0 to 31`},
		{"--iptables-sync-period 0s", `--iptables-sync-period "0s": want more than 0s
--iptables-min-sync-period "1s": want at most iptables.syncPeriod, which is 0s`},
		{"--iptables-min-sync-period 1h", `--iptables-min-sync-period "1h0m0s": want at most iptables.syncPeriod, which is 30s`},
		{"--proxy-mode ipvs --ipvs-min-sync-period -1s", `--ipvs-min-sync-period "-1s": want 0s or more`},
		{"--config-sync-period 0s", `--config-sync-period "0s": want more than 0s`},
		{"--ipvs-scheduler best", `--ipvs-scheduler "best": want one of rr, wrr, lc, wlc, fo, ovf, lblc, lblcr, dh, sh, mh, sed, nq, twos`},
		{"--ipvs-tcp-timeout -1s", `--ipvs-tcp-timeout "-1s": want 0s (as it is) or more`},
		{"--ipvs-exclude-cidrs x", `--ipvs-exclude-cidrs "x": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56`},
		{"--conntrack-min -1", `--conntrack-min "-1": want 0 (leave alone) or more`},
		{"--conntrack-udp-timeout -1s", `--conntrack-udp-timeout "-1s": want 0s (as it is) or more`},
		{"--oom-score-adj 1001", `--oom-score-adj "1001": want -1000 to 1000`},
		{"--kube-api-burst -1", `--kube-api-burst "-1": want 0 (the default) or more`},
		{"--logging-format xml", `--logging-format "xml": want text or json`},
		{"--hostname-override node_a", `--hostname-override "node_a": want 1 to 253 letters, digits, '-' and '.', with a letter or digit at both ends`},
		{"--master 10.0.0.1", `--master "10.0.0.1": want a URL such as https://192.168.1.10:6443`},
		{"--services /nowhere", `--services "/nowhere": no such file or directory: want a file or directory of Services and EndpointSlices`},
		{"--services / --master http://a", `--master "http://a": contradicts --services "/": want Services from files or from Kubernetes, not both`},
		{"--external-ip-cidrs 1.2.3.4", `--external-ip-cidrs "1.2.3.4": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56`},
		{"--mass-delete-hold -1s", `--mass-delete-hold "-1s": want 0s (off) to 24h`},
		{"--sysctl-dir sys", `--sysctl-dir "sys": want an absolute path`},
		{"--feature-gates A", `--feature-gates "A": want name=true or name=false`},
		{"--config /nowhere", `--config "/nowhere": no such file or directory: want the path of a KubeProxyConfiguration`},
		{"--config /", `--config "/": not a regular file: want the path of a KubeProxyConfiguration`},
		{"extra", `argument "extra": want flags only`},
		{"--no-such-flag", `unknown flag: --no-such-flag`},
		{"--bind-address x --oom-score-adj 2000", "--bind-address \"x\": want an IP address\n--oom-score-adj \"2000\": want -1000 to 1000"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			_, err := proxyconfig.Parse(strings.Fields(tt.args), host)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFileFaults(t *testing.T) {
	const kind = "want apiVersion kubeproxy.config.k8s.io/v1alpha1, kind KubeProxyConfiguration"
	const unknown = ": want a field of KubeProxyConfiguration v1alpha1; remove it, or correct its spelling"
	for _, tt := range []struct{ name, text, want string }{
		{"unknown", "clusterCidr: 10.0.0.0/8\nipvs: {sheduler: rr}", `{file}: unknown field "clusterCidr"` + unknown + "\n{file}: unknown field \"ipvs.sheduler\"" + unknown},
		{"twice", "mode: ipvs\nmode: nftables", `{file}: line 4: key "mode" already set in map`},
		{"type", "oomScoreAdj: high", `{file}: json: cannot unmarshal string into Go struct field KubeProxyConfiguration.oomScoreAdj of type int32`},
		{"no YAML", "a: [", `{file}: yaml: line 3: did not find expected node content`},
		{"kind", "apiVersion: v1\nkind: Pod\n", `{file}: apiVersion "v1", kind "Pod": ` + kind},
		{"no kind", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n# kind:\n", `{file}: apiVersion or kind is missing: ` + kind},
		{"empty", "# kind:\n", `{file}: apiVersion or kind is missing: ` + kind},
		{"values", "mode: userspace\nnodePortAddresses: [x]\nconntrack: {min: -1}\nhostnameOverride: a_b", `{file}: mode "userspace": is no mode of Linux today: want nftables, ipvs, iptables, or nothing for auto
{file}: hostnameOverride "a_b": want 1 to 253 letters, digits, '-' and '.', with a letter or digit at both ends
{file}: nodePortAddresses "x": want a CIDR such as 10.244.0.0/16 or fd00:10:244::/56, or primary
{file}: conntrack.min "-1": want 0 (leave alone) or more`},
		{"bit", "mode: nftables\nnftables: {masqueradeBit: 40}", `{file}: nftables.masqueradeBit "40": want 0 to 31`},
		{"auto", "mode: auto", `{file}: mode "auto": want nftables, ipvs, iptables, or nothing for auto`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := file(t, tt.text)
			_, err := proxyconfig.Parse([]string{"--config", path}, host)
			if err == nil {
				t.Fatal("accepted")
			}
			got := strings.ReplaceAll(err.Error(), `--config "`+path+`"`, "{file}")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKubeadm reads what kubeadm writes, and finds that it says the same as no flags but two.
func TestKubeadm(t *testing.T) {
	got, err := proxyconfig.Parse([]string{"--config", "testdata/kubeadm.yaml"}, host)
	if err != nil {
		t.Fatal(err)
	}
	want, err := proxyconfig.Parse([]string{"--kubeconfig", "/var/lib/kube-proxy/kubeconfig.conf", "--cluster-cidr", "10.244.0.0/16"}, host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, comparable, cmpopts.IgnoreTypes(v1alpha1.KubeProxyConfiguration{})); diff != "" {
		t.Errorf("flags and file (-flags +file):\n%s", diff)
	}
	if got.NodeName != "node-a" || got.Mode != proxyconfig.Auto || got.Healthz.String() != "0.0.0.0:10256" || got.Metrics.String() != "127.0.0.1:10249" || len(got.Warnings) > 0 {
		t.Errorf("%+v", got)
	}
}

func TestPrecedence(t *testing.T) {
	path := file(t, "mode: ipvs\nclusterCIDR: 10.244.0.0/16,fd00::/56\nhostnameOverride: from-file\nipvs: {scheduler: lc, syncPeriod: 7s}\niptables: {masqueradeAll: true, masqueradeBit: 15}\n")
	got, err := proxyconfig.Parse([]string{"--config", path, "--mode", "nftables", "--cluster-cidr", "10.0.0.0/8", "--hostname-override", " From-Flag ", "-v", "4", "--external-ip-cidrs", "192.0.2.0/24"}, host)
	if err != nil {
		t.Fatal(err)
	}
	if got.Mode != "nftables" || got.FileMode != "ipvs" || got.NodeName != "from-flag" || got.DetectLocal.ClusterCIDRs[0].String() != "10.244.0.0/16" || len(got.DetectLocal.ClusterCIDRs) != 2 ||
		!got.MasqueradeAll || got.MasqueradeBit != 15 || got.SyncPeriod.String() != "7s" || got.Verbosity != 4 || len(got.ExternalCIDRs) != 1 {
		t.Errorf("%+v", got)
	}
	want := []string{`--cluster-cidr is not used: --config "` + path + `" counts, as with kube-proxy`}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestLocalhostNodePorts: kube-proxy's default is on, so only who asks for it is told.
func TestLocalhostNodePorts(t *testing.T) {
	const text = " is not used: NodePorts are never served on 127.0.0.1, which would need route_localnet (CVE-2020-8558)"
	path := file(t, "clusterCIDR: 10.0.0.0/8\niptables: {localhostNodePorts: true}\n")
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--cluster-cidr", "10.0.0.0/8", "--iptables-localhost-nodeports"}, []string{"--iptables-localhost-nodeports" + text}},
		{[]string{"--cluster-cidr", "10.0.0.0/8", "--iptables-localhost-nodeports=false"}, nil},
		{[]string{"--config", path}, []string{`--config "` + path + `": iptables.localhostNodePorts` + text}},
	} {
		got, err := proxyconfig.Parse(tt.args, host)
		if diff := cmp.Diff(tt.want, got.Warnings); diff != "" || err != nil {
			t.Errorf("%v: %v (-want +got):\n%s", tt.args, err, diff)
		}
	}
}

func TestDefaultsIPv6(t *testing.T) {
	got, err := proxyconfig.Parse([]string{"--config", file(t, "bindAddress: '::1'\nhealthzBindAddress: '::'\nclusterCIDR: 010.0.0.0/8\n")}, host)
	if err != nil {
		t.Fatal(err)
	}
	if got.Healthz.String() != "[::]:10256" || got.Metrics.String() != "[::1]:10249" || got.BindAddress.String() != "::1" || got.DetectLocal.ClusterCIDRs[0].String() != "10.0.0.0/8" {
		t.Errorf("%+v", got)
	}
}

func TestServersOff(t *testing.T) {
	for _, args := range []string{"--healthz-port 0 --metrics-port 0", "--healthz-bind-address= --metrics-bind-address="} {
		got, err := proxyconfig.Parse(strings.Fields(args), host)
		if err != nil || got.Healthz.IsValid() || got.Metrics.IsValid() {
			t.Errorf("%s: healthz %v, metrics %v, %v", args, got.Healthz, got.Metrics, err)
		}
	}
	got, err := proxyconfig.Parse([]string{"--healthz-bind-address", "127.0.0.1", "--healthz-port", "1234"}, host)
	if err != nil || got.Healthz.String() != "127.0.0.1:1234" {
		t.Errorf("healthz %v, %v", got.Healthz, err)
	}
}

func TestWrite(t *testing.T) {
	c, err := proxyconfig.Parse([]string{"--write-config-to", "x", "--proxy-mode", "ipvs", "--cluster-cidr", "10.0.0.0/8"}, host)
	if err != nil {
		t.Fatal(err)
	}
	text, err := proxyconfig.Write(c.KubeProxy)
	if err != nil {
		t.Fatal(err)
	}
	again, err := proxyconfig.Parse([]string{"--write-config-to", "x", "--config", file(t, string(text))}, host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, again, comparable); diff != "" {
		t.Errorf("what was written is read as something else (-flags +file):\n%s", diff)
	}
}
