package flannelflags

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func agentEnv(flag string) string {
	return "PODNET_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func TestTranslate(t *testing.T) {
	defaults := "--net-conf=/etc/kube-flannel/net-conf.json --subnet-file=/run/flannel/subnet.env --ip-masq=false --forward-rules=true --set-node-network-unavailable=true --version=false"
	role := " --cni-conf-dir= --state-dir=/run/flannel/podnet --take-over=flannel --vtep-names=flannel"
	for _, tt := range []struct {
		name, args, env, want string
		warnings              []string
	}{
		{"as in kube-flannel.yml", "--ip-masq --kube-subnet-mgr", "", strings.Replace(defaults, "masq=false", "masq=true", 1) + role, nil},
		{"single dashes and values apart", "-kube-subnet-mgr -iface eth1 -iface=192.168.1.7 -iface-regex ^en", "",
			strings.Replace(defaults, "--ip-masq", "--iface=eth1 --iface=192.168.1.7 --iface-regex=^en --ip-masq", 1) + role, nil},
		{"environment", "--kube-subnet-mgr", "FLANNELD_IP_MASQ=true FLANNELD_IFACE=eth7 FLANNELD_PUBLIC_IP=203.0.113.7",
			strings.Replace(defaults, "--ip-masq=false", "--iface=eth7 --public-ip=203.0.113.7 --ip-masq=true", 1) + role, nil},
		{"the command line wins", "--kube-subnet-mgr --ip-masq=false --iface=eth0", "FLANNELD_IP_MASQ=true FLANNELD_IFACE=eth7",
			strings.Replace(defaults, "--ip-masq", "--iface=eth0 --ip-masq", 1) + role, nil},
		{"everything", "--kube-subnet-mgr --kube-api-url=https://10.0.0.1:6443 --kube-annotation-prefix=example.com --kubeconfig-file=/k --net-config-path=/n --subnet-file=/s " +
			"--iface-can-reach=8.8.8.8 --public-ipv6=2001:db8::7 --iptables-forward-rules=false --iptables-resync=30 --healthz-ip=:: --healthz-port=8285 --set-node-network-unavailable=false -v 5", "",
			"--api-server=https://10.0.0.1:6443 --kube-annotation-prefix=example.com --kubeconfig=/k --net-conf=/n --subnet-file=/s --iface-can-reach=8.8.8.8 --public-ipv6=2001:db8::7 " +
				"--ip-masq=false --forward-rules=false --resync=30s --listen=[::]:8285 --set-node-network-unavailable=false --log-level=debug --version=false" + role, nil},
		{"without effect", "--kube-subnet-mgr --etcd-prefix=/a --ip-blackhole-route=false --subnet-lease-renew-margin=5", "FLANNELD_ETCD_ENDPOINTS=http://x", defaults + role, []string{
			"--subnet-lease-renew-margin: without effect: " + noLeases, "FLANNELD_ETCD_ENDPOINTS: without effect: " + noEtcd, "--etcd-prefix: without effect: " + noEtcd,
		}},
		{"the agent's own environment wins over the role", "--kube-subnet-mgr", "PODNET_CNI_CONF_DIR=/etc/cni/net.d PODNET_VTEP_NAMES=podnet", defaults + " --state-dir=/run/flannel/podnet --take-over=flannel", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Translate(strings.Fields(tt.args), environment(tt.env), agentEnv)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Fields(tt.want), r.Args); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, r.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func environment(text string) func(string) string {
	return func(key string) string {
		for _, pair := range strings.Fields(text) {
			if v, ok := strings.CutPrefix(pair, key+"="); ok {
				return v
			}
		}
		return ""
	}
}

func TestTranslateFaults(t *testing.T) {
	for _, tt := range []struct {
		args, env string
		want      []string
	}{
		{"", "", []string{"--kube-subnet-mgr: not given: " + noEtcd}},
		{"--kube-subnet-mgr --no-such-flag", "", []string{"flag provided but not defined: -no-such-flag (flanneld does not know it either)"}},
		{"--kube-subnet-mgr eth0", "", []string{`argument "eth0": want flags only`}},
		{"--kube-subnet-mgr --healthz-port=http --iptables-resync=0 -v=much", "FLANNELD_IP_MASQ=perhaps", []string{
			`--healthz-port "http": want 0 to 65535`, `--iptables-resync "0": want 1 to 3600 seconds`, `--v "much": want a number`, `FLANNELD_IP_MASQ "perhaps": want true or false`}},
		{"--kube-subnet-mgr --healthz-port=1 --healthz-ip=here", "", []string{`--healthz-ip "here": want an address`}},
	} {
		_, err := Translate(strings.Fields(tt.args), environment(tt.env), agentEnv)
		if err == nil {
			t.Errorf("%q: no error", tt.args)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", tt.args, err, want)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	r, err := Translate([]string{"--help"}, environment(""), agentEnv)
	if err != nil || !strings.Contains(r.Help, "--etcd-endpoints") || !strings.Contains(r.Help, "--ip-masq") {
		t.Errorf("%v\n%s", err, r.Help)
	}
}
