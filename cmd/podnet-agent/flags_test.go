package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// inputs writes a net-conf.json and a directory of nodes, and returns the flags that name them.
func inputs(t *testing.T, netConf string) (dir string, args []string) {
	t.Helper()
	dir = t.TempDir()
	write(t, filepath.Join(dir, "net-conf.json"), netConf)
	if err := os.Mkdir(filepath.Join(dir, "nodes"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, []string{"--node-name", "node-a", "--nodes", filepath.Join(dir, "nodes"), "--net-conf", filepath.Join(dir, "net-conf.json")}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const goodNetConf = `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`

func noEnv(string) string { return "" }

func TestFlagsFaults(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--node-name", "Node_A"}, []string{`--node-name "Node_A": want 1 to 253 lower case letters, digits, '-' and '.', with a letter or digit at both ends`}},
		{[]string{"--node-name", ""}, []string{`--node-name "": required: want the name of this node, as Kubernetes or the node descriptions have it`}},
		{[]string{"--nodes", "missing"}, []string{`--nodes "missing": no such file or directory: want a file or directory of node descriptions`}},
		{[]string{"--nodes", ""}, []string{`--kubeconfig "": not in a pod (no service account token): name a kubeconfig; want --kubeconfig, or --nodes with node descriptions, or a pod with a service account`}},
		{[]string{"--nodes", "", "--api-server", "10.0.0.1"}, []string{`--api-server "10.0.0.1": server "10.0.0.1": want a URL such as https://192.168.1.10:6443; want --kubeconfig, or --nodes with node descriptions, or a pod with a service account`}},
		{[]string{"--kubeconfig", "missing"}, []string{`--kubeconfig "missing": contradicts --nodes "{dir}/nodes": want nodes from files or from Kubernetes, not both`}},
		{[]string{"--kube-annotation-prefix", "Foo"}, []string{`--kube-annotation-prefix "Foo": annotation prefix "Foo": want a domain, or domain/name of lower case letters, digits, '-' and '_', such as flannel.alpha.coreos.com`}},
		{[]string{"--net-conf", ""}, []string{`--net-conf "": required: want a file such as flannel's net-conf.json`}},
		{[]string{"--net-conf", "missing"}, []string{`--net-conf "missing": no such file or directory`}},
		{[]string{"--iface", "eth0/1"}, []string{`--iface "eth0/1": want a device name of 1 to 15 bytes without space, '/', ':', '%' or control bytes`}},
		{[]string{"--iface", "averyveryverylongname"}, []string{`--iface "averyveryverylongname": want a device name of 1 to 15 bytes without space, '/', ':', '%' or control bytes`}},
		{[]string{"--bridge", "cni%d"}, []string{`--bridge "cni%d": want a device name of 1 to 15 bytes without space, '/', ':', '%' or control bytes`}},
		{[]string{"--bridge", ""}, []string{`--bridge "": want a device name of 1 to 15 bytes without space, '/', ':', '%' or control bytes`}},
		{[]string{"--subnet-file", "subnet.env"}, []string{`--subnet-file "subnet.env": want an absolute path`}},
		{[]string{"--subnet-file", ""}, []string{`--subnet-file "": want an absolute path`}},
		{[]string{"--subnet-file", "/"}, []string{`--subnet-file "/": is a directory: want the path of a file`}},
		{[]string{"--cni-conf-dir", "net.d"}, []string{`--cni-conf-dir "net.d": want an absolute path`}},
		{[]string{"--cni-data-dir", "x"}, []string{`--cni-data-dir "x": want an absolute path`}},
		{[]string{"--state-dir", ""}, []string{`--state-dir "": want an absolute path`}},
		{[]string{"--cni-conf-name", "../x.conflist"}, []string{`--cni-conf-name "../x.conflist": want a file name that ends in .conflist`}},
		{[]string{"--cni-conf-name", "10-podnet.conf"}, []string{`--cni-conf-name "10-podnet.conf": want a file name that ends in .conflist`}},
		{[]string{"--listen", "10270"}, []string{`--listen "10270": want address:port such as 127.0.0.1:10270, :10270 or [::1]:10270, or nothing`}},
		{[]string{"--listen", "nohost:1"}, []string{`--listen "nohost:1": want address:port such as 127.0.0.1:10270, :10270 or [::1]:10270, or nothing`}},
		{[]string{"--listen", ":70000"}, []string{`--listen ":70000": port: want 1 to 65535`}},
		{[]string{"--listen", ":0"}, []string{`--listen ":0": port: want 1 to 65535`}},
		{[]string{"--resync", "1ms"}, []string{`--resync "1ms": want 100ms to 1h`}},
		{[]string{"--resync", "2h"}, []string{`--resync "2h0m0s": want 100ms to 1h`}},
		{[]string{"--mass-delete-hold", "-1s"}, []string{`--mass-delete-hold "-1s": want 0s (off) to 24h`}},
		{[]string{"--log-format", "xml"}, []string{`--log-format "xml": want text or json`}},
		{[]string{"--log-level", "loud"}, []string{`--log-level "loud": want debug, info, warn or error`}},
		{[]string{"extra"}, []string{`argument "extra": want flags only`}},
		{[]string{"--resync", "1ms", "--log-level", "x"}, []string{`--resync "1ms": want 100ms to 1h`, `--log-level "x": want debug, info, warn or error`}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			dir, args := inputs(t, goodNetConf)
			_, err := parseFlags(append(args, tt.args...), noEnv)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, strings.Split(strings.ReplaceAll(err.Error(), dir, "{dir}"), "\n")); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlagsNetConfFaults(t *testing.T) {
	dir, args := inputs(t, `{"Network": "10.244.1.0/16", "Backend": {"Type": "ipip", "VNI": 0}}`)
	_, err := parseFlags(args, noEnv)
	path := filepath.Join(dir, "net-conf.json")
	want := `--net-conf "` + path + `": Network "10.244.1.0/16": has host bits; want 10.244.0.0/16: want a CIDR such as 10.244.0.0/16
--net-conf "` + path + `": Backend.Type "ipip": want vxlan, host-gw, or alloc (none)
--net-conf "` + path + `": Backend.VNI 0: want 1 to 16777215`
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestFlagsDefaults(t *testing.T) {
	_, args := inputs(t, goodNetConf)
	o, err := parseFlags(args, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if !o.ipMasq || o.subnetFile != "/run/podnet/subnet.env" || o.resync != 9*time.Second || o.hold != time.Minute || o.listen != defaultListen {
		t.Errorf("defaults: %+v", o)
	}
}

func TestFlagsEnvironment(t *testing.T) {
	_, args := inputs(t, goodNetConf)
	env := func(values map[string]string) func(string) string {
		return func(name string) string { return values[name] }
	}
	o, err := parseFlags(append(args, "--bridge", "br1"), env(map[string]string{"PODNET_BRIDGE": "br2", "PODNET_RESYNC": "3s", "PODNET_IP_MASQ": "false"}))
	if err != nil {
		t.Fatal(err)
	}
	if o.bridge != "br1" || o.resync != 3*time.Second || o.ipMasq {
		t.Errorf("bridge %q, resync %v, ip-masq %v: want the flag br1, and 3s and false from the environment", o.bridge, o.resync, o.ipMasq)
	}
	_, err = parseFlags(args, env(map[string]string{"PODNET_RESYNC": "soon"}))
	if want := `PODNET_RESYNC "soon": want what --resync takes: look at everything at least this often`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Cleanup needs none of the inputs: they may be gone.
func TestFlagsCleanup(t *testing.T) {
	if _, err := parseFlags([]string{"--cleanup"}, noEnv); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "another podnet-agent (process ") {
		t.Errorf("second lock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = lock(dir)
	if err != nil {
		t.Fatalf("lock of a process that is gone: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateFaults(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, `--from "" --to "": want --from flannel, or --to flannel`},
		{[]string{"--from", "flannel", "--to", "flannel"}, `want --from flannel, or --to flannel`},
		{[]string{"--to", "calico"}, `--to "calico": want --from flannel, or --to flannel`},
		{[]string{"--to", "flannel", "--cni-conf-dir", ""}, `--cni-conf-dir "": want the directory`},
		{[]string{"--to", "flannel", "--flannel-subnet-file", "x"}, `--flannel-subnet-file "x": want an absolute path`},
		{[]string{"--to", "flannel", "--flannel-conflist", "a/b.conflist"}, `--flannel-conflist "a/b.conflist": want a file name`},
		{[]string{"--to", "flannel", "extra"}, `argument "extra": want flags only`},
		{[]string{"--to", "flannel", "--state-dir", "x"}, `--state-dir "x": want an absolute path`},
	} {
		var out, errs strings.Builder
		if status := runMigrate(t.Context(), tt.args, noEnv, &out, &errs); status != exitUsage || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: status %d, %s; want %s", tt.args, status, errs.String(), tt.want)
		}
	}
}

func TestUplinkFlagsFaults(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--iface=eth0 --iface=no/name", `--iface "no/name": want a device name`},
		{"--iface-regex=(", `--iface-regex "(": error parsing regexp`},
		{"--iface-can-reach=here", `--iface-can-reach "here": want the address of a host`},
		{"--iface-can-reach=127.0.0.1", `--iface-can-reach "127.0.0.1": want the address of a host`},
		{"--public-ip=fd00::1", `--public-ip "fd00::1": want an IPv4 address`},
		{"--public-ipv6=ff02::1", `--public-ipv6 "ff02::1": `},
		{"--take-over=calico", `--take-over "calico": want flannel or nothing`},
		{"--vtep-names=mine", `--vtep-names "mine": want podnet or flannel`},
		{"--backend-linger=-1s", `--backend-linger "-1s": want 0s (off) to 24h`},
	} {
		if _, err := parseFlags(strings.Fields(tt.args), noEnv); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.args, err, tt.want)
		}
	}
}
