package service

import (
	"net/netip"
	"strings"
	"testing"
)

// parseEndpoint reads "10.1.2.3 local zones=a,b nodes=n": an endpoint that is ready, or "unready", "draining" (terminating, still serving) or "dead" (terminating, not serving).
func parseEndpoint(t *testing.T, text string) Endpoint {
	t.Helper()
	words := strings.Fields(text)
	e := Endpoint{Addr: addr(words[0]), Node: "elsewhere"}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "local":
			e.Node = "this-node"
		case "zones":
			e.ForZones = MakeNames(strings.Split(value, ",")...)
		case "nodes":
			e.ForNodes = MakeNames(strings.Split(value, ",")...)
		case "unready":
			e.NotReady, e.NotServing = true, true
		case "draining":
			e.NotReady, e.Terminating = true, true
		case "dead":
			e.NotReady, e.NotServing, e.Terminating = true, true, true
		default:
			t.Fatalf("%q in %q", w, text)
		}
	}
	return e
}

// TestTopology is kube-proxy's TestCategorizeEndpoints (pkg/proxy/topology_test.go, v1.36.3) on the plan, without the case for a feature gate that is gone.
func TestTopology(t *testing.T) {
	const internal, external, nodePort = "internal ", "external ", "nodePort "
	zones := []string{"10.1.2.3 zones=zone-a", "10.1.2.4 zones=zone-b", "10.1.2.5 zones=zone-c", "10.1.2.6 zones=zone-a"}
	here := []string{"10.1.2.3 zones=zone-a local", "10.1.2.4 zones=zone-b local", "10.1.2.5 zones=zone-c", "10.1.2.6 zones=zone-a"}
	nodes := []string{"10.1.2.3 zones=zone-a nodes=node-1", "10.1.2.4 zones=zone-b nodes=node-2", "10.1.2.5 zones=zone-c nodes=node-3", "10.1.2.6 zones=zone-a nodes=node-4"}
	oneLocal := []string{"10.0.0.0 local", "10.0.0.1"}
	allRemote := []string{"10.0.0.0", "10.0.0.1"}
	for _, c := range []struct {
		name           string
		node, zone     string // the node's name is "this-node" if it does not matter
		service        string // "internal" and "external": that policy is Local; "nodePort": it has one
		endpoints      []string
		cluster, local string // last numbers of the addresses
		rejects        bool   // nobody serves anywhere
	}{
		{name: "all have hints, the node a zone, and some are for that zone", zone: "zone-a", endpoints: zones, cluster: "3 6"},
		{name: "externalTrafficPolicy Local ignores topology", zone: "zone-a", service: external + nodePort, endpoints: here, cluster: "3 6", local: "3 4"},
		{name: "internalTrafficPolicy Local ignores topology", zone: "zone-a", service: internal + nodePort, endpoints: here, cluster: "3 6", local: "3 4"},
		{name: "no zone label", endpoints: []string{"10.1.2.3 zones=zone-a"}, cluster: "3"},
		{name: "empty zone label", zone: "", endpoints: []string{"10.1.2.3 zones=zone-a"}, cluster: "3"},
		{name: "node in another zone, no filtering", zone: "zone-b", endpoints: []string{"10.1.2.3 zones=zone-a"}, cluster: "3"},
		{name: "an unready endpoint", zone: "zone-a", endpoints: append(zones[:3:3], "10.1.2.6 zones=zone-a unready"), cluster: "3"},
		{name: "only unready endpoints in the zone, no filtering", zone: "zone-a",
			endpoints: []string{"10.1.2.3 zones=zone-a unready", zones[1], zones[2], "10.1.2.6 zones=zone-a unready"}, cluster: "4 5"},
		{name: "a hint is missing, no filtering", zone: "zone-a", endpoints: []string{zones[0], zones[1], "10.1.2.5", zones[3]}, cluster: "3 4 5 6"},
		{name: "several hints per endpoint", zone: "zone-c",
			endpoints: []string{"10.1.2.3 zones=zone-a,zone-b,zone-c", "10.1.2.4 zones=zone-b,zone-c", "10.1.2.5 zones=zone-b,zone-d", "10.1.2.6 zones=zone-c"}, cluster: "3 4 6"},
		{name: "PreferSameNode", node: "node-1", zone: "zone-a", endpoints: nodes, cluster: "3"},
		{name: "PreferSameNode, some have no hint", node: "node-1", zone: "zone-a", endpoints: []string{nodes[0], "10.1.2.4", nodes[2], nodes[3]}, cluster: "3 4 5 6"},
		{name: "PreferSameNode, none for this node: PreferSameZone", node: "node-0", zone: "zone-a", endpoints: nodes, cluster: "3 6"},
		{name: "topology and locality differ", zone: "zone-a", service: external + nodePort,
			endpoints: []string{"10.0.0.0 zones=zone-a local", "10.0.0.1 zones=zone-b local", "10.0.0.2 zones=zone-a", "10.0.0.3 zones=zone-b"}, cluster: "0 2", local: "0 1"},
		{name: "internal Local, no endpoints", service: internal, rejects: true},
		{name: "internal Local, all remote", service: internal, endpoints: allRemote},
		{name: "internal Local, all local", service: internal, endpoints: []string{"10.0.0.0 local", "10.0.0.1 local"}, local: "0 1"},
		{name: "internal Local, some local", service: internal, endpoints: oneLocal, local: "0"},
		{name: "not ready", endpoints: []string{"10.0.0.0 unready", "10.0.0.1 unready"}, rejects: true},
		{name: "some ready", endpoints: []string{"10.0.0.0 unready", "10.0.0.1"}, cluster: "1"},
		{name: "all terminating", endpoints: []string{"10.0.0.0 draining local", "10.0.0.1 draining"}, cluster: "0 1"},
		{name: "internal Local, external Cluster, some local", service: internal + nodePort, endpoints: oneLocal, cluster: "0 1", local: "0"},
		{name: "internal Cluster, external Local, some local", service: external + nodePort, endpoints: oneLocal, cluster: "0 1", local: "0"},
		{name: "both Local, some local", service: internal + external + nodePort, endpoints: oneLocal, cluster: "0 1", local: "0"},
		{name: "both Local, all remote", service: internal + external + nodePort, endpoints: allRemote, cluster: "0 1"},
		{name: "both Local, all remote and terminating", service: internal + external + nodePort, endpoints: []string{"10.0.0.0 draining", "10.0.0.1 draining"}, cluster: "0 1"},
		{name: "external Local, terminating ones", service: external + nodePort,
			endpoints: []string{"10.0.0.0", "10.0.0.1 unready local", "10.0.0.2 draining local", "10.0.0.3 draining"}, cluster: "0", local: "2"},
		{name: "external Local but nothing external", service: external, endpoints: []string{"10.0.0.0", "10.0.0.1 local"}, cluster: "0 1"},
		{name: "internal Local and nothing external: no cluster endpoints", service: internal, endpoints: []string{"10.0.0.0", "10.0.0.1 local"}, local: "1"},
		{name: "no endpoints", rejects: true},
		{name: "one that is nothing", zone: "zone-a", endpoints: []string{"10.0.0.0 unready"}, rejects: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := Node{Name: c.node, Zone: c.zone}
			if c.node == "" {
				node.Name = "this-node"
			}
			s := simple("web", func(s *Service) {
				if strings.Contains(c.service, internal) {
					s.InternalPolicy = Local
				}
				if strings.Contains(c.service, external) {
					s.ExternalPolicy = Local
				}
				if strings.Contains(c.service, nodePort) {
					s.Ports[0].NodePort = 8080
				}
			})
			slice := Slice{Ports: []EndpointPort{{Protocol: TCP, Port: 80}}}
			for _, e := range c.endpoints {
				slice.Endpoints = append(slice.Endpoints, parseEndpoint(t, e))
			}
			p, _ := plan(node, s, endpointSlices{slices: []*held{hold(slice)}}, func(netip.Addr) bool { return false })
			port := p.Ports[0]
			if got := lastNumbers(port.Cluster); got != c.cluster {
				t.Errorf("cluster %q, want %q", got, c.cluster)
			}
			if got := lastNumbers(port.Local); got != c.local {
				t.Errorf("local %q, want %q", got, c.local)
			}
			if got := port.Frontends[0].Pod.Action == Reject; got != c.rejects {
				t.Errorf("rejects %t, want %t", got, c.rejects)
			}
		})
	}
}

func lastNumbers(backends []Backend) string {
	var numbers []string
	for _, b := range backends {
		a := b.Addr.Addr().String()
		numbers = append(numbers, a[strings.LastIndexByte(a, '.')+1:])
	}
	return strings.Join(numbers, " ")
}
