package podnet_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/podnet/podnet"

// The law of imports, in the manner of Go's own go/build/deps_test.go. A package may import the standard library and what its line
// names; a name stands for the package and everything below it. A package without a line fails the test.
// Test files are free: they may use the ...test packages, go-cmp and whatever proves the package right.
const law = `
# The roots think; they touch nothing. A project that imports ipam compiles no netlink, no CNI, no Kubernetes package.
ipam:                       -
ipam/filestore:             ipam golang.org/x/sys/unix
ipam/ipamtest:              ipam github.com/google/go-cmp

# The kernel seam speaks netlink itself (docs/decisions.md, 7).
rtnl:                       golang.org/x/sys/unix internal/netns
rtnl/rtnltest:              rtnl internal/netns golang.org/x/sys/unix github.com/google/go-cmp

# Concerns never import each other; composition is done in cmd and examples.
bridge:                     rtnl internal
veth:                       rtnl internal
vxlan:                      rtnl internal
hostgw:                     rtnl internal

# google/nftables reads what knftables wrote without a fork; knftables itself compiles it in.
masq:                       sigs.k8s.io/knftables github.com/coreos/go-iptables github.com/google/nftables github.com/mdlayher/netlink golang.org/x/sys/unix internal
masq/masqtest:              masq github.com/google/go-cmp internal

# The root of Services thinks; each dataplane brings its kernel, and service/kube Kubernetes. A project that imports one inherits no other.
service:                    internal
service/servicetest:        service internal github.com/google/go-cmp
service/kube:               service internal k8s.io/api k8s.io/apimachinery k8s.io/client-go
service/nft:                service internal github.com/google/nftables golang.org/x/sys/unix
service/ipvs:               service rtnl internal github.com/moby/ipvs github.com/google/nftables golang.org/x/sys/unix
service/ipvs/ipvstest:      internal/nfnl/nfnltest rtnl/rtnltest service/servicetest service internal rtnl github.com/google/go-cmp
service/iptables:           service internal github.com/coreos/go-iptables golang.org/x/sys/unix
service/iptables/iptablestest: service/servicetest service github.com/google/go-cmp
service/conntrack:          internal golang.org/x/sys/unix
service/conntrack/conntracktest: service/conntrack github.com/google/go-cmp
service/internal/flowtable: service/servicetest service internal k8s.io/api k8s.io/apimachinery sigs.k8s.io/yaml
service/internal/wire:      service/servicetest service rtnl/rtnltest rtnl internal golang.org/x/sys/unix

# What two concerns share and no user needs.
internal/reconcile:         rtnl
internal/check:             rtnl
internal/peers:             rtnl internal/reconcile internal/check
internal/netns:             golang.org/x/sys/unix
internal/subnetenv:         golang.org/x/sys/unix internal
internal/netlock:           golang.org/x/sys/unix
internal/descfiles:         github.com/fsnotify/fsnotify
internal/docstest:          github.com/google/go-cmp github.com/prometheus/client_golang github.com/spf13/pflag sigs.k8s.io/yaml
internal/nfnl:              golang.org/x/sys/unix github.com/google/nftables github.com/mdlayher/netlink internal

# The edge may import anything, but not a sibling command.
cmd:                        *
deploy:                     *
examples:                   *
examples/internal/viptest:  rtnl/rtnltest rtnl
test:                       *
deploy:                     *
`

// allowedBy returns what a package may import besides std, or false if the law does not know it. The longest matching line counts.
func allowedBy(rules map[string][]string, pkg string) ([]string, bool) {
	for name := pkg; ; {
		if allowed, ok := rules[name]; ok {
			return allowed, true
		}
		i := strings.LastIndex(name, "/")
		if i < 0 {
			return nil, false
		}
		name = name[:i]
		if name == "internal" {
			return nil, false
		}
	}
}

func parseLaw(t *testing.T) map[string][]string {
	t.Helper()
	rules := map[string][]string{}
	for line := range strings.Lines(law) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, allowed, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("law: %q has no colon", line)
		}
		rules[name] = strings.Fields(allowed)
	}
	return rules
}

func TestImportLaw(t *testing.T) {
	rules := parseLaw(t)
	for _, goos := range []string{"linux", "darwin"} {
		for _, p := range listPackages(t, goos) {
			name := strings.TrimPrefix(p.ImportPath, module+"/")
			if name == module {
				continue
			}
			allowed, ok := allowedBy(rules, name)
			if !ok {
				t.Errorf("%s has no line in the law of imports: which room is it?", name)
				continue
			}
			for _, imp := range p.Imports {
				if !permitted(allowed, imp) {
					t.Errorf("%s (GOOS=%s) may not import %s", name, goos, imp)
				}
			}
		}
	}
}

func permitted(allowed []string, imp string) bool {
	local, ours := strings.CutPrefix(imp, module+"/")
	if first, _, _ := strings.Cut(imp, "/"); !ours && !strings.Contains(first, ".") {
		return true // the standard library
	}
	for _, a := range allowed {
		if a == "*" || imp == a || strings.HasPrefix(imp, a+"/") || ours && (local == a || strings.HasPrefix(local, a+"/")) {
			return !strings.HasSuffix(local, "test") || a == local
		}
	}
	return false
}

// TestRootsStayLight proves the promise of the law's first lines with the transitive imports.
func TestRootsStayLight(t *testing.T) {
	for _, root := range []string{"ipam", "service"} {
		out, err := exec.Command("go", "list", "-deps", "./"+root).Output()
		if err != nil {
			t.Fatal(err)
		}
		for imp := range strings.FieldsSeq(string(out)) {
			first, _, _ := strings.Cut(imp, "/")
			if strings.Contains(first, ".") && imp != module+"/"+root {
				t.Errorf("%s compiles %s in", root, imp)
			}
		}
	}
}

type listed struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T, goos string) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Env = append(cmd.Environ(), "GOOS="+goos)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var ps []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return ps
		}
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}
