package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// The sets and maps of a table.
const (
	setFrontends  = "frontends"
	setClasses    = "classes"
	setEndpoints  = "endpoints"
	setActive     = "active"
	setAffinity   = "affinity"
	setRestricted = "restricted"
	setSources    = "sources"
	setClusterIPs = "cluster-ips"
	setHairpin    = "hairpin"
)

// The two endpoint sets of a port: part of the keys of active and affinity, and the highest bit of an endpoint's index.
const (
	kindCluster = 0
	kindLocal   = 1
	localIndex  = uint32(kindLocal) << 31
)

// family is what differs between IPv4 and IPv6.
type family struct {
	service  service.Family
	nf       nfnl.Family
	addr     nfnl.Type
	words    uint32 // registers that an address takes
	saddr    uint32 // offsets in the IP header
	daddr    uint32
	filler   uint32 // offset of a field of the header which address, port and four bytes more fit into
	loopback netip.Prefix
}

var (
	ip4 = family{service.IPv4, nfnl.IPv4, nfnl.TypeAddr4, 1, 12, 16, 12, netip.MustParsePrefix("127.0.0.0/8")}
	ip6 = family{service.IPv6, nfnl.IPv6, nfnl.TypeAddr6, 4, 8, 24, 8, netip.MustParsePrefix("::1/128")}
)

func families() [2]family { return [2]family{ip4, ip6} }

// sets returns the sets of a table.
func (f family) sets(o Options) []nfnl.Set {
	mark, frontend := nfnl.TypeMark, nfnl.Concat(f.addr, nfnl.TypeProto, nfnl.TypePort)
	return []nfnl.Set{
		{Name: setFrontends, Key: frontend, Data: nfnl.Concat(mark, mark, mark)},
		{Name: setClasses, Key: mark, Data: nfnl.TypeVerdict},
		{Name: setEndpoints, Key: nfnl.Concat(mark, mark), Data: nfnl.Concat(f.addr, nfnl.TypePort)},
		{Name: setActive, Key: nfnl.Concat(f.addr, nfnl.TypePort, mark, mark)},
		{
			Name: setAffinity, Key: nfnl.Concat(mark, mark, f.addr), Data: nfnl.Concat(mark, f.addr, nfnl.TypePort),
			Timeout: true, Dynamic: true, Size: o.AffinityClients,
		},
		{Name: setRestricted, Key: frontend},
		{Name: setSources, Key: nfnl.Concat(mark, mark, f.addr)},
		{Name: setClusterIPs, Key: f.addr},
		{Name: setHairpin, Key: nfnl.Concat(f.addr, f.addr)},
	}
}

// value is a key or the data of an element while it is made.
type value struct {
	n int
	b [48]byte
}

func (v *value) reset() *value {
	v.n = 0
	return v
}

func (v *value) bytes() []byte { return v.b[:v.n] }

func (v *value) addr(a netip.Addr) *value {
	if a.Is4() {
		b := a.As4()
		v.n += copy(v.b[v.n:], b[:])
		return v
	}
	b := a.As16()
	v.n += copy(v.b[v.n:], b[:])
	return v
}

// word adds a number in the machine's order, as numgen and immediate leave it in a register.
func (v *value) word(n uint32) *value {
	binary.NativeEndian.PutUint32(v.b[v.n:], n)
	v.n += 4
	return v
}

func (v *value) proto(p service.Protocol) *value {
	v.b[v.n], v.b[v.n+1], v.b[v.n+2], v.b[v.n+3] = byte(p), 0, 0, 0
	v.n += 4
	return v
}

func (v *value) port(p uint16) *value {
	v.b[v.n], v.b[v.n+1], v.b[v.n+2], v.b[v.n+3] = byte(p>>8), byte(p), 0, 0
	v.n += 4
	return v
}

// frontend adds the key of a frontend. A NodePort has the unspecified address.
func (v *value) frontend(f family, p service.Protocol, x *service.Frontend) *value {
	if x.Kind != service.NodePort {
		return v.addr(x.Addr).proto(p).port(x.Port)
	}
	n := int(4 * f.words)
	clear(v.b[v.n : v.n+n])
	v.n += n
	return v.proto(p).port(x.Port)
}

func (v *value) endpoint(a netip.AddrPort) *value { return v.addr(a.Addr()).port(a.Port()) }

// readWord reads a number written by word.
func readWord(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// readAddr reads an address written by addr.
func (f family) readAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b[:4*f.words])
	return a
}

// readEndpoint reads an address and port written by endpoint.
func (f family) readEndpoint(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(f.readAddr(b), binary.BigEndian.Uint16(b[4*f.words:]))
}
