package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"sigs.k8s.io/yaml"
)

// Ports that pods serve Services on.
const (
	webPort     = 8080 // TCP: HTTP. UDP: sends back. Both answer with the pod's name and the client's address first.
	ingressPort = 8000 // TCP: HTTP, the reverse proxy
	namePort    = 5353 // UDP: DNS
)

// serviceNamespace is the one of all Services of the lab.
const serviceNamespace = "lab"

var (
	serviceCIDRs = prefixes("10.96.0.0/16", "fd00:10:96::/112")     // as those of the control plane
	balancerIPs  = prefixes("198.51.100.0/24", "2001:db8:100::/64") // of Services of type LoadBalancer (RFC 5737, RFC 3849)
	affinityTime = 3 * 60 * 60                                      // seconds; Kubernetes' default
)

// labService is a Service of the lab and its endpoints.
type labService struct {
	name     string
	number   int // the last byte of its addresses
	ports    []servicePort
	balanced bool // it has the IP of a load balancer
	local    bool // externalTrafficPolicy
	sticky   bool // sessionAffinity
	sources  []netip.Prefix
	members  []*pod // its endpoints, as long as they are there

	nodePort, healthPort uint16 // 0 is none
}

type servicePort struct {
	name, protocol string
	port, target   uint16
}

// Services, by what they show.
type labServices struct {
	web     *labService // everything, on all pods
	local   *labService // externalTrafficPolicy Local, no endpoint on the last node
	sticky  *labService // sessionAffinity
	names   *labService // a name service over UDP
	ingress *labService // one pod: the reverse proxy in front of web
	self    *labService // one pod, which asks itself
	empty   *labService // no endpoint
	guarded *labService // loadBalancerSourceRanges
}

func (s labServices) all() []*labService {
	return []*labService{s.web, s.local, s.sticky, s.names, s.ingress, s.self, s.empty, s.guarded}
}

// mostMembers bounds the endpoints of a Service in large labs, so that a few hundred requests reach all of them.
const mostMembers = 12

// planServices returns the Services of the lab. The pods are planned; they need no addresses yet.
func (t *topology) planServices() labServices {
	all, first, last := t.pods(), t.nodes[0], t.nodes[len(t.nodes)-1]
	if len(all) > mostMembers {
		few := make([]*pod, mostMembers)
		for i := range few {
			few[i] = all[i*len(all)/mostMembers]
		}
		all = few
	}
	web := []servicePort{{"http", "TCP", 80, webPort}, {"echo", "UDP", 80, webPort}}
	notLast := slices.DeleteFunc(slices.Clone(all), func(p *pod) bool { return p.node == last && last != first })
	names := []*pod{first.pods[0]}
	if last != first {
		names = append(names, last.pods[0])
	}
	var outside []netip.Prefix
	for _, a := range t.outside.ports[0].addrs {
		outside = append(outside, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	return labServices{
		web:     &labService{name: "web", number: 20, ports: web, nodePort: 30080, balanced: true, members: all},
		local:   &labService{name: "local", number: 21, ports: web, nodePort: 30081, balanced: true, local: true, healthPort: 30181, members: notLast},
		sticky:  &labService{name: "sticky", number: 22, ports: web, nodePort: 30082, sticky: true, members: all},
		names:   &labService{name: "names", number: 10, ports: []servicePort{{"dns", "UDP", 53, namePort}}, members: names},
		ingress: &labService{name: "ingress", number: 23, ports: []servicePort{{"http", "TCP", 80, ingressPort}}, nodePort: 30083, members: []*pod{last.pods[0]}},
		self:    &labService{name: "self", number: 24, ports: web, members: []*pod{first.pods[0]}},
		empty:   &labService{name: "empty", number: 25, ports: web, nodePort: 30085},
		guarded: &labService{name: "guarded", number: 26, ports: web, nodePort: 30086, balanced: true, sources: outside, members: all},
	}
}

// on reports whether the Service has an endpoint on a node.
func (s *labService) on(n *node) bool {
	return slices.ContainsFunc(s.members, func(p *pod) bool { return p.node == n })
}

// addr returns the Service's address in one of the ranges.
func (s *labService) addr(ranges []netip.Prefix, v6 bool) netip.Addr {
	return segment{prefixes: ranges}.host(v6, s.number).Addr()
}

func (s *labService) clusterIP(v6 bool) netip.AddrPort {
	return netip.AddrPortFrom(s.addr(serviceCIDRs, v6), s.ports[0].port)
}

func (s *labService) balancerIP(v6 bool) netip.AddrPort {
	return netip.AddrPortFrom(s.addr(balancerIPs, v6), s.ports[0].port)
}

func (s *labService) nodePortOf(n *node, v6 bool) netip.AddrPort {
	return netip.AddrPortFrom(n.addr(v6), s.nodePort)
}

// object returns the Service as Kubernetes has it.
func (s *labService) object(families []bool) object {
	var ips, names []string
	var ingress []object
	for _, v6 := range families {
		ips, names = append(ips, s.clusterIP(v6).Addr().String()), append(names, familyName(v6))
		ingress = append(ingress, object{"ip": s.balancerIP(v6).Addr().String(), "ipMode": "VIP"})
	}
	var ports []object
	for _, p := range s.ports {
		port := object{"name": p.name, "protocol": p.protocol, "port": p.port, "targetPort": p.target}
		if s.nodePort != 0 {
			port["nodePort"] = s.nodePort
		}
		ports = append(ports, port)
	}
	spec := object{"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": names, "ports": ports, "ipFamilyPolicy": "SingleStack"}
	if len(families) > 1 {
		spec["ipFamilyPolicy"] = "RequireDualStack"
	}
	if s.nodePort != 0 {
		spec["type"] = "NodePort"
	}
	o := object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": s.name, "namespace": serviceNamespace}, "spec": spec}
	if s.balanced {
		spec["type"], o["status"] = "LoadBalancer", object{"loadBalancer": object{"ingress": ingress}}
	}
	if len(s.sources) > 0 {
		spec["loadBalancerSourceRanges"] = s.sources
	}
	if s.local {
		spec["externalTrafficPolicy"] = "Local"
		spec["healthCheckNodePort"] = s.healthPort
	}
	if s.sticky {
		spec["sessionAffinity"] = "ClientIP"
		spec["sessionAffinityConfig"] = object{"clientIP": object{"timeoutSeconds": affinityTime}}
	}
	return o
}

// slice returns the EndpointSlice of a family.
func (s *labService) slice(v6 bool) object {
	var ports []object
	for _, p := range s.ports {
		ports = append(ports, object{"name": p.name, "protocol": p.protocol, "port": p.target})
	}
	endpoints := []object{}
	for _, p := range s.members {
		if p.life == gone {
			continue
		}
		endpoints = append(endpoints, object{
			"addresses": []string{p.addr(v6).String()}, "nodeName": p.node.name,
			"conditions": object{"ready": p.life == alive, "serving": true, "terminating": p.life == leaving},
		})
	}
	return object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": familyName(v6), "ports": ports, "endpoints": endpoints,
		"metadata": object{"name": s.sliceName(v6), "namespace": serviceNamespace, "labels": object{"kubernetes.io/service-name": s.name}},
	}
}

func (s *labService) sliceName(v6 bool) string {
	if v6 {
		return s.name + "-ipv6"
	}
	return s.name + "-ipv4"
}

// change has pods live on, be deleted or come back, and tells the proxies: through the API server if there is one, else through files.
func (l *lab) change(ctx context.Context, to life, pods ...*pod) error {
	for _, p := range pods {
		p.life = to
		if l.cluster != nil {
			if err := l.cluster.changePod(ctx, p, l.services); err != nil {
				return err
			}
		}
	}
	if l.cluster != nil {
		return nil
	}
	for _, s := range l.services.all() {
		if slices.ContainsFunc(s.members, func(p *pod) bool { return slices.Contains(pods, p) }) {
			if err := l.writeService(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeService writes the file of a Service and its endpoints.
func (l *lab) writeService(s *labService) error {
	documents := []object{s.object(l.families())}
	for _, v6 := range l.families() {
		documents = append(documents, s.slice(v6))
	}
	return l.writeObjects(s.name, documents...)
}

// writeObjects replaces a file of the directory that the proxies watch, at once, so that none reads half of it.
func (l *lab) writeObjects(name string, objects ...object) error {
	var file []byte
	for _, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			return fmt.Errorf("%s.yaml: %w", name, err)
		}
		file = append(append(file, "---\n"...), data...)
	}
	temporary := l.path("new-" + name)
	if err := os.WriteFile(temporary, file, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, l.path("services", name+".yaml"))
}
