package servicefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/podnet/podnet/service"
)

// short is the short form of a Service with its endpoints.
type short struct {
	Service               string          `json:"service"`
	Addresses             []string        `json:"addresses"`
	ExternalIPs           []string        `json:"externalIPs"`
	LoadBalancerIPs       []string        `json:"loadBalancerIPs"`
	SourceRanges          []string        `json:"loadBalancerSourceRanges"`
	Ports                 []shortPort     `json:"ports"`
	Endpoints             []shortEndpoint `json:"endpoints"`
	InternalTrafficPolicy string          `json:"internalTrafficPolicy"`
	ExternalTrafficPolicy string          `json:"externalTrafficPolicy"`
	Affinity              string          `json:"affinity"` // a duration
	HealthCheckNodePort   uint16          `json:"healthCheckNodePort"`
	Scheduler             string          `json:"scheduler"`
}

type shortPort struct {
	Name       string `json:"name"`
	Protocol   string `json:"protocol"` // "" is TCP
	Port       uint16 `json:"port"`
	TargetPort uint16 `json:"targetPort"` // 0 is Port
	NodePort   uint16 `json:"nodePort"`
}

// shortEndpoint is an address, or an object that says more.
type shortEndpoint struct {
	Address     string `json:"address"`
	Node        string `json:"node"`
	Ready       *bool  `json:"ready"`
	Terminating bool   `json:"terminating"`
}

// UnmarshalJSON takes both forms.
func (e *shortEndpoint) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &e.Address)
	}
	type plain shortEndpoint
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode((*plain)(e))
}

func decodeShort(text []byte, name string) (key string, objects []object, err error) {
	if name == "" {
		return "", nil, errors.New("says neither kind nor service: want a Service or EndpointSlice of Kubernetes, or the short form with service: name")
	}
	namespace, rest, ok := strings.Cut(name, "/")
	if !ok {
		namespace, rest = "default", name
	}
	key = "Service " + namespace + "/" + rest
	var in short
	if err := strict(text, &in); err != nil {
		return key, nil, err
	}
	of := service.Name{Namespace: namespace, Name: rest}
	if namespace == "" || rest == "" || strings.Contains(rest, "/") || len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return key, nil, fmt.Errorf("service %q: want name or namespace/name", name)
	}
	s, endpoints, err := in.convert(of)
	if err != nil {
		return key, nil, err
	}
	// "short" cannot be the name of an EndpointSlice of the same Service in another document: those have no space.
	return key, []object{{key: key, service: &s}, {key: "endpoints of " + key, slice: &slice{of, "short form", endpoints}}}, nil
}

// faults collects what is wrong, with field and value.
type faults []error

func (f *faults) add(field string, value any, want string) {
	*f = append(*f, fmt.Errorf("%s %q: want %s", field, fmt.Sprint(value), want))
}

func (f *faults) addrs(field string, in []string) (out []netip.Addr) {
	for _, s := range in {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			f.add(field, s, "an IP address")
		}
		out = append(out, a)
	}
	return out
}

func (f *faults) policy(field, s string) service.TrafficPolicy {
	switch s {
	case "Local":
		return service.Local
	case "", "Cluster":
	default:
		f.add(field, s, "Cluster or Local")
	}
	return service.Cluster
}

func (in short) convert(of service.Name) (service.Service, service.Slice, error) {
	var f faults
	s := service.Service{
		Name: of, ClusterIPs: f.addrs("addresses", in.Addresses), ExternalIPs: f.addrs("externalIPs", in.ExternalIPs), LoadBalancerIPs: f.addrs("loadBalancerIPs", in.LoadBalancerIPs),
		InternalPolicy: f.policy("internalTrafficPolicy", in.InternalTrafficPolicy), ExternalPolicy: f.policy("externalTrafficPolicy", in.ExternalTrafficPolicy),
		HealthCheckNodePort: in.HealthCheckNodePort, Scheduler: in.Scheduler,
	}
	for _, text := range in.SourceRanges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			f.add("loadBalancerSourceRanges", text, "a CIDR such as 192.0.2.0/24")
		}
		s.SourceRanges = append(s.SourceRanges, p)
	}
	if in.Affinity != "" {
		d, err := time.ParseDuration(in.Affinity)
		if err != nil || d < time.Second || d > 24*time.Hour || d%time.Second != 0 {
			f.add("affinity", in.Affinity, "whole seconds from 1s to 24h")
		}
		s.Affinity = d
	}
	if len(in.Addresses) == 0 {
		f.add("addresses", "", "at least one: the addresses at which the Service is reached")
	}
	if len(in.Ports) == 0 {
		f.add("ports", "", "at least one")
	}
	endpoints := in.ports(&f, &s)
	for _, e := range in.Endpoints {
		one := service.Endpoint{Node: e.Node, NotReady: e.Ready != nil && !*e.Ready || e.Terminating, Terminating: e.Terminating}
		one.NotServing = e.Ready != nil && !*e.Ready
		if a := f.addrs("endpoints", []string{e.Address}); len(a) > 0 {
			one.Addr = a[0]
		}
		endpoints.Endpoints = append(endpoints.Endpoints, one)
	}
	return s, endpoints, errors.Join(f...)
}

func protocolOf(s string) (p service.Protocol, ok bool) {
	switch s {
	case "", "TCP":
		return service.TCP, true
	case "UDP":
		return service.UDP, true
	case "SCTP":
		return service.SCTP, true
	}
	return 0, false
}

func (in short) ports(f *faults, s *service.Service) (endpoints service.Slice) {
	for _, p := range in.Ports {
		protocol, ok := protocolOf(p.Protocol)
		if !ok {
			f.add("ports.protocol", p.Protocol, "TCP, UDP or SCTP")
		}
		if p.Port == 0 {
			f.add("ports.port", p.Port, "1 to 65535")
		}
		target := p.TargetPort
		if target == 0 {
			target = p.Port
		}
		s.Ports = append(s.Ports, service.Port{Name: p.Name, Protocol: protocol, Port: p.Port, NodePort: p.NodePort})
		endpoints.Ports = append(endpoints.Ports, service.EndpointPort{Name: p.Name, Protocol: protocol, Port: target})
	}
	return endpoints
}
