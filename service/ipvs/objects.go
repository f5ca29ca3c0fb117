package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podnet/podnet/service"
)

// set is one of the sets and maps of our nftables table.
type set uint8

const (
	// frontends has every virtual server of ours that is an address, and marks every one that is a mark: what stands in neither is not ours. Their data are the
	// classes of clients (maskPod, ...) whose source is translated; that of marks also has the protocol.
	frontends set = iota // address . protocol . port : classes
	marks                // mark : classes

	// By class of client: the mark that leads to another virtual server than the one at the address, and what is dropped. NodePorts have the address zero.
	podMarks    // address . protocol . port : mark
	hostMarks   //
	remoteMarks //
	podDrops    // address . protocol . port
	hostDrops   //
	remoteDrops //

	restricted // address . protocol . port: only sources may
	sources    // address . protocol . port . prefix length . prefix
	hairpin    // address . address, of endpoints on this node
	vips       // address: made local by us

	sets
)

// Classes of clients, as bits in the data of frontends and marks.
const (
	maskPod    = 1 << 0
	maskHost   = 1 << 1
	maskRemote = 1 << 2

	protocolShift = 8 // in the data of marks
)

// classes are the three routes of a frontend.
var classes = [...]struct {
	mask         uint32
	marks, drops set
	route        func(service.Frontend) service.Route
}{
	{maskPod, podMarks, podDrops, func(f service.Frontend) service.Route { return f.Pod }},
	{maskHost, hostMarks, hostDrops, func(f service.Frontend) service.Route { return f.Host }},
	{maskRemote, remoteMarks, remoteDrops, func(f service.Frontend) service.Route { return f.Remote }},
}

// element names an element of a set.
type element struct {
	family service.Family
	set    set
	key    string // the bytes that the kernel has
}

// Marks of ours have this tag. Bits 14 and 15 are never set: kube-proxy, kubelet and package masq give them a meaning.
const (
	markTag  = 0xaa400000
	markMask = 0xffc00000
	lowBits  = 14
	maxMark  = 1 << 20 // numbers
)

// makeMark returns the mark of a number.
func makeMark(n uint32) uint32 { return markTag | n>>lowBits<<(lowBits+2) | n&(1<<lowBits-1) }

// markNumber is the reverse of makeMark.
func markNumber(m uint32) (n uint32, ok bool) {
	n = m&^markMask>>(lowBits+2)<<lowBits | m&(1<<lowBits-1)
	return n, makeMark(n) == m
}

// pool is which backends a virtual server by mark has.
type pool uint8

const (
	clusterPool pool = iota
	localPool
	noPool
)

func poolOf(a service.Action) pool {
	switch a {
	case service.ToCluster:
		return clusterPool
	case service.ToLocal:
		return localPool
	}
	return noPool
}

func (p pool) backends(port *service.PortProgram) []service.Backend {
	switch p {
	case clusterPool:
		return port.Cluster
	case localPool:
		return port.Local
	}
	return nil
}

// markOwner is what a mark belongs to as long as it is in use.
type markOwner struct {
	name     service.Name
	port     string
	protocol service.Protocol
	family   service.Family
	pool     pool
}

// wantServer is a virtual server that is wanted. Its backends belong to the program.
type wantServer struct {
	Settings
	protocol service.Protocol
	backends []service.Backend
	name     service.Name
	mark     markOwner // of a virtual server by mark
}

// objects gets what a program becomes.
type objects interface {
	server(Key, wantServer)
	element(e element, data uint32)
	vip(netip.Addr)
	markOf(o markOwner, port *service.PortProgram) uint32
	nodePorts(service.Family) []netip.Addr // the addresses at which NodePorts are
	claimed(Key) bool                      // a Service has an address of the node and a port for itself: there is no NodePort there
}

// check says what is wrong with a program for this dataplane; who could not say so here would get it from the kernel, or worse not.
func check(p service.Program, scheduler string) error {
	var errs []error
	for i := range p.Ports {
		port := &p.Ports[i]
		for _, b := range slices.Concat(port.Cluster, port.Local) {
			if service.FamilyOf(b.Addr.Addr()) != port.Family {
				errs = append(errs, fmt.Errorf("port %q: endpoint %s is not of %s, as the port is", port.Port, b.Addr, port.Family))
				break
			}
		}
		if port.Protocol != service.TCP && port.Protocol != service.UDP && port.Protocol != service.SCTP {
			errs = append(errs, fmt.Errorf("port %q: %s is unknown; want TCP, UDP or SCTP", port.Port, port.Protocol))
		}
		if _, err := settings(port, scheduler); err != nil {
			errs = append(errs, fmt.Errorf("port %q: %w", port.Port, err))
		}
		for _, f := range port.Frontends {
			if f.Kind != service.NodePort && service.FamilyOf(f.Addr) != port.Family {
				errs = append(errs, fmt.Errorf("port %q: %s is not of %s, as the port is", port.Port, f, port.Family))
			}
		}
	}
	return errors.Join(errs...)
}

func settings(port *service.PortProgram, scheduler string) (Settings, error) {
	if port.Scheduler != "" {
		scheduler = port.Scheduler
	}
	name, flags, err := parseScheduler(scheduler)
	if err != nil {
		return Settings{}, err
	}
	s := Settings{Scheduler: name, Flags: flags}
	if port.Affinity > 0 {
		s.Flags |= Persistent
		s.Timeout = uint32(max(port.Affinity/time.Second, 1))
	}
	return s, nil
}

// expand tells what a program becomes: the same for the same program, as long as the marks are.
func expand(p *service.Program, scheduler string, to objects) {
	for i := range p.Ports {
		port := &p.Ports[i]
		if len(port.Frontends) == 0 {
			continue
		}
		s, err := settings(port, scheduler)
		if err != nil {
			continue // check has said so
		}
		e := expansion{program: p, port: port, settings: s, to: to}
		for _, f := range port.Frontends {
			if f.Kind != service.NodePort || port.Affinity == 0 {
				e.frontend(f)
				continue
			}
			// A persistent virtual server by mark does not translate the port (ip_vs_sched_persist), so there is one at each address.
			for _, f.Addr = range to.nodePorts(port.Family) {
				if !to.claimed(addrKey(port, f)) {
					e.frontend(f)
				}
			}
		}
		for _, b := range port.Cluster {
			e.backend(b)
		}
		for _, b := range port.Local {
			e.backend(b)
		}
	}
}

// addrKey is the virtual server at a frontend's address.
func addrKey(port *service.PortProgram, f service.Frontend) Key {
	return Key{Family: port.Family, Protocol: port.Protocol, Addr: netip.AddrPortFrom(f.Addr, f.Port)}
}

// expansion is one port at work.
type expansion struct {
	program  *service.Program
	port     *service.PortProgram
	settings Settings
	to       objects
	marked   [noPool + 1]bool // that has its server
}

func (e *expansion) frontend(f service.Frontend) {
	key := frontendKey(e.port.Family, f.Addr, e.port.Protocol, f.Port)
	var masquerade uint32
	for _, c := range classes {
		if c.route(f).Masquerade {
			masquerade |= c.mask
		}
	}
	byAddr := f.Addr.IsValid()
	if byAddr {
		e.server(addrKey(e.port, f), poolOf(f.Remote.Action), markOwner{})
		e.element(frontends, key, masquerade)
		if f.Kind != service.NodePort {
			e.to.vip(f.Addr)
		}
	}
	for _, c := range classes {
		action := c.route(f).Action
		switch {
		case action == service.Drop:
			e.element(c.drops, key, 0)
		case byAddr && poolOf(action) == poolOf(f.Remote.Action): // the server at the address
		default:
			e.element(c.marks, key, e.mark(poolOf(action), masquerade, byAddr))
		}
	}
	if f.Restricted {
		e.element(restricted, key, 0)
		for _, p := range e.port.SourceRanges {
			e.element(sources, sourceKey(key, p), 0)
		}
	}
}

func (e *expansion) element(s set, key string, data uint32) {
	e.to.element(element{e.port.Family, s, key}, data)
}

func (e *expansion) server(k Key, p pool, o markOwner) {
	s := e.settings
	if k.Mark != 0 && s.Flags&Persistent != 0 && e.translates(p) {
		s = Settings{Scheduler: "sh"}
	}
	e.to.server(k, wantServer{Settings: s, protocol: e.port.Protocol, backends: p.backends(e.port), name: e.program.Name, mark: o})
}

// translates reports whether a backend has another port than a frontend. A persistent virtual server by mark cannot do that; clients are then kept on one backend by
// hashing their address, as long as the backends stay.
func (e *expansion) translates(p pool) bool {
	for _, f := range e.port.Frontends {
		for _, b := range p.backends(e.port) {
			if b.Addr.Port() != f.Port {
				return true
			}
		}
	}
	return false
}

// mark returns the mark of a pool, whose virtual server it has made. A packet to an address is known by that in nat postrouting, only one to a NodePort by its mark; so
// the classes of the NodePort are the mark's.
func (e *expansion) mark(p pool, masquerade uint32, byAddr bool) uint32 {
	o := markOwner{e.program.Name, e.port.Port, e.port.Protocol, e.port.Family, p}
	m := e.to.markOf(o, e.port)
	if e.marked[p] {
		return m
	}
	e.marked[p] = true
	if byAddr { // is there a NodePort too?
		masquerade = 0
		for _, f := range e.port.Frontends {
			for _, c := range classes {
				if f.Kind == service.NodePort && c.route(f).Masquerade {
					masquerade |= c.mask
				}
			}
		}
	}
	e.server(Key{Family: e.port.Family, Mark: m}, p, o)
	e.element(marks, markKey(m), masquerade|uint32(e.port.Protocol)<<protocolShift)
	return m
}

func (e *expansion) backend(b service.Backend) {
	if b.Local {
		a := b.Addr.Addr()
		e.element(hairpin, string(a.AsSlice())+string(a.AsSlice()), 0)
	}
}

// frontendKey is address . protocol . port, each padded to four bytes; the zero address stands for all of the node's.
func frontendKey(f service.Family, a netip.Addr, p service.Protocol, port uint16) string {
	if !a.IsValid() {
		a = netip.IPv4Unspecified()
		if f == service.IPv6 {
			a = netip.IPv6Unspecified()
		}
	}
	var buf [24]byte
	b := append(buf[:0], a.AsSlice()...)
	b = append(b, byte(p), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, port)
	return string(append(b, 0, 0))
}

// parseFrontendKey is the reverse; the address zero becomes the invalid one.
func parseFrontendKey(key string) (a netip.Addr, p service.Protocol, port uint16, ok bool) {
	n := len(key) - 8
	a, ok = netip.AddrFromSlice([]byte(key[:max(n, 0)]))
	if !ok {
		return netip.Addr{}, 0, 0, false
	}
	if a.IsUnspecified() {
		a = netip.Addr{}
	}
	return a, service.Protocol(key[n]), uint16(key[n+4])<<8 | uint16(key[n+5]), true
}

// sourceKey is a frontend's key with . prefix length . prefix.
func sourceKey(frontend string, p netip.Prefix) string {
	b := binary.NativeEndian.AppendUint32([]byte(frontend), uint32(p.Bits()))
	return string(append(b, p.Masked().Addr().AsSlice()...))
}

// prefixLength is that in a sourceKey.
func prefixLength(f service.Family, key string) int {
	n := len(frontendKey(f, netip.Addr{}, 0, 0))
	return int(binary.NativeEndian.Uint32([]byte(key[n : n+4])))
}

func markKey(m uint32) string { return string(binary.NativeEndian.AppendUint32(nil, m)) }

func parseMarkKey(key string) uint32 { return binary.NativeEndian.Uint32([]byte(key)) }

func vipKey(a netip.Addr) string { return string(a.AsSlice()) }
