package nft

import (
	"testing"
	"time"

	"github.com/podnet/podnet/service"
)

// FuzzClassName: different classes have different names, and the kernel and nft take each of them.
func FuzzClassName(f *testing.F) {
	f.Add(uint8(0), uint8(0), uint8(0), uint32(1), uint32(2), uint32(0), uint8(0), uint8(1), uint8(0), uint32(1), uint32(2), uint32(0))
	f.Fuzz(func(t *testing.T, a, b, c uint8, n, m, s uint32, d, e, g uint8, o, p, u uint32) {
		x, y := fuzzed(a, b, c, n, m, s), fuzzed(d, e, g, o, p, u)
		for _, one := range []class{x, y} {
			name := one.name()
			if len(name)+len("/host") > 127 { // NFT_CHAIN_MAXNAMELEN
				t.Errorf("%q has %d bytes", name, len(name))
			}
			if first := name[0]; first < 'a' || first > 'z' {
				t.Errorf("%q does not begin with a letter", name)
			}
			for _, r := range name {
				if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '/') {
					t.Errorf("%q has %q", name, r)
				}
			}
		}
		if (x == y) != (x.name() == y.name()) {
			t.Errorf("%+v is %q, %+v is %q", x, x.name(), y, y.name())
		}
	})
}

// fuzzed makes a class as classOf does.
func fuzzed(pod, host, remote uint8, cluster, local, seconds uint32) class {
	route := func(n uint8) service.Route {
		r := service.Route{Action: service.Action(n % 4)}
		r.Masquerade = n&4 != 0 && (r.Action == service.ToCluster || r.Action == service.ToLocal)
		return r
	}
	p := &service.PortProgram{Affinity: time.Duration(seconds%86401) * time.Second}
	x := &service.Frontend{Kind: service.Kind(pod >> 6), Pod: route(pod), Host: route(host), Remote: route(remote)}
	n := &service.Node{}
	if host&8 != 0 {
		n.LocalPods.Interface = "cni0"
	}
	p.Cluster, p.Local = make([]service.Backend, cluster%1000), make([]service.Backend, local%1000)
	f := families()[0]
	return classOf(&f, n, p, x)
}

// TestTableName: instances have tables of their own, with names that the kernel takes, whatever they are called.
func TestTableName(t *testing.T) {
	seen := map[string]string{}
	for _, instance := range []string{"", "a", "b", "A", "a ", "podnet-service", string(make([]byte, 1000)), "ä", "\xff", "; flush ruleset"} {
		name := tableName(instance)
		if was, there := seen[name]; there || len(name) > 40 {
			t.Errorf("%q and %q are %q", instance, was, name)
		}
		seen[name] = instance
	}
	if tableName("") != "podnet-service" {
		t.Error(tableName(""))
	}
}
