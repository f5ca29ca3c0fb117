// Package ipam hands out addresses: a [NodeAllocator] cuts cluster CIDRs into node podCIDRs, a [PodAllocator] cuts a node's podCIDR
// into pod addresses.
//
// What it does: both allocators give all families or none, give the same owner the same answer, and go round robin, so that what was just
// released is reused last. A pod's lease belongs to an [Owner], the container ID and interface name of CNI; a podCIDR belongs to a node name.
// Allocating and releasing costs the same at 65,000 allocations as at one, in an IPv4 /24 as in an IPv6 /64: used addresses are bits in
// pages that exist only where something is in use.
//
// What it owns: a PodAllocator owns the records of its [Store] and nothing else; a NodeAllocator keeps its blocks in memory and is rebuilt at
// start from the nodes' existing podCIDRs through [NodeAllocator.Occupy]. Several PodAllocators, in several processes, may share
// one store: each notices by the store's version that another one wrote and reads the records again.
//
// What it never touches: network, broadcast and gateway addresses, reserved addresses, and leases that lie outside the configured ranges;
// those stay valid until they are released, which always works.
//
// Failure: every fault of a configuration is reported at once, as a [*ConfigError] with the name of the field. Running out is an
// [*ExhaustedError], an address taken by somebody else an [*InUseError], an address that is not for hand-out a [*NotInRangeError], an
// owner that cannot be one an [*OwnerError], two nodes with one block a [*DuplicateError]. When the store fails, nothing is allocated.
//
// Privileges and kernel version: none; the package imports only the standard library and does no input or output. The durable store is
// ipam/filestore. The contract that a Store must meet is ipam/ipamtest.
//
// Concurrency: both allocators may be used by several goroutines.
package ipam
