package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/ipam"
)

// options are the command line.
type options struct {
	nodes, pods int
	backend     string // vxlan or host-gw
	family      string // dual, ipv4 or ipv6
	proxy       string // nftables, ipvs, iptables; none is without Services
	checks      string // all or services
	slow        int    // how many times slower the machine is: of limits of time
	keep, json  bool
	bin         string

	kubernetes bool
	deploy     string // directory of the manifests
}

var proxyModes = []string{"nftables", "ipvs", "iptables", "none"}

func (o options) validate() error {
	switch {
	case o.nodes < 1 || o.nodes > 50:
		return fmt.Errorf("--nodes %d: allowed are 1 to 50", o.nodes)
	case o.pods < 1 || o.pods > 50:
		return fmt.Errorf("--pods %d: allowed are 1 to 50 per node", o.pods)
	case o.backend != "vxlan" && o.backend != "host-gw":
		return fmt.Errorf("--backend %q: allowed are vxlan and host-gw", o.backend)
	case o.family != "dual" && o.family != "ipv4" && o.family != "ipv6":
		return fmt.Errorf("--family %q: allowed are dual, ipv4 and ipv6", o.family)
	case !slices.Contains(proxyModes, o.proxy):
		return fmt.Errorf("--proxy %q: allowed are %s", o.proxy, strings.Join(proxyModes, ", "))
	case o.checks != "all" && o.checks != "services":
		return fmt.Errorf("--checks %q: allowed are all and services", o.checks)
	case o.slow < 1 || o.slow > 100:
		return fmt.Errorf("--slow %d: allowed are 1 to 100", o.slow)
	case o.checks == "services" && o.proxy == "none":
		return errors.New("--checks services: needs another --proxy than none")
	}
	return nil
}

// times returns how long something may take, or has to, on this machine.
func (o options) times(d time.Duration) time.Duration { return d * time.Duration(o.slow) }

// Underlay address plan. The outside host lives in documentation ranges (RFC 5737, RFC 3849).
var (
	segmentA = segment{name: "segment-a", prefixes: prefixes("192.168.10.0/24", "fd00:192:168:10::/64")}
	segmentB = segment{name: "segment-b", prefixes: prefixes("192.168.20.0/24", "fd00:192:168:20::/64")}
	internet = segment{name: "internet", prefixes: prefixes("203.0.113.0/24", "2001:db8:113::/64")}
	controls = segment{name: "control", prefixes: prefixes("192.168.30.0/24", "fd00:192:168:30::/64")} // with --kubernetes

	clusterCIDRs = prefixes("10.244.0.0/16", "fd00:10:244::/56")
)

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// segment is one layer-2 network of the underlay.
type segment struct {
	name     string
	prefixes []netip.Prefix // IPv4, IPv6
}

// host returns the n-th address of the segment for one family.
func (s segment) host(ipv6 bool, n int) netip.Prefix {
	p := s.prefixes[0]
	if ipv6 {
		p = s.prefixes[1]
	}
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(n)
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, p.Bits())
}

// machine is a network namespace that plays a host: a node, the router, the outside host or the one with the control plane.
type machine struct {
	name  string
	netns string // path
	ports []port
}

// port is an interface of a machine on a segment.
type port struct {
	ifname string
	on     segment
	addrs  []netip.Prefix
}

// addr returns the machine's address of a family on its first port.
func (m *machine) addr(ipv6 bool) netip.Addr { return find(m.ports[0].addrs, ipv6) }

type node struct {
	machine
	dir      string // the node's files: subnet.env, conflist, leases, agent state
	podCIDRs []netip.Prefix
	pods     []*pod
	agent    *process
	proxy    *process

	registered time.Time // when its Node was made; with --kubernetes
}

type pod struct {
	name  string
	node  *node
	netns string
	addrs []netip.Prefix
	mtu   int

	server *podServer // if it is an endpoint
	life   life
}

// life is how far a pod has come.
type life uint8

const (
	alive   life = iota
	leaving      // it is being deleted, and still serves
	gone
)

func (p *pod) addr(ipv6 bool) netip.Addr { return find(p.addrs, ipv6) }

func find(ps []netip.Prefix, ipv6 bool) netip.Addr {
	for _, p := range ps {
		if p.Addr().Is6() == ipv6 {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// topology is the whole lab as planned; nothing in it has touched the kernel yet.
type topology struct {
	options
	id      string // prefix of every namespace of this run
	dir     string // files of this run
	lan     string // netns path of the switches
	router  machine
	outside machine

	balancer machine // in front of the cluster
	control  machine // with --kubernetes
	nodes    []*node
}

// families lists the families in use: false is IPv4, true is IPv6.
func (o options) families() []bool {
	switch o.family {
	case "ipv4":
		return []bool{false}
	case "ipv6":
		return []bool{true}
	}
	return []bool{false, true}
}

// newTopology plans addresses and names. With VXLAN the last of three or more nodes stands behind the router; host-gw needs all nodes on one segment.
func newTopology(o options, id, dir string) (*topology, error) {
	t := &topology{options: o, id: id, dir: dir, lan: netns.Path(id + "-lan")}
	t.router = machine{name: "router", netns: netns.Path(id + "-router")}
	for i, s := range []segment{segmentA, segmentB, internet} {
		t.router.ports = append(t.router.ports, t.port("eth"+strconv.Itoa(i), s, 1))
	}
	t.outside = machine{name: "outside", netns: netns.Path(id + "-outside"), ports: []port{t.port("eth0", internet, 10)}}
	t.balancer = machine{name: "balancer", netns: netns.Path(id + "-balancer"), ports: []port{t.port("eth0", internet, 20)}}

	if o.kubernetes {
		t.router.ports = append(t.router.ports, t.port("eth3", controls, 1))
		t.control = machine{name: "control", netns: netns.Path(id + "-control"), ports: []port{t.port("eth0", controls, 10)}}
	}

	podCIDRs, err := ipam.NewNodeAllocator(ipam.NodeConfig{ClusterCIDRs: o.clusterCIDRs()})
	if err != nil {
		return nil, err
	}
	for i := range o.nodes {
		on := segmentA
		if o.backend == "vxlan" && o.nodes >= 3 && i == o.nodes-1 {
			on = segmentB
		}
		n := t.plan(i, on)
		if !o.kubernetes { // there kube-controller-manager does it
			if n.podCIDRs, err = podCIDRs.Allocate(n.name); err != nil {
				return nil, err
			}
		}
		t.nodes = append(t.nodes, n)
	}
	return t, nil
}

// plan returns the i-th node, with pods that have no addresses yet.
func (t *topology) plan(i int, on segment) *node {
	name := "node-" + letters(i)
	n := &node{
		machine: machine{name: name, netns: netns.Path(t.id + "-" + name), ports: []port{t.port("eth0", on, 11+i)}},
		dir:     filepath.Join(t.dir, name),
	}
	for j := range t.options.pods {
		p := "pod-" + letters(i) + strconv.Itoa(j+1)
		n.pods = append(n.pods, &pod{name: p, node: n, netns: netns.Path(t.id + "-" + p)})
	}
	return n
}

// clusterCIDRs are the networks of the pods, of the families in use.
func (o options) clusterCIDRs() []netip.Prefix {
	var ps []netip.Prefix
	for _, v6 := range o.families() {
		ps = append(ps, clusterCIDRs[index(v6)])
	}
	return ps
}

func (t *topology) port(ifname string, s segment, n int) port {
	p := port{ifname: ifname, on: s}
	for _, v6 := range t.families() {
		p.addrs = append(p.addrs, s.host(v6, n))
	}
	return p
}

func (t *topology) pods() []*pod {
	var all []*pod
	for _, n := range t.nodes {
		all = append(all, n.pods...)
	}
	return all
}

// behindRouter reports whether two nodes reach each other only through the router.
func behindRouter(a, b *node) bool { return a.ports[0].on.name != b.ports[0].on.name }

// letters names the i-th node: a, b, ... z, aa, ab, ...
func letters(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return letters(i/26-1) + letters(i%26)
}

func index(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}
