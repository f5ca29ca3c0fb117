package ipam

import (
	"errors"
	"net/netip"
	"time"
)

// NodeConfig says what a [NodeAllocator] hands out.
type NodeConfig struct {
	// ClusterCIDRs are the ranges that are cut into node blocks, of one family or of both. The order of the families is the order of
	// a node's podCIDRs. Ranges of one family are used one after the other.
	ClusterCIDRs []netip.Prefix
	MaskSizeIPv4 int            // length of an IPv4 block; 0 means 24
	MaskSizeIPv6 int            // length of an IPv6 block; 0 means 64
	Occupied     []netip.Prefix // never handed out: service CIDRs, the nodes' own networks
	// Quarantine is how long a released block is kept back, because routes to it may still be around; only the node that released it
	// gets it back earlier. 0 means none; five minutes is a good value where routes are programmed in a cloud.
	Quarantine time.Duration
}

// NodeStats are the figures of one cluster CIDR. Capacity saturates.
type NodeStats struct {
	ClusterCIDR netip.Prefix
	MaskSize    int
	Capacity    uint64 // blocks that are not occupied
	Used        uint64 // held by nodes
	Quarantined uint64 // released, and not to be reused yet
}

// NodeAllocator hands out podCIDRs to nodes, one block per family or none.
type NodeAllocator struct{}

// NewNodeAllocator validates cfg.
func NewNodeAllocator(cfg NodeConfig) (*NodeAllocator, error) {
	return nil, errors.ErrUnsupported
}

// Allocate gives the node one block per family, or none at all. A node that has its blocks gets them again.
func (a *NodeAllocator) Allocate(node string) ([]netip.Prefix, error) {
	return nil, errors.ErrUnsupported
}

// Occupy adopts the blocks that a node already has, all of them or none. Blocks of another size than configured are adopted as they are. A block that overlaps one of another
// node is a [*DuplicateError], one outside the ranges a [*NotInRangeError].
func (a *NodeAllocator) Occupy(node string, podCIDRs []netip.Prefix) error {
	return errors.ErrUnsupported
}

// Release puts the node's blocks into quarantine and returns them. A node without blocks is no error.
func (a *NodeAllocator) Release(node string) []netip.Prefix {
	return nil
}

// Lookup returns the node's blocks, nil if it has none.
func (a *NodeAllocator) Lookup(node string) []netip.Prefix {
	return nil
}

// AddRange adds a cluster CIDR to the live pool, of a family that the pool has.
func (a *NodeAllocator) AddRange(clusterCIDR netip.Prefix) error {
	return errors.ErrUnsupported
}

// Stats returns the figures of each range in the order of configuration.
func (a *NodeAllocator) Stats() []NodeStats {
	return nil
}
