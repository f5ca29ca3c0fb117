package nft

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// setKind is one of the sets and maps of a table.
type setKind uint8

const (
	setFrontends setKind = iota
	setEndpoints
	setActive
	setClusterIPs
	setClasses
	setAffinity
	setRestricted
	setSources
	setHairpin
	setKinds
)

// sizedKinds are the sets that grow with the number of Services and endpoints. The kernel keeps a set with a size in a table of fixed length: elements are added in half the time, and a dump never misses one,
// as it may while a table without a size grows (Linux 6.18, see package nfnl). A set that is full is replaced by a larger one with another name.
const sizedKinds = 4

// leastSize is the size of the smallest set.
const leastSize = 1 << 10

var setNames = [setKinds]string{"frontends", "endpoints", "active", "cluster-ips", "classes", "affinity", "restricted", "sources", "hairpin"}

// The two endpoint sets of a port: part of the keys of active and affinity, and the highest bit of an endpoint's index.
const (
	kindCluster = 0
	kindLocal   = 1
)

// family is what differs between IPv4 and IPv6, and how large the sets are.
type family struct {
	service  service.Family
	nf       nfnl.Family
	addr     nfnl.Type
	words    uint32 // registers that an address takes
	saddr    uint32 // offsets in the IP header
	daddr    uint32
	filler   uint32 // offset of a field of the header which address, port and four bytes more fit into
	loopback netip.Prefix
	sizes    sizes
}

// sizes are those of the sets that have one.
type sizes [sizedKinds]uint32

func families() [2]family {
	return [2]family{
		{service: service.IPv4, nf: nfnl.IPv4, addr: nfnl.TypeAddr4, words: 1, saddr: 12, daddr: 16, filler: 12, loopback: netip.MustParsePrefix("127.0.0.0/8")},
		{service: service.IPv6, nf: nfnl.IPv6, addr: nfnl.TypeAddr6, words: 4, saddr: 8, daddr: 24, filler: 8, loopback: netip.MustParsePrefix("::1/128")},
	}
}

// name returns the name of a set: with its size, if it has one.
func (f *family) name(k setKind) string {
	if k < sizedKinds {
		return setNames[k] + "-" + strconv.FormatUint(uint64(f.sizes[k]), 10)
	}
	return setNames[k]
}

// set returns how a set is declared.
func (f *family) set(k setKind, o Options) nfnl.Set {
	mark, frontend := nfnl.TypeMark, nfnl.Concat(f.addr, nfnl.TypeProto, nfnl.TypePort)
	s := nfnl.Set{Name: f.name(k)}
	switch k {
	case setFrontends:
		s.Key, s.Data = frontend, nfnl.Concat(mark, mark, mark)
	case setEndpoints:
		s.Key, s.Data = nfnl.Concat(mark, mark), nfnl.Concat(f.addr, nfnl.TypePort)
	case setActive:
		s.Key = nfnl.Concat(f.addr, nfnl.TypePort, mark, mark)
	case setClusterIPs:
		s.Key = f.addr
	case setClasses:
		s.Key, s.Data = mark, nfnl.TypeVerdict
	case setAffinity:
		s.Key, s.Data = nfnl.Concat(mark, mark, f.addr), nfnl.Concat(mark, f.addr, nfnl.TypePort)
		s.Timeout, s.Dynamic, s.Size = true, true, o.AffinityClients
	case setRestricted:
		s.Key = frontend
	case setSources:
		s.Key = nfnl.Concat(mark, mark, f.addr)
	case setHairpin:
		s.Key = nfnl.Concat(f.addr, f.addr)
	}
	if k < sizedKinds {
		s.Size = f.sizes[k]
	}
	return s
}

// sizeFor returns the size of a set that has to hold n elements, and some time later more.
func sizeFor(n int, least uint32) uint32 {
	size := max(least, 1)
	for uint64(size) < 2*uint64(n) && size < 1<<31 {
		size *= 2
	}
	return size
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
func (v *value) frontend(f *family, p service.Protocol, x *service.Frontend) *value {
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
func (f *family) readAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b[:4*f.words])
	return a
}

// readEndpoint reads an address and port written by endpoint.
func (f *family) readEndpoint(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(f.readAddr(b), binary.BigEndian.Uint16(b[4*f.words:]))
}
