package proxyconfig

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// used are the fields that this package reads into a Config.
const used = `
clientConnection.kubeconfig clientConnection.qps clientConnection.burst
logging.format logging.verbosity
hostnameOverride bindAddress healthzBindAddress metricsBindAddress bindAddressHardFail enableProfiling mode
iptables.masqueradeBit iptables.masqueradeAll iptables.localhostNodePorts iptables.syncPeriod iptables.minSyncPeriod
ipvs.syncPeriod ipvs.minSyncPeriod ipvs.scheduler ipvs.strictARP ipvs.tcpTimeout ipvs.tcpFinTimeout ipvs.udpTimeout
nftables.masqueradeBit nftables.masqueradeAll nftables.syncPeriod nftables.minSyncPeriod
detectLocalMode detectLocal.bridgeInterface detectLocal.interfaceNamePrefix clusterCIDR nodePortAddresses oomScoreAdj
conntrack.maxPerCore conntrack.min conntrack.tcpEstablishedTimeout conntrack.tcpCloseWaitTimeout conntrack.tcpBeLiberal conntrack.udpTimeout conntrack.udpStreamTimeout
apiVersion kind
`

// TestEveryField fails when a new version of kube-proxy's type has a field that nobody has thought about.
func TestEveryField(t *testing.T) {
	known := map[string]bool{}
	for f := range strings.FieldsSeq(used) {
		known[f] = true
	}
	for _, i := range ignored {
		if known[i.field] {
			t.Errorf("%s is said to be used and ignored", i.field)
		}
		known[i.field] = true
	}
	seen := map[string]bool{}
	var walk func(prefix string, of reflect.Type)
	walk = func(prefix string, of reflect.Type) {
		for f := range of.Fields() {
			tag := f.Tag.Get("json")
			name, _, _ := strings.Cut(tag, ",")
			if strings.Contains(tag, ",inline") {
				walk(prefix, f.Type)
				continue
			}
			name = prefix + name
			if known[name] {
				seen[name] = true
				continue
			}
			if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[metav1.Duration]() {
				walk(name+".", f.Type)
				continue
			}
			t.Errorf("field %s is neither used nor explained", name)
		}
	}
	walk("", reflect.TypeFor[v1alpha1.KubeProxyConfiguration]())
	for name := range known {
		if !seen[name] {
			t.Errorf("kube-proxy has no field %s", name)
		}
	}
	for field := range flagOf {
		if !known[field] {
			t.Errorf("flag for unknown field %s", field)
		}
	}
	set := NewFlags(&Flags{})
	for field, flag := range flagOf {
		if set.Lookup(flag) == nil {
			t.Errorf("no flag --%s for field %s", flag, field)
		}
	}
}

// TestNotes sets every field that is not used.
func TestNotes(t *testing.T) {
	k, faults := decode("f", []byte(`
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
featureGates: {B: true, A: false}
clientConnection: {acceptContentTypes: application/json, contentType: application/json}
showHiddenMetricsForVersion: "1.35"
ipvs: {excludeCIDRs: [10.0.0.0/8, 192.0.2.0/24]}
winkernel: {networkName: x}
windowsRunAsService: true
portRange: 1-2
configSyncPeriod: 1m
logging: {flushFrequency: 1s, vmodule: [{filePattern: a, verbosity: 1}], options: {json: {splitStream: true}}}
`))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	setDefaults(&k)
	want := []string{
		"featureGates (A, B) is not used: podnet-proxy has no feature gates",
		"clientConnection.acceptContentTypes (application/json) is not used: podnet-proxy asks for protobuf",
		"clientConnection.contentType (application/json) is not used: podnet-proxy speaks protobuf",
		"showHiddenMetricsForVersion (1.35) is not used: podnet-proxy hides no metrics",
		"ipvs.excludeCIDRs (10.0.0.0/8, 192.0.2.0/24) is not used: not needed: podnet-proxy never touches a virtual server that it did not make",
		"winkernel (set) is not used: for Windows; podnet-proxy is for Linux",
		"windowsRunAsService (set) is not used: for Windows; podnet-proxy is for Linux",
		"portRange (1-2) is not used: no proxy uses it since the userspace mode was removed",
		"configSyncPeriod (1m0s) is not used: not needed: podnet-proxy compares the kernel with what is wanted",
		"logging.flushFrequency (1s) is not used: not needed: nothing is held back",
		"logging.vmodule (set) is not used: use logging.verbosity",
		"logging.options (set) is not used: podnet-proxy logs to stderr only",
	}
	if diff := cmp.Diff(want, notes(&k, func(f string) string { return f })); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if len(want) != len(ignored) {
		t.Errorf("%d fields are tested of %d", len(want), len(ignored))
	}
}
