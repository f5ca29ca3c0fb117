package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
)

// Sentinels for errors.Is. Each has a type below that carries the facts.
var (
	ErrExhausted    = errors.New("exhausted")
	ErrInUse        = errors.New("address in use")
	ErrNotInRange   = errors.New("address not in range")
	ErrInvalidOwner = errors.New("invalid owner")
	ErrMismatch     = errors.New("lease does not match the request")
	ErrDuplicate    = errors.New("duplicate podCIDR")
	// ErrNotFound also matches fs.ErrNotExist.
	ErrNotFound = fmt.Errorf("ipam: no lease: %w", fs.ErrNotExist)
)

// ExhaustedError says that nothing is free. It matches [ErrExhausted].
type ExhaustedError struct {
	Range       string // the range set or cluster CIDRs, as "10.0.0.1-10.0.0.254" or "10.0.0.0/16 by /24"
	Used        uint64 // handed out
	Quarantined uint64 // released, and not to be reused yet (node blocks only)
	Capacity    uint64 // what could be handed out with nothing in use
}

func (e *ExhaustedError) Error() string {
	q := ""
	if e.Quarantined > 0 {
		q = fmt.Sprintf(", %d in quarantine", e.Quarantined)
	}
	return fmt.Sprintf("range %s is exhausted: %d of %d in use%s", e.Range, e.Used, e.Capacity, q)
}

// Is makes errors.Is(err, ErrExhausted) work.
func (e *ExhaustedError) Is(target error) bool { return target == ErrExhausted }

// InUseError says that the address asked for is leased to another owner. It matches [ErrInUse].
type InUseError struct {
	Addr  netip.Addr
	Owner Owner // who has it
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("address %s is in use by %s", e.Addr, e.Owner)
}

// Is makes errors.Is(err, ErrInUse) work.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// NotInRangeError says that the address asked for is not for hand-out. It matches [ErrNotInRange].
type NotInRangeError struct {
	Addr   netip.Addr
	Reason string // "is outside every range", "is a gateway", "is reserved", ...
}

func (e *NotInRangeError) Error() string {
	return fmt.Sprintf("address %s %s", e.Addr, e.Reason)
}

// Is makes errors.Is(err, ErrNotInRange) work.
func (e *NotInRangeError) Is(target error) bool { return target == ErrNotInRange }

// OwnerError says that an owner, or a node name, cannot be one. It matches [ErrInvalidOwner].
type OwnerError struct {
	Field string // "containerID", "ifname", "node"
	Value string
	Want  string // what is allowed
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("%s %q: %s", e.Field, e.Value, e.Want)
}

// Is makes errors.Is(err, ErrInvalidOwner) work.
func (e *OwnerError) Is(target error) bool { return target == ErrInvalidOwner }

// MismatchError says that the owner already holds a lease, but not one that this request or this configuration would give: a static request
// for other addresses, or ranges that were changed while it held the old ones. Release it first. It matches [ErrMismatch].
type MismatchError struct {
	Owner Owner
	Held  []netip.Prefix
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s already holds %v, which is not what the request and the ranges ask for: release it first", e.Owner, e.Held)
}

// Is makes errors.Is(err, ErrMismatch) work.
func (e *MismatchError) Is(target error) bool { return target == ErrMismatch }

// DuplicateError says that two nodes claim overlapping podCIDRs. It matches [ErrDuplicate].
type DuplicateError struct {
	Node, Other           string // who claims, and who has it
	PodCIDR, OtherPodCIDR netip.Prefix
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("node %s: podCIDR %s overlaps podCIDR %s of node %s", e.Node, e.PodCIDR, e.OtherPodCIDR, e.Other)
}

// Is makes errors.Is(err, ErrDuplicate) work.
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

// ConfigError is one fault of a configuration. Constructors and Validate join all of them.
type ConfigError struct {
	Field string // as "rangeSets[0][1].start"
	Value string
	Want  string // what is allowed
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Field, e.Value, e.Want)
}
