package ipam

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Range is part of a subnet from which pod addresses are handed out. The zero Start is the first address after the network address, the zero End the last
// one before the broadcast address (IPv4) or the last of all (IPv6), the zero Gateway the first address after the network address. The network
// address, an IPv4 broadcast address and the gateways of all ranges are never handed out, even between Start and End.
type Range struct {
	Subnet  netip.Prefix // no host bits; at most /30 or /126
	Start   netip.Addr
	End     netip.Addr
	Gateway netip.Addr // in the subnet, or an IPv6 link-local address
}

// PodConfig says what a [PodAllocator] hands out.
type PodConfig struct {
	// RangeSets has one element per address that a pod gets: one for IPv4, two for dual-stack, at most MaxRangeSets. The ranges of a set are
	// of one family and are used one after the other. No range overlaps another one, in whatever set.
	RangeSets [][]Range
	// Reserved are addresses never handed out. Those outside the ranges do no harm.
	Reserved []netip.Addr
	// ReuseDelay is how long a released address rests while others are free. When none is, the longest-free one is used. 0 is no delay:
	// round robin alone keeps a released address back for as long as it can.
	ReuseDelay time.Duration
}

// Owner is who holds a lease.
type Owner struct {
	ContainerID string // 1 to 128 bytes of A-Z a-z 0-9 _ . - beginning with a letter or digit, without ".."
	Ifname      string // 1 to 15 bytes, without '/', ':', '%', space and control bytes; not "." or ".."
}

func (o Owner) String() string { return o.ContainerID + "/" + o.Ifname }

// Address is one address of a lease.
type Address struct {
	Prefix  netip.Prefix // the address, with the length of its subnet
	Gateway netip.Addr   // invalid if the address lies outside the configured ranges
}

// Request is what an owner asks for.
type Request struct {
	// Addrs are addresses that the owner must get, at most one of each range set. The other sets give any.
	// A static request does not wait for the reuse delay.
	Addrs []netip.Addr
}

// Lease is an owner with its addresses, in the order of the range sets.
type Lease struct {
	Owner     Owner
	Addresses []Address
}

// Stats are the figures of one moment.
type Stats struct {
	Leases    int             // held, including those outside the configured ranges
	RangeSets []RangeSetStats // one per range set
}

// RangeSetStats are the figures of one range set. Capacity saturates.
type RangeSetStats struct {
	Range    string // "10.0.0.1-10.0.0.254"
	Capacity uint64 // addresses that can be handed out with nothing in use
	Used     uint64 // leased
	Resting  uint64 // free, but released less than ReuseDelay ago
}

// PodAllocator hands out pod addresses.
type PodAllocator struct{}

// NewPodAllocator validates cfg. It does not touch the store.
func NewPodAllocator(store Store, cfg PodConfig) (*PodAllocator, error) {
	return nil, errors.ErrUnsupported
}

// Allocate gives the owner one address of every range set, or none at all. An owner that holds a lease gets it again; if it is not what
// the request and the ranges ask for, that is a [*MismatchError].
func (p *PodAllocator) Allocate(ctx context.Context, owner Owner, req Request) ([]Address, error) {
	return nil, errors.ErrUnsupported
}

// Release frees what the owner holds, also outside the configured ranges. Holding nothing is no error.
func (p *PodAllocator) Release(ctx context.Context, owner Owner) error {
	return errors.ErrUnsupported
}

// Lookup returns what the owner holds, and an error that matches [ErrNotFound] and fs.ErrNotExist if that is nothing.
func (p *PodAllocator) Lookup(ctx context.Context, owner Owner) ([]Address, error) {
	return nil, errors.ErrUnsupported
}

// Retain releases every lease whose owner is not in valid, and returns those owners in order.
func (p *PodAllocator) Retain(ctx context.Context, valid []Owner) (released []Owner, err error) {
	return nil, errors.ErrUnsupported
}

// Leases returns all leases in the order of their owners.
func (p *PodAllocator) Leases(ctx context.Context) ([]Lease, error) {
	return nil, errors.ErrUnsupported
}

// Stats returns the figures of this moment.
func (p *PodAllocator) Stats(ctx context.Context) (Stats, error) {
	return Stats{}, errors.ErrUnsupported
}
