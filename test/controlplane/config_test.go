package controlplane_test

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/podnet/podnet/test/controlplane"
)

func TestConfigFaults(t *testing.T) {
	config := controlplane.Config{
		Addresses:    []netip.Addr{netip.MustParseAddr("0.0.0.0")},
		Port:         70000,
		Users:        []controlplane.User{{Name: "admin"}, {Name: "a,b"}},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.1/16")},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")},
		MaskSizes:    []int{24},
		Flags:        map[controlplane.Component][]string{"kubelet": nil},
	}
	err := config.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		"Addresses: 0.0.0.0:", "Port: 70000:", `Users: name "admin":`, "Users: a,b:", "ServiceCIDRs: 10.96.0.1/16:", "ClusterCIDRs: [", "MaskSizes: [24]:", "Flags: kubelet:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no fault begins with %q in:\n%v", want, err)
		}
	}
	if err := (controlplane.Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
}

// The module that builds the binaries is another one, so nothing but this test keeps the two in step.
func TestVersionIsThatOfTheBuild(t *testing.T) {
	data, err := os.ReadFile("../kube/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (\S+)`).FindSubmatch(data)
	if m == nil || string(m[1]) != controlplane.Version {
		t.Errorf("test/kube/go.mod requires k8s.io/kubernetes %s, Version is %s", m[1:], controlplane.Version)
	}
}
